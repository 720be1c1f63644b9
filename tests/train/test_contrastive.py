"""InfoNCE at every exit, weights by depth, and what early exits learn from the last one."""

import math

import pytest
import torch
from torch.nn import functional as F

from brickyard.core.errors import TrainError
from brickyard.train.contrastive import ExitLoss, exit_weights, info_nce

EXITS = (1, 2, 4)


def sides(*, learns: bool = True):
    """Unit vectors of queries and documents by exit, and what they were made of."""
    leaves = {exit: torch.randn(2, 5, 3, requires_grad=learns) for exit in EXITS}
    found = [{exit: F.normalize(leaf[side], dim=1) for exit, leaf in leaves.items()} for side in (0, 1)]
    return leaves, *found


def test_info_nce_is_the_mean_over_both_directions():
    queries, documents = (F.normalize(torch.randn(4, 3), dim=1) for _ in range(2))
    expected = 0.0
    for row in range(4):
        there = [math.exp(7 * float(queries[row] @ document)) for document in documents]
        back = [math.exp(7 * float(query @ documents[row])) for query in queries]
        expected -= math.log(there[row] / sum(there)) + math.log(back[row] / sum(back))
    assert float(info_nce(queries, documents, 7.0)) == pytest.approx(expected / 8, rel=1e-5)
    assert float(info_nce(torch.eye(3), torch.eye(3), 50.0)) < 1e-6


def test_weights_of_exits():
    assert exit_weights((4, 9, 18, 36), "depth") == (4 / 36, 9 / 36, 0.5, 1.0)  # arXiv 2503.03008
    assert exit_weights((2, 4), "depth-squared") == (0.25, 1.0)
    assert exit_weights(EXITS, "uniform") == (1.0, 1.0, 1.0)
    assert exit_weights(EXITS, lambda exit, last: last - exit) == (3.0, 2.0, 0.0)
    with pytest.raises(TrainError, match="weights = 'deep' is unknown; known: depth, depth-squared, uniform"):
        exit_weights(EXITS, "deep")
    for bad in (lambda exit, last: 0.0, lambda exit, last: -1.0, lambda exit, last: math.nan):
        with pytest.raises(TrainError, match="none may be negative, not all 0"):
            exit_weights(EXITS, bad)


def test_the_total_is_the_weighted_sum():
    _, queries, documents = sides(learns=False)
    losses = ExitLoss(EXITS, scale=7.0)(queries, documents)
    each = [info_nce(queries[exit], documents[exit], 7.0) for exit in EXITS]
    torch.testing.assert_close(torch.stack(list(losses.by_exit.values())), torch.stack(each))
    torch.testing.assert_close(losses.total, each[0] / 4 + each[1] / 2 + each[2])


@pytest.mark.parametrize("distill", ["kl", "cosine"])
def test_early_exits_learn_from_the_last_one_and_not_the_other_way(distill):
    leaves, queries, documents = sides()

    def first_alone(exit, last):
        return float(exit == EXITS[0])

    plain = ExitLoss(EXITS, weights=first_alone)(queries, documents).total
    taught = ExitLoss(EXITS, weights=first_alone, distill=distill, distill_weight=2.0)(queries, documents)
    gained = taught.total - plain
    assert float(gained.detach()) > 0
    gained.backward()
    assert leaves[1].grad.abs().sum() > 0
    assert leaves[2].grad is None or not leaves[2].grad.any()
    assert leaves[4].grad is None or not leaves[4].grad.any()


@pytest.mark.parametrize("distill", ["kl", "cosine"])
def test_exits_that_agree_with_the_last_have_nothing_to_learn_from_it(distill):
    _, queries, documents = sides(learns=False)
    alike = [dict.fromkeys(EXITS, side[4]) for side in (queries, documents)]
    plain, taught = ExitLoss(EXITS)(*alike), ExitLoss(EXITS, distill=distill)(*alike)
    torch.testing.assert_close(plain.total, taught.total)


def test_kl_by_its_definition():
    _, queries, documents = sides(learns=False)
    loss = ExitLoss((1, 4), weights="uniform", scale=3.0, distill="kl", distill_weight=0.5)
    gained = (
        loss(queries, documents).total
        - ExitLoss((1, 4), weights="uniform", scale=3.0)(queries, documents).total
    )
    own, goal = (3 * queries[exit] @ documents[exit].T for exit in (1, 4))
    ways = []
    for axis in (0, 1):
        p, q = goal.softmax(axis), own.softmax(axis)
        ways.append(float((p * (p / q).log()).sum()) / 5)
    assert float(gained) == pytest.approx(0.5 * sum(ways) / 2, rel=1e-4)


def test_the_scale_is_learned_on_request():
    _, queries, documents = sides(learns=False)
    fixed, learned = ExitLoss(EXITS, scale=10.0), ExitLoss(EXITS, scale=10.0, learn_scale=True)
    assert float(fixed.scale) == pytest.approx(10)
    assert not list(fixed.parameters())
    learned(queries, documents).total.backward()
    assert learned.log_scale.grad.abs() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, "scale = 0.0 and distill_weight = 1.0 must be above 0"),
        ({"distill_weight": 0.0}, "must be above 0"),
        ({"distill": "mse"}, "distill = 'mse' is unknown; known: kl, cosine, None"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(TrainError, match=message):
        ExitLoss(EXITS, **settings)
