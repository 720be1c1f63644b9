"""Domains keep what good points have, widen at their edges, and never drop what was hardly tried."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from brickyard.search.candidates import candidates
from brickyard.search.genes import Genes
from brickyard.search.narrow import Domains

GENES = Genes(
    {
        "size": CategoricalDistribution([1, 2, 3, 4, 5, 6, 7]),
        "act": CategoricalDistribution(["relu", "gelu", "none"]),
        "rate": FloatDistribution(0.0, 1.0),
    }
)


@pytest.fixture
def rows(rng):
    return GENES.draw(400, rng)


def worth(rows):
    """Best at the fourth size, without `none`, at a rate of a half."""
    return (np.abs(rows[:, 0] - 3) + 3 * (rows[:, 1] == 2) + np.abs(rows[:, 2] - 0.5))[:, None]


def test_what_good_points_have_stays_and_one_beyond(rows):
    domains = Domains(GENES, rows, worth(rows))
    size, act, rate = domains.left
    assert size.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]  # good ones have 2 to 4
    assert act.tolist() == [0.0, 1.0]
    assert 0.0 <= rate[0] < rate[1] <= 1.0


def test_a_domain_widens_when_the_front_touches_its_edge(rows):
    before = Domains(GENES, rows, worth(rows))
    edge = np.array([[5.0, 0.0, 0.5]])
    after = Domains(GENES, np.vstack([rows, edge]), np.vstack([worth(rows), [[-1.0]]]))
    assert not before.hold(np.array([[6.0, 0.0, 0.5]]))[0]
    assert after.hold(np.array([[6.0, 0.0, 0.5]]))[0]


def test_nothing_is_dropped_untried(rows):
    few = np.vstack([rows[rows[:, 1] != 2], [[3.0, 2.0, 0.5]] * 4])
    assert 2.0 in Domains(GENES, few, worth(few)).left[1]
    assert 2.0 not in Domains(GENES, np.vstack([few, few[-1:]]), worth(np.vstack([few, few[-1:]]))).left[1]


def test_without_a_good_point_all_values_stay(rows):
    assert Domains(GENES, rows[:0], worth(rows[:0])).hold(rows).all()


def test_points_are_drawn_in_the_domains(rows, rng):
    domains = Domains(GENES, rows, worth(rows))
    drawn = domains.draw(200, rng)
    assert domains.hold(drawn).all()
    assert {len(np.unique(drawn[:, column])) for column in (0, 1)} == {5, 2}


@pytest.mark.parametrize("layers", [4, 10])  # a space that is listed, and one that is searched
def test_candidates_come_from_the_domains_as_long_as_any_are_left(layers, rng):
    genes = Genes({f"layer{place}": CategoricalDistribution([1, 2, 3, 4]) for place in range(layers)})
    rows = np.unique(genes.draw(100, rng), axis=0)
    values = rows.sum(1, keepdims=True)
    domains = Domains(genes, rows, values)
    domains.left = [np.array([0.0, 1.0])] * layers

    def found(known):
        return candidates(
            genes,
            predict=lambda rows: rows.sum(1, keepdims=True),
            best=rows[:1],
            num_objectives=1,
            known=known,
            rng=rng,
            domains=domains,
        )

    assert found(rows).max() == 1.0
    if layers == 4:
        inside = np.indices((2,) * layers).reshape(layers, -1).T.astype(float)
        assert len(found(np.vstack([rows, inside]))) == 4**layers - len(
            np.unique(np.vstack([rows, inside]), axis=0)
        )
