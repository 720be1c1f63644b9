"""Discretisers: gates in [0, 1], gradients that flow, a penalty for what exceeds the limit."""

import pytest
import torch

from brickyard.assemble.discretise import DISCRETISERS, penalty

BRICKS = 6
COSTS = torch.full((BRICKS,), 1 / BRICKS)


def logits_and_limits(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    return (2 * torch.randn(count, BRICKS)).requires_grad_(), torch.rand(count)


@pytest.mark.parametrize("kind", DISCRETISERS)
def test_gates_lie_between_closed_and_open_and_gradients_flow(kind):
    logits, limits = logits_and_limits()
    gates = DISCRETISERS[kind](logits, COSTS, limits)
    assert gates.shape == logits.shape
    assert gates.min() >= -1e-6
    assert gates.max() <= 1 + 1e-6
    gates.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad >= 0).all()
    assert (logits.grad > 0).float().mean() > 0.3


def test_the_ceiling_is_hard_and_keeps_the_limit():
    logits, limits = logits_and_limits()
    gates = DISCRETISERS["ceiling"](logits, COSTS, limits)
    assert torch.allclose(gates, gates.round(), atol=1e-6)
    assert ((gates @ COSTS) <= limits + 1e-5).all()
    assert (gates.round()[logits <= 0] == 0).all()
    expected = torch.sigmoid(logits) * (1 - torch.sigmoid(logits))
    gates.sum().backward()
    assert torch.allclose(logits.grad, expected.detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ["semhash", "hard_concrete"])
def test_noise_decides_where_logits_do_not(kind):
    sure = torch.tensor([[20.0, -20.0]]).repeat(200, 1)
    gates = DISCRETISERS[kind](sure, torch.ones(2), torch.ones(200))
    assert (gates[:, 0] == 1).all()
    assert (gates[:, 1] == 0).all()
    unsure = DISCRETISERS[kind](torch.zeros(2000, 1), torch.ones(1), torch.ones(2000))
    assert 0.4 < unsure.mean() < 0.6
    assert (unsure == 0).any()
    assert (unsure == 1).any()


@pytest.mark.parametrize("kind", DISCRETISERS)
def test_no_penalty_under_the_limit(kind):
    logits = torch.full((8, BRICKS), -6.0)
    limits = torch.full((8,), 0.9)
    gates = DISCRETISERS[kind](logits, COSTS, limits)
    assert penalty(kind, logits, gates, COSTS, limits) == 0


@pytest.mark.parametrize("kind", ["semhash", "hard_concrete"])
def test_the_penalty_pushes_costs_down(kind):
    logits = torch.full((32, BRICKS), 1.0, requires_grad=True)
    limits = torch.full((32,), 0.2)
    value = penalty(kind, logits, DISCRETISERS[kind](logits, COSTS, limits), COSTS, limits)
    assert value > 0.05
    value.backward()
    assert logits.grad.sum() > 0
    assert (logits.grad >= 0).all()


def test_the_ceiling_needs_no_penalty():
    logits, limits = logits_and_limits()
    assert penalty("ceiling", logits, torch.ones_like(logits), COSTS, 0 * limits) == 0


def test_the_expected_cost_of_hard_concrete_is_the_share_of_gates_that_are_not_zero():
    for logit in (-2.0, 0.0, 1.5):
        logits = torch.full((40_000, 1), logit)
        gates = DISCRETISERS["hard_concrete"](logits, torch.ones(1), torch.zeros(40_000))
        seen = float((gates > 0).float().mean())
        expected = (
            float(penalty("hard_concrete", logits[:1], gates[:1], torch.ones(1), torch.zeros(1))) ** 0.5
        )
        assert seen == pytest.approx(expected, abs=0.01)
