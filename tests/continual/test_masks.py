"""Masks have exactly the entries asked for, survive packing, and pass the gradients they should."""

import numpy as np
import pytest
import torch
from torch import nn

from brickyard.continual import kernels
from brickyard.continual.masks import Filled, Popup, Shielded, TopK, mixed_weight, pack, top_k_mask, unpack


def by_sorting(magnitudes: torch.Tensor, keep: int) -> torch.Tensor:
    order = torch.argsort(-magnitudes.reshape(-1), stable=True)
    mask = torch.zeros(magnitudes.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask.reshape(magnitudes.shape)


@pytest.mark.parametrize("size", [1, 7, 300, 40_000])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999, 1.0])
def test_the_largest_are_found(size, share):
    magnitudes = torch.rand(size, generator=torch.Generator().manual_seed(size))
    keep = max(1, round(share * size))
    assert torch.equal(top_k_mask(magnitudes, keep), by_sorting(magnitudes, keep))


@pytest.mark.parametrize("size", [50, 40_000])
@pytest.mark.parametrize("values", [1, 3])
def test_ties_are_broken_by_place(size, values):
    magnitudes = torch.randint(0, values, (size,), generator=torch.Generator().manual_seed(0)).float()
    for keep in (1, size // 3, size - 1):
        mask = top_k_mask(magnitudes, keep)
        assert int(mask.sum()) == keep
        assert torch.equal(mask, by_sorting(magnitudes, keep))


def test_a_misleading_sample_does_no_harm():
    magnitudes = torch.rand(40_960, generator=torch.Generator().manual_seed(0))
    magnitudes[::10] += 5.0  # all that a sample of every tenth entry sees
    for keep in (100, 10_000, 40_000):
        assert torch.equal(top_k_mask(magnitudes, keep), by_sorting(magnitudes, keep))


def test_bits_survive_packing():
    mask = torch.rand(3, 5, 7) < 0.3
    packed = pack(mask)
    assert packed.shape == (14,)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, mask.shape), mask)


def test_gradients_reach_all_scores_as_if_magnitudes_multiplied_the_weights():
    scores = nn.Parameter(torch.randn(6, 5))
    pool, gradient = torch.randn(6, 5), torch.randn(6, 5)
    popup = Popup(scores, pool, 8)
    assert int((popup.weight != 0).sum()) == 8
    assert torch.equal(popup.weight.detach(), pool * top_k_mask(scores.detach().abs(), 8))
    popup.weight.backward(gradient.clone())
    popup.hand_on()
    slow = scores.detach().clone().requires_grad_()
    (slow.abs() * pool).backward(gradient)
    assert torch.allclose(scores.grad, slow.grad)
    popup.hand_on()  # nothing was computed since
    assert scores.grad is None


def test_a_mixture_is_the_sum_of_masked_pools_with_its_gradients():
    masks = [torch.rand(4, 3) < 0.5 for _ in range(3)]
    pool = torch.randn(4, 3)
    shares = torch.tensor([0.5, 0.0, 0.25], requires_grad=True)
    mixed = mixed_weight(shares, pool, masks.__getitem__)
    expected = 0.5 * masks[0] * pool + 0.25 * masks[2] * pool
    assert torch.allclose(mixed, expected)
    gradient = torch.randn(4, 3)
    mixed.backward(gradient)
    by_hand = [float((gradient * mask * pool).sum()) for mask in masks]
    assert shares.grad.tolist() == pytest.approx([by_hand[0], 0.0, by_hand[2]], abs=1e-6)


def test_the_largest_are_found_near_where_they_were_as_anew():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(300, 100, generator=generator)
    for keep in (600, 3000, 15_000, 29_999):
        top_k = TopK(np.empty((300, 100), np.float32), keep)
        moved = values.clone()
        for step in range(12):
            moved += 0.01 * torch.randn(300, 100, generator=generator)
            if step == 5:
                moved *= 3.0  # nothing is where it was
            if step == 7:
                moved = (moved * 4).round() / 4  # many are equal
            expected = top_k_mask(moved.abs(), keep)
            assert torch.equal(torch.from_numpy(top_k(moved.numpy())), expected)
    zeros = TopK(np.empty((300, 100), np.float32), 7)
    for _ in range(2):
        assert int(zeros(torch.zeros(300, 100).numpy()).sum()) == 7


@pytest.fixture
def compiled():
    if kernels.kernels() is None:
        pytest.skip("numba is not installed")
    return kernels.kernels()


@pytest.mark.parametrize("keep", [1, 500, 9000, 17_000, 17_499])
def test_compiled_selection_is_the_same(compiled, keep):
    shape = (250, 70)  # entries are no multiple of eight
    generator = torch.Generator().manual_seed(0)
    values, pool = (torch.randn(shape, generator=generator) for _ in range(2))
    top_k = TopK(np.empty(shape, np.float32), keep, compiled=compiled)
    used = 0
    for step in range(12):
        values += 0.001 * torch.randn(shape, generator=generator)
        if step == 6:
            values *= 3.0  # nothing is where it was
        if step > 8:
            values = (values * 4).round() / 4  # many are equal
        near = top_k.near
        top_k.magnitudes[:] = np.nan
        top_k.select(values.numpy(), pool.numpy())
        used += bool(near)
        expected = torch.where(top_k_mask(values.abs(), keep), pool, 0)
        assert torch.equal(torch.from_numpy(top_k.magnitudes), expected)
    assert used >= 8  # not where the smallest kept one is 0


