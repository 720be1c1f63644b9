"""Genes stand for parameters and come back as them."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from brickyard.core.errors import ConfigError
from brickyard.search.genes import Genes

SPACE = {
    "depth": IntDistribution(2, 6, step=2),
    "kernel": CategoricalDistribution([3, 5, 7]),
    "op": CategoricalDistribution(["skip", "conv"]),
    "on": CategoricalDistribution([False, True]),
    "mixed": CategoricalDistribution([1, True, 1.0, None]),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "share": FloatDistribution(0.0, 1.0, step=0.25),
    "many": IntDistribution(1, 1000),
}


def test_columns_know_size_and_order():
    columns = {gene.name: (gene.size, gene.ordered) for gene in Genes(SPACE).columns}
    assert columns == {
        "depth": (3, True),
        "kernel": (3, True),
        "op": (2, False),
        "on": (2, False),
        "mixed": (4, False),
        "rate": (0, True),
        "share": (5, True),
        "many": (0, True),
    }


def test_drawn_points_come_back(rng):
    genes = Genes(SPACE)
    rows = genes.draw(200, rng)
    params = [genes.params(row) for row in rows]
    for found in params:
        assert all(
            SPACE[name]._contains(SPACE[name].to_internal_repr(value)) for name, value in found.items()
        )
    again = genes.rows(params)
    discrete = genes.sizes > 0
    assert (again[:, discrete] == rows[:, discrete]).all()
    assert np.abs(again[:, 5] - rows[:, 5]).max() < 1e-9
    assert np.abs(again[:, 7] - rows[:, 7]).max() <= 0.5 / 999 + 1e-9
    assert {type(found["many"]) for found in params} == {int}
    assert {repr(found["mixed"]) for found in params} == {"1", "True", "1.0", "None"}


def test_all_points_of_a_discrete_space():
    genes = Genes({name: SPACE[name] for name in ("depth", "kernel", "op")})
    rows = genes.all()
    assert genes.count == len(rows) == len(np.unique(rows, axis=0)) == 18
    assert Genes(SPACE).count is None
    with pytest.raises(ConfigError, match="continuous parameters has no list of all points"):
        Genes(SPACE).all()


def test_what_is_not_in_the_space_is_refused():
    genes = Genes({"kernel": SPACE["kernel"]})
    with pytest.raises(ConfigError, match=r"kernel = 4 is not in the space; allowed: \[3, 5, 7\]"):
        genes.rows([{"kernel": 4}])
    with pytest.raises(ConfigError, match="lacks 'kernel'"):
        genes.rows([{"depth": 4}])
