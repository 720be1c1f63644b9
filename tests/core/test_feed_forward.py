"""Tokens use the experts whose keys agree with them most, in every mode alike."""

import gc

import pytest
import torch
from torch import nn

from brickyard.core import dispatch as dispatching
from brickyard.core import feed_forward as module
from brickyard.core.dispatch import Matrices
from brickyard.core.feed_forward import (
    CosineGate,
    RoutedFeedForward,
    Routing,
    choose,
    expert_scores,
    feed_forward,
    matrices_of,
)

ACT = nn.GELU()


def network(neurons=12, width=5):
    return Matrices(
        torch.randn(neurons, width), torch.randn(neurons), torch.randn(width, neurons), torch.randn(width)
    )


def test_scores_are_mean_pre_activations_without_the_bias():
    matrices, x = network(14), torch.randn(2, 3, 5)
    scores = expert_scores(x, matrices.keys, num_experts=4, expert_width=3)
    z = nn.functional.linear(x, matrices.keys)
    expected = torch.stack([z[..., 3 * expert : 3 * expert + 3].mean(-1) for expert in range(4)], -1)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["masked", "sparse"])
def test_a_token_uses_the_experts_that_score_highest(mode):
    matrices, x = network(14), torch.randn(2, 3, 5)
    with torch.no_grad():
        y = feed_forward(x, matrices, ACT, Routing(4, 3, 2, mode))
        hidden = matrices.hidden(x, ACT)
        best = expert_scores(x, matrices.keys, num_experts=4, expert_width=3).argsort(-1, descending=True)
        for place in ((0, 0), (0, 2), (1, 1)):
            keep = torch.zeros(14)
            keep[12:] = 1  # those behind all experts
            for expert in best[place][:2].tolist():
                keep[3 * expert : 3 * expert + 3] = 1
            one = nn.functional.linear(hidden[place] * keep, matrices.values, matrices.value_bias)
            torch.testing.assert_close(y[place], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["masked", "sparse"])
def test_a_control_uses_the_experts_that_score_lowest(mode):
    matrices, x = network(), torch.randn(6, 5)
    with torch.no_grad():
        worst = expert_scores(x, matrices.keys, num_experts=4, expert_width=3).argmin(-1)
        y = feed_forward(x, matrices, ACT, Routing(4, 3, 1, mode, gate="lowest"))
        keep = torch.zeros(6, 4).scatter(1, worst[:, None], 1.0).repeat_interleave(3, 1)
        hidden = matrices.hidden(x, ACT) * keep
        expected = nn.functional.linear(hidden, matrices.values, matrices.value_bias)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_all_experts_equal_the_dense_network():
    matrices, x = network(), torch.randn(2, 3, 5)
    dense = nn.functional.linear(matrices.hidden(x, ACT), matrices.values, matrices.value_bias)
    for routing in (Routing(4, 3, 2, "dense"), Routing(4, 3, 4, "masked"), Routing(4, 3, 4, "sparse")):
        assert not routing.chooses
        assert torch.equal(feed_forward(x, matrices, ACT, routing), dense)


def test_gradients_go_through_chosen_experts_alone():
    matrices, x = network(), torch.randn(1, 5)
    leaves = Matrices(*(part.requires_grad_() for part in matrices[:4]))
    feed_forward(x, leaves, ACT, Routing(4, 3, 1, "masked")).sum().backward()
    used = int(expert_scores(x, matrices.keys, num_experts=4, expert_width=3).argmax())
    rows = set(range(3 * used, 3 * used + 3))
    for grad, axis in ((leaves.keys.grad, 1), (leaves.key_bias.grad[:, None], 1), (leaves.values.grad, 0)):
        moved = grad.abs().sum(axis).nonzero().flatten().tolist()
        assert set(moved) == rows