def test_the_compiled_bounds_hold_or_say_so(compiled):
    scores = np.linspace(-1, 1, 20_001, dtype=np.float32)
    pool, weight = np.ones_like(scores), np.empty_like(scores)
    flags, places, room = (np.empty(scores.size, kind) for kind in (np.uint8, np.int32, np.int32))
    order = np.sort(np.abs(scores))[::-1]
    for low, high, inside in ((0.4, 0.6, True), (0.51, 0.6, False), (0.3, 0.49, False)):
        bounds = (int(np.float32(bound).view(np.int32)) for bound in (low, high))
        found = compiled.select(scores, pool, weight, flags, places, room, 10_000, *bounds)
        if inside:
            assert np.int32(found).view(np.float32) == order[9999]
            assert weight.sum() == 10_000
        else:
            assert found == -1


def test_training_is_the_same_with_and_without_compiled_functions(compiled, monkeypatch):
    """The same to the bit: scores of each step, and so masks."""

    def train() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        scores, pool = (torch.randn(130, 130, generator=generator) for _ in range(2))
        popup = Popup(nn.Parameter(scores), pool, 1690)
        optimizer = torch.optim.Adam([popup.scores], 0.01, fused=True)
        for _ in range(20):
            popup.fill()
            x = torch.randn(16, 130, generator=generator)
            (x @ popup.weight).square().mean().backward()
            popup.hand_on()
            optimizer.step()
        return popup.scores.detach()

    fast = train()
    monkeypatch.setattr("brickyard.continual.masks.kernels", lambda: None)
    assert torch.equal(fast, train())


def test_weights_in_another_memory_order_are_trained_too():
    pool = torch.randn(64, 32, 3, 3).contiguous(memory_format=torch.channels_last)
    scores = nn.Parameter(torch.randn(64, 32, 3, 3))
    popup = Popup(scores, pool, 900)
    for _ in range(3):
        scores.detach().add_(0.01 * torch.randn(scores.shape))
        popup.fill()
        expected = torch.where(top_k_mask(scores.detach().abs(), 900), pool, 0)
        assert torch.equal(popup.weight.detach(), expected)
        popup.weight.grad = torch.ones_like(pool)
        popup.hand_on()
        assert torch.allclose(scores.grad, pool * scores.detach().sign())


@pytest.mark.parametrize("size", [12, 130])
def test_weights_that_are_trained_along_are_those_under_the_mask_that_are_free(size):
    generator = torch.Generator().manual_seed(0)
    pool, scores, x = (torch.randn(size, size, generator=generator) for _ in range(3))
    free = torch.rand(size, size, generator=generator) < 0.5
    popup = Popup(nn.Parameter(scores), pool, size * size // 5, free=free)
    optimizer = torch.optim.Adam([popup.scores, popup.along], 0.1, fused=True)
    for _ in range(4):
        popup.fill()
        mask = top_k_mask(popup.scores.detach().abs(), popup.keep)
        weight = torch.where(mask, popup.along.detach(), 0)
        assert torch.equal(popup.weight.detach(), weight)
        (x @ popup.weight).square().sum().backward()
        popup.hand_on()
        whole = weight.clone().requires_grad_()
        (x @ whole).square().sum().backward()
        assert torch.allclose(popup.along.grad, torch.where(mask & free, whole.grad, 0))
        assert torch.allclose(
            popup.scores.grad, whole.grad * popup.along.detach() * popup.scores.detach().sign()
        )
        optimizer.step()
    assert torch.equal(popup.along.detach()[~free], pool[~free])
    assert not torch.equal(popup.along.detach()[free], pool[free])


def test_a_layer_may_be_called_twice_in_a_step():
    scores, pool = nn.Parameter(torch.randn(6, 6)), torch.randn(6, 6)
    popup, x = Popup(scores, pool, 12), torch.randn(3, 6)
    (x @ popup.weight @ popup.weight).sum().backward()
    popup.hand_on()
    slow = scores.detach().clone().requires_grad_()
    mask = top_k_mask(slow.detach().abs(), 12).float()
    weight = (mask - slow.abs()).detach() * pool + slow.abs() * pool  # straight through
    (x @ weight @ weight).sum().backward()
    assert torch.allclose(scores.grad, slow.grad, atol=1e-5)


def test_weights_follow_their_optimizer_step_by_step():
    pool, mask = torch.randn(8, 8), torch.rand(8, 8) < 0.5
    scores, compact = nn.Parameter(torch.randn(8, 8)), nn.Parameter(pool[mask])
    popup = Popup(scores, pool, 20)
    filled, shielded = Filled(pool.clone(), mask), Shielded(pool.clone(), mask)
    optimizer = torch.optim.Adam([scores, filled.trained, shielded.trained, compact], 0.3, fused=True)
    for _ in range(3):
        loss = sum(each.weight.square().sum() for each in (filled, shielded)) + popup.weight.sum()
        compact.grad = None
        (loss + compact.square().sum()).backward()
        for trainee in (popup, filled, shielded):
            trainee.hand_on()
        optimizer.step()
        for trainee in (popup, filled, shielded):
            trainee.fill()
        assert torch.equal(popup.weight.detach(), pool * top_k_mask(scores.detach().abs(), 20))
        for trainee in (filled, shielded):
            assert torch.allclose(trainee.weight.detach()[mask], compact.detach())
            assert torch.equal(trainee.weight.detach()[~mask], pool[~mask])
