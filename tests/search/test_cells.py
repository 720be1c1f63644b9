"""Encodings of cells: what they see of the graph, and what they refuse."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution

from brickyard.core.errors import ConfigError
from brickyard.search.cells import Cells
from brickyard.search.genes import Genes
from brickyard.search.predictors.base import PREDICTORS
from brickyard.search.predictors.select import held_out, rank_correlation

EDGES = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
KINDS = ["absent", "identity", "weighted", "weighted", "plain"]
GENES = Genes({f"edge{place}": CategoricalDistribution(list("abcde")) for place in range(6)})
CELLS = Cells(EDGES, KINDS)


@pytest.mark.parametrize("name", ["cell", "cell_paths", "cell_all"])
def test_features_lie_in_the_unit_range(name):
    found = CELLS.encodings()[name](GENES, GENES.all())
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_dead_edge_changes_nothing_of_the_summary():
    # node 2 leads nowhere, so what is on the edges towards it does nothing
    rows = np.array([[2, 3, 2, 1, 3, 0], [2, 0, 4, 1, 3, 0]], dtype=float)
    first, second = CELLS.summary(GENES, rows)
    assert (first == second).all()


def test_a_path_that_skips_and_depth_are_seen():
    plain = np.array([[0, 0, 0, 1, 0, 0]], dtype=float)
    deep = np.array([[3, 0, 3, 0, 0, 3]], dtype=float)
    width = 2 * 4
    assert CELLS.summary(GENES, plain)[0, width : width + 4].tolist() == [0, 0, 0.25, 1]
    assert CELLS.summary(GENES, deep)[0, width : width + 4].tolist() == [1, 1, 0, 0]


def test_predictors_rank_better_by_the_graph(rng):
    rows = np.unique(GENES.draw(80, rng), axis=0)
    _, whole, counts = CELLS._walk(rows.astype(int))
    convolutions = counts[:, :, 2:4].sum(2)
    skips = (whole.astype(bool) & (counts[:, :, 2:].sum(2) == 0)).any(1)
    truth = convolutions.max(1) + 2.0 * skips

    def rank(encoding):
        x = encoding(GENES, rows)
        return rank_correlation(held_out(lambda: PREDICTORS["gaussian"](0), x, truth, seed=0), truth)

    from brickyard.search.encodings import one_hot

    assert rank(CELLS.summary) > rank(one_hot)


@pytest.mark.parametrize(
    ("edges", "kinds", "message"),
    [
        ([(1, 0)], ["identity"], "must lead from a node to a higher one"),
        ([(0, 1)], ["strange"], "is none of"),
        ([], ["identity"], "at least one edge"),
        ([(1, 2)], ["identity"], "no path leads from node 0 to node 2"),
    ],
)
def test_what_is_no_cell_is_refused(edges, kinds, message):
    with pytest.raises(ConfigError, match=message):
        Cells(edges, kinds)


def test_another_space_is_refused():
    other = Genes({"a": CategoricalDistribution([1, 2])})
    with pytest.raises(ConfigError, match="do not describe a space"):
        CELLS.summary(other, other.all())