@pytest.mark.parametrize("mode", ["masked", "sparse"])
def test_a_learned_gate_chooses_and_multiplies(mode):
    matrices, x = network(14), torch.randn(6, 5)
    gate = CosineGate(*map(nn.Parameter, (torch.randn(8, 5), torch.randn(4, 8), torch.tensor(0.7))))
    with torch.no_grad():
        y = feed_forward(x, matrices, ACT, Routing(4, 3, 2, mode, "learned"), gate=gate)
        token, places = x @ gate.project.T, gate.places
        cosines = (token @ places.T) / token.norm(dim=-1, keepdim=True) / places.norm(dim=-1)
        chances = (cosines * gate.scale.exp()).softmax(-1)
        best = chances.topk(2)
        share = torch.zeros(6, 4).scatter(1, best.indices, best.values / best.values.sum(-1, keepdim=True))
        factor = torch.cat([share.repeat_interleave(3, 1), torch.ones(6, 2)], 1)
        hidden = matrices.hidden(x, ACT) * factor
        expected = nn.functional.linear(hidden, matrices.values, matrices.value_bias)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_a_learned_gate_learns():
    gate = CosineGate(*map(nn.Parameter, (torch.randn(8, 5), torch.randn(4, 8), torch.tensor(0.7))))
    routing = Routing(4, 3, 2, "masked", "learned")
    feed_forward(torch.randn(6, 5), network(), ACT, routing, gate=gate).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in gate.parameters())


def test_gates_choose_among_what_is_on_and_multiply():
    matrices, x = network(), torch.randn(2, 3, 5)
    gates = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.5, 1.0, 1.0]])
    y = feed_forward(x, matrices, ACT, Routing(4, 3, 2, "masked"), gates_BE=gates)
    kept = [0, 1, 2, 3, 4, 5, 9, 10, 11]
    part = Matrices(
        matrices.keys[kept], matrices.key_bias[kept], matrices.values[:, kept], matrices.value_bias
    )
    alone = feed_forward(x[:1], part, ACT, Routing(3, 3, 2, "masked"))
    torch.testing.assert_close(y[:1], alone, atol=1e-5, rtol=1e-5)
    whole = feed_forward(x, matrices, ACT, Routing(4, 3, 2, "dense"), gates_BE=gates)
    factor = gates.repeat_interleave(3, 1)[:, None]
    expected = nn.functional.linear(matrices.hidden(x, ACT) * factor, matrices.values, matrices.value_bias)
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)


def test_sparse_dispatches_only_where_nothing_is_recorded(monkeypatch):
    calls = []
    monkeypatch.setattr(dispatching, "_measure", lambda work: calls.append(1) or "local")
    monkeypatch.setattr(dispatching, "_fastest", {})
    matrices, x, routing = network(), torch.randn(4, 5), Routing(4, 3, 2, "sparse")
    recorded = feed_forward(x, matrices, ACT, routing)
    dropping = nn.Dropout(0.0).train()
    with torch.no_grad():
        feed_forward(x, matrices, ACT, routing, dropout=dropping)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            feed_forward(x, matrices, ACT, routing)
        assert not calls
        torch.testing.assert_close(feed_forward(x, matrices, ACT, routing), recorded, atol=1e-5, rtol=1e-5)
    assert calls


def test_dropout_acts_in_front_of_the_second_matrix():
    matrices, x = network(), torch.randn(4, 5)
    gone = nn.Dropout(1.0).train()
    for mode in ("dense", "masked"):
        y = feed_forward(x, matrices, ACT, Routing(4, 3, 2, mode), dropout=gone)
        assert torch.equal(y, matrices.value_bias.expand(4, -1))


