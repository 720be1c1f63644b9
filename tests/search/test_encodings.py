"""What predictors see tells points apart and lies in [0, 1]."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from brickyard.search.encodings import ENCODINGS, bits, counts, one_hot, ordinal
from brickyard.search.genes import Genes

GENES = Genes(
    {
        "a": CategoricalDistribution([3, 5, 7]),
        "b": CategoricalDistribution([3, 5, 7]),
        "op": CategoricalDistribution(["skip", "conv", "pool"]),
        "rate": FloatDistribution(0.0, 2.0),
    }
)
ROWS = np.array([[0, 2, 1, 0.25], [2, 2, 0, 1.0]])


def test_each_encoding_by_hand():
    assert one_hot(GENES, ROWS).tolist()[0] == [1, 0, 0, 0, 0, 1, 0, 1, 0, 0.25]
    assert ordinal(GENES, ROWS).tolist() == [[0, 1, 0, 1, 0, 0.25], [1, 1, 1, 0, 0, 1]]
    assert bits(GENES, ROWS).tolist()[0] == [0, 0, 0, 1, 1, 0, 0.25]
    assert counts(GENES, ROWS)[:, -3:].tolist() == [[0.5, 0, 0.5], [0, 0, 1]]


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_points_stay_apart(name, rng):
    rows = np.unique(GENES.draw(200, rng), axis=0)
    features = ENCODINGS[name](GENES, rows)
    assert features.min() >= 0
    assert features.max() <= 1
    assert len(np.unique(features, axis=0)) == len(rows)


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_no_parameters_and_no_points(name):
    assert ENCODINGS[name](Genes({}), np.zeros((3, 0))).shape == (3, 0)
    assert len(ENCODINGS[name](GENES, np.zeros((0, 4)))) == 0
