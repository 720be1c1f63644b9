"""Candidates of small and large spaces."""

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution

from brickyard.search.candidates import candidates
from brickyard.search.genes import Genes

LAYERS = {f"layer{place}": CategoricalDistribution([1, 2, 3, 4]) for place in range(12)}


def predict(rows):
    """Two objectives that pull at different halves of the layers."""
    return np.stack([rows[:, :6].sum(1), rows[:, 6:].sum(1)], axis=1)


def test_a_small_space_is_listed_without_what_is_known(rng):
    genes = Genes({name: LAYERS[name] for name in list(LAYERS)[:4]})
    known = genes.all()[:10]
    found = candidates(genes, predict=predict, best=known[:2], num_objectives=2, known=known, rng=rng)
    assert len(found) == 4**4 - 10
    assert not {tuple(row) for row in found} & {tuple(row) for row in known}


def test_a_large_space_is_searched_on_predictions(rng):
    genes = Genes(LAYERS)
    known = genes.draw(5, rng)
    found = candidates(genes, predict=predict, best=known, num_objectives=2, known=known, rng=rng)
    assert 500 < len(found) <= 3000
    assert len(np.unique(found, axis=0)) == len(found)
    drawn = predict(genes.draw(3000, rng)).sum(1)
    assert predict(found).sum(1).min() < drawn.min() - 3
    assert ((found >= 0) & (found < 4) & (found == np.round(found))).all()


def test_constraints_count_in_the_search(rng):
    genes = Genes(LAYERS)

    def bounded(rows):
        return np.hstack([predict(rows), 10.0 - rows[:, :1] * 5 - rows[:, 6:7] * 5])

    found = candidates(
        genes, predict=bounded, best=genes.draw(2, rng), num_objectives=2, known=np.zeros((0, 12)), rng=rng
    )
    kept = bounded(found)[:, 2] <= 0
    assert kept.mean() > 0.6


def test_continuous_genes_stay_in_range(rng):
    genes = Genes(
        {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1), "c": CategoricalDistribution("xyz")}
    )
    found = candidates(
        genes,
        predict=lambda rows: rows[:, :1],
        best=genes.draw(1, rng),
        num_objectives=1,
        known=np.zeros((0, 3)),
        rng=rng,
    )
    assert ((found >= 0) & (found[:, :2].max() <= 1)).all()
    assert found[:, 0].min() < 0.01
