"""Genes that play no part: which they are is found, and no two points of a search compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.space import Space
from brickyard.search import run
from brickyard.search.encodings import ENCODINGS
from brickyard.search.genes import Genes
from brickyard.search.idle import find_idle
from brickyard.search.params import SameParams, distributions

SPACE = Space(
    [Choice("depth", (1, 2, 3)), *(Choice(f"layer{place}.width", (8, 16, 32, 64)) for place in range(3))]
)


def canonical(config: Mapping[str, Any]) -> Config:
    """Layers that the depth leaves out are as wide as they can be."""
    return Config({**config, **{f"layer{place}.width": 64 for place in range(config["depth"], 3)}})


def settled_genes() -> Genes:
    genes = Genes(distributions(SPACE))
    genes.idle = find_idle(genes, SameParams(SPACE, canonical))
    return genes


def test_layers_that_a_depth_leaves_out_are_found_idle() -> None:
    genes = settled_genes()
    drawn = Genes(distributions(SPACE)).draw(200, np.random.default_rng(7))
    depth = drawn[:, 0] + 1
    expected = np.stack([np.zeros(200, dtype=bool), *(depth <= place for place in range(3))], axis=1)
    assert (~genes.active(drawn) == expected).all()
    params = [genes.params(row) for row in genes.settled(drawn)]
    assert all(Config(point) == canonical(point) for point in params)


def test_rows_draws_and_lists_are_settled() -> None:
    genes = settled_genes()
    low, high = (genes.rows([{"depth": 1, **{f"layer{k}.width": w for k in range(3)}}]) for w in (8, 64))
    assert (low[0, 2:] == high[0, 2:]).all()
    assert low[0, 1] != high[0, 1]
    assert len(genes.all()) == 4 + 4**2 + 4**3
    drawn = genes.draw(100, np.random.default_rng(0))
    assert (genes.settled(drawn) == drawn).all()


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_an_encoding_sees_nothing_of_idle_genes(name: str) -> None:
    genes = settled_genes()
    free = Genes(distributions(SPACE))
    rows = genes.rows([{"depth": 1, "layer0.width": 16, "layer1.width": 64, "layer2.width": 64}])
    whole = ENCODINGS[name](free, rows)
    seen = ENCODINGS[name](genes, rows)
    assert seen.shape == whole.shape
    assert seen.sum() < whole.sum()
    other = rows.copy()
    other[0, 2:] = 1.0
    assert (ENCODINGS[name](genes, other) == seen).all()


def test_a_space_in_which_all_points_differ_has_no_idle_genes() -> None:
    genes = Genes(distributions(SPACE))
    assert find_idle(genes, dict) is None
    assert (genes.active(genes.draw(5, np.random.default_rng(0)))).all()


def test_a_gene_whose_rest_varies_is_not_settled() -> None:
    def odd(point: Mapping[str, Any]) -> dict[str, Any]:
        rest = point["layer0.width"] if point["depth"] == 1 else point["layer1.width"]
        return {**point, "layer1.width": rest}

    genes = Genes(distributions(SPACE))
    genes.idle = find_idle(genes, odd)
    drawn = genes.draw(300, np.random.default_rng(1))
    assert (genes.settled(drawn) == drawn).all()


def test_a_gene_of_many_values_may_be_idle_too() -> None:
    def off(point: Mapping[str, Any]) -> dict[str, Any]:
        return {**point, "width": point["width"] if point["layer"] else 4096}

    width = IntDistribution(16, 4096, log=True)
    genes = Genes({"layer": CategoricalDistribution([False, True]), "width": width})
    genes.idle = find_idle(genes, off)
    rows = genes.rows([{"layer": False, "width": 300}, {"layer": True, "width": 300}])
    assert genes.active(rows).tolist() == [[True, False], [True, True]]
    assert [genes.params(row)["width"] for row in rows] == [4096, 300]


def test_a_search_evaluates_every_subnet_once_and_finds_the_best() -> None:
    seen: list[Config] = []

    def evaluate(config: Config) -> dict[str, float]:
        same = canonical(config)
        seen.append(same)
        used = [config[f"layer{place}.width"] for place in range(config["depth"])]
        return {"max:quality": float(sum(np.log2(used)) - abs(used[0] - 16)), "min:cost": float(sum(used))}

    result = run(
        space=SPACE,
        evaluate=lambda config: {name[4:]: value for name, value in evaluate(config).items()},
        objectives=["max:quality", "min:cost"],
        canonical=canonical,
        evaluations=84,
        startup=8,
        seed=0,
    )
    assert len(seen) == len(set(seen)) == 84
    assert len(result.points) == 84
