"""Proposals: new, different, and where predictors expect most."""

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution

from brickyard.core.errors import ConfigError
from brickyard.search.encodings import one_hot, ordinal
from brickyard.search.genes import Genes
from brickyard.search.propose import Measured, Proposer

GENES = Genes({f"layer{place}": CategoricalDistribution([1, 2, 3, 4]) for place in range(5)})
NONE = np.zeros((0, 5))


def truth(rows):
    return np.stack([10.0 - rows.sum(1) - 2 * (rows[:, 0] == 3), (rows**2).sum(1)], axis=1)


def known(rows, **more):
    values = truth(rows)
    return Measured(
        **{
            "rows": rows,
            "values": values,
            "limits": np.zeros((len(rows), 0)),
            "pending": NONE,
            "refused": NONE,
            **more,
        }
    )


def proposer(**more):
    return Proposer(
        GENES,
        **{
            "num_objectives": 2,
            "encodings": {"ordinal": ordinal, "one_hot": one_hot},
            "predictors": ("gaussian",),
            **more,
        },
    )


def test_proposals_are_new_and_different(rng):
    rows = np.unique(GENES.draw(30, rng), axis=0)
    pending, refused = rows[:4], rows[4:8]
    found = proposer()(known(rows[8:], pending=pending, refused=refused), 12, rng)
    assert len(np.unique(found, axis=0)) == 12
    assert not {tuple(row) for row in found} & {tuple(row) for row in rows}


def test_proposals_improve_on_chance(rng):
    rows = np.unique(GENES.draw(40, rng), axis=0)
    found = proposer()(known(rows), 10, rng)
    from brickyard.search.fronts import hypervolume

    reference = truth(GENES.all()).max(0)
    with_found = hypervolume(truth(np.vstack([rows, found])), reference)
    chance = [hypervolume(truth(np.vstack([rows, GENES.draw(10, rng)])), reference) for _ in range(5)]
    assert with_found > max(chance)


def test_constraints_are_kept_to(rng):
    def best(points):
        values = truth(points)
        return values[values[:, 1] <= 12.0, 0].min()

    rows = np.unique(GENES.draw(60, rng), axis=0)
    rows = rows[(truth(rows)[:, 0] > best(GENES.all())) | (truth(rows)[:, 1] > 12.0)]
    found = proposer(num_objectives=1, num_limits=1)(
        known(rows, values=truth(rows)[:, :1], limits=truth(rows)[:, 1:] - 12.0), 10, rng
    )
    assert best(np.vstack([rows, found])) == best(GENES.all()) < best(rows)


def test_a_reference_keeps_out_what_does_not_count(rng):
    rows = np.unique(GENES.draw(60, rng), axis=0)
    found = proposer(reference=[20.0, 10.0])(known(rows), 6, rng)
    assert (truth(found)[:, 1] <= 14.0).all()


def test_a_reference_may_bound_some_objectives_and_leave_others_to_what_was_measured(rng):
    rows = np.unique(GENES.draw(60, rng), axis=0)
    half, none, free = (
        proposer(reference=worst)(known(rows), 6, np.random.default_rng(0))
        for worst in ([None, 10.0], [None, None], None)
    )
    assert (truth(half)[:, 1] <= 14.0).all()
    assert np.array_equal(none, free)
    assert truth(free)[:, 1].max() > truth(half)[:, 1].max()


def test_the_end_of_a_space(rng):
    rows = GENES.all()
    assert len(proposer()(known(rows[2:]), 10, rng)) == 2
    assert len(proposer()(known(rows), 10, rng)) == 0


def test_predictor_and_encoding_are_chosen_and_reported(rng):
    chosen = proposer(predictors=("ridge", "gaussian"))
    chosen(known(np.unique(GENES.draw(50, rng), axis=0)), 3, rng)
    names = {(quality.predictor, quality.encoding) for quality in chosen.models[0].qualities}
    assert names == {(p, e) for p in ("ridge", "gaussian") for e in ("ordinal", "one_hot")}


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(ConfigError, match="at least one encoding and one predictor"):
        proposer(encodings={})


def test_every_fifth_point_is_drawn_for_the_first_objective_alone(rng, monkeypatch):
    rows = np.unique(GENES.draw(60, rng), axis=0)
    best = {}
    for every in (1, 5, 10**6):
        monkeypatch.setattr("brickyard.search.propose._ALONE", every)
        found = proposer()(known(rows), 10, np.random.default_rng(0))
        best[every] = truth(found)[:, 0].mean()
    assert best[1] < best[5] < best[10**6]


def test_points_drawn_for_one_objective_meet_the_constraints_and_the_worst_that_counts(rng, monkeypatch):
    monkeypatch.setattr("brickyard.search.propose._ALONE", 1)
    rows = np.unique(GENES.draw(80, rng), axis=0)
    limits = rows.sum(1, keepdims=True) - 8.0
    found = proposer(num_limits=1)(known(rows, limits=limits), 10, rng)
    assert (found.sum(1) <= 8.0).mean() > 0.7
    free, cheap = (
        truth(proposer(reference=worst)(known(rows), 10, np.random.default_rng(0)))[:, 1].mean()
        for worst in (None, [10.0, 12.0])
    )
    assert cheap < 0.6 * free
