"""Masks have exactly the entries asked for, survive packing, and pass the gradients they should."""

import pytest
import torch

from brickyard.continual.masks import mixed_weight, pack, popup_weight, top_k_mask, unpack


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
    scores = torch.randn(6, 5, requires_grad=True)
    pool, gradient = torch.randn(6, 5), torch.randn(6, 5)
    weight = popup_weight(scores, pool, 8)
    assert int((weight != 0).sum()) == 8
    assert torch.equal(weight.detach(), pool * top_k_mask(scores.detach().abs(), 8))
    weight.backward(gradient)
    slow = scores.detach().clone().requires_grad_()
    (slow.abs() * pool).backward(gradient)
    assert torch.allclose(scores.grad, slow.grad)


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