def test_a_network_on_its_own_computes_the_same():
    keys, gated, values = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 5)
    routing, x = Routing(4, 3, 2, "masked"), torch.randn(2, 3, 5)
    alone = RoutedFeedForward(keys, ACT, values, routing=routing, gated=gated)
    parts = (dict(part.named_parameters()) for part in (keys, values, gated))
    expected = feed_forward(x, matrices_of(*parts, transposed=False), ACT, routing)
    assert torch.equal(alone(x), expected)
    assert len(alone.state_dict()) == 6


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("transposed", [False, True])
def test_mean_keys_are_kept_until_weights_change(monkeypatch, transposed, without):
    computed = []
    means = module._means
    monkeypatch.setattr(module, "_means", lambda keys: computed.append(keys.shape) or means(keys))
    weight = nn.Parameter(torch.randn(5, 12) if transposed else torch.randn(12, 5))
    x, before = torch.randn(2, 5), len(module._kept)

    def scores(weight, experts=4):
        with without():
            keys = weight.t() if transposed else weight
            found = expert_scores(x, keys, num_experts=experts, expert_width=12 // experts)
        expected = (x @ keys.t()).unflatten(1, (experts, -1)).mean(-1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        return len(computed)

    assert [scores(weight), scores(weight), scores(weight)] == [1, 1, 1]
    assert [scores(weight, 3), scores(weight, 3)] == [2, 2]
    with torch.no_grad():
        weight[0, 3] += 1
    assert [scores(weight, 3), scores(weight, 3)] == [3, 3]
    weight.data += 1  # torch does not count this
    assert [scores(weight, 3), scores(weight, 3)] == [4, 4]
    weight.data = torch.randn_like(weight)
    assert [scores(weight, 3), scores(weight, 3)] == [5, 5]
    assert len(module._kept) == before + 1
    del weight
    gc.collect()
    assert len(module._kept) == before


def test_mean_keys_are_computed_anew_with_gradients_and_where_torch_does_not_count_changes():
    before = len(module._kept)
    keys = torch.randn(12, 5)
    expert_scores(torch.randn(2, 5), keys, num_experts=4, expert_width=3)
    with torch.inference_mode():
        expert_scores(torch.randn(2, 5), torch.randn(12, 5), num_experts=4, expert_width=3)
    assert len(module._kept) == before


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_highest_scores_are_chosen_of_equal_ones_the_first(dtype, gradients):
    x = (2 * torch.randn(7, 50, 16)).round().to(dtype)  # many are equal, zeros of both signs among them
    x[0, 0, :6] = torch.tensor([torch.nan, -torch.inf, torch.inf, -0.0, -torch.nan, 0.0])
    x[0, 1] = -torch.nan
    matrices = Matrices(torch.eye(16, dtype=dtype), None, torch.eye(16, dtype=dtype), None)
    with torch.set_grad_enabled(gradients):
        _, use = choose(x, matrices.keys, Routing(16, 1, 5, "masked", gate="learned"), gate=nn.Identity())
    for row, chosen in zip(x.flatten(0, 1).tolist(), use.flatten(0, 1).tolist(), strict=True):
        known = [place for place in range(16) if row[place] == row[place]]
        others = [place for place in range(16) if place not in known]
        best = others + sorted(known, key=lambda place: -row[place])
        assert sorted(chosen) == sorted(best[:5])


def test_with_gradients_and_without_the_same_experts_are_chosen():
    matrices, x = network(), torch.randn(500, 5)
    matrices = Matrices(*(part.bfloat16() for part in matrices[:4]))
    routing = Routing(4, 3, 2, "masked")
    with torch.no_grad():
        _, use = choose(x.bfloat16(), matrices.keys, routing)
    scores, again = choose(x.bfloat16(), matrices.keys, routing)
    assert (scores.sort(-1).values.diff(dim=-1) == 0).any()
    assert torch.equal(use.sort(-1).values, again.sort(-1).values)


@pytest.mark.parametrize("mode", ["dense", "masked", "sparse"])
@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 5), (2, 0, 5)])
def test_no_tokens_give_no_results(shape, mode):
    with torch.no_grad():
        y = feed_forward(torch.zeros(shape), network(), ACT, Routing(4, 3, 2, mode))
    assert y.shape == shape
