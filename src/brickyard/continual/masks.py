"""Masks: the entries of largest score, found exactly, kept as bits, and mixed.

Edge-popup (arXiv 1911.13299) keeps the share of a layer's weights whose scores are largest in magnitude and
passes gradients of the mask straight through to the scores. Ties are broken by place, so that a mask always
has exactly the number of entries that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SAMPLE = 4096  # entries from which the place of the smallest kept one is guessed
_SPREADS = 3.0  # how many standard deviations the guess is given on both sides


def top_k_mask(magnitudes: Tensor, keep: int) -> Tensor:
    """Mark the `keep` largest entries; of equal ones those that come first.

    Args:
        magnitudes: Numbers of any shape, without NaN.
        keep: Entries to mark, 1 to all of them.

    Returns:
        A mask of the same shape with exactly `keep` entries.
    """
    assert 1 <= keep <= magnitudes.numel()
    if magnitudes.is_cpu:
        return torch.from_numpy(_top_k(magnitudes.numpy(), keep))
    flat = magnitudes.reshape(-1)
    threshold = flat.topk(keep, sorted=False).values.min()
    mask = flat >= threshold
    surplus = int(mask.sum()) - keep
    if surplus:
        mask[torch.nonzero(flat == threshold).reshape(-1)[-surplus:]] = False
    return mask.reshape(magnitudes.shape)


def _top_k(magnitudes: npt.NDArray[np.floating[Any]], keep: int) -> npt.NDArray[np.bool_]:
    """The same for arrays: numpy finds, compares and counts several times faster than torch."""
    flat = magnitudes.reshape(-1)
    threshold = _kth_largest(flat, keep)
    mask = flat >= threshold
    surplus = int(np.count_nonzero(mask)) - keep
    if surplus:
        mask[np.flatnonzero(flat == threshold)[-surplus:]] = False
    return mask.reshape(magnitudes.shape)


def _kth_largest(values: npt.NDArray[np.floating[Any]], keep: int) -> float:
    """Return the `keep`-th largest number: a sample tells a band around it, which alone is partitioned.

    This is one step of the selection of Floyd and Rivest (Communications of the ACM 18(3), 1975); should the
    sample mislead, all numbers are partitioned.
    """
    if len(values) > 4 * _SAMPLE:
        sample = values[:: len(values) // _SAMPLE]
        count, share = len(sample), keep / len(values)
        slack = _SPREADS * math.sqrt(count * share * (1 - share)) + 1
        first, last = count - math.ceil(count * share + slack), count - math.floor(count * share - slack)
        ends = [place for place in (first, last) if 0 <= place < count]
        parted = np.partition(sample, ends)
        low = parted[first] if first >= 0 else -math.inf
        high = parted[last] if last < count else math.inf
        band = values[np.flatnonzero((values >= low) & (values <= high))]
        rest = keep - int(np.count_nonzero(values > high))
        if 1 <= rest <= len(band):
            values, keep = band, rest
    place = len(values) - keep
    return float(np.partition(values, place)[place])


class _Popup(torch.autograd.Function):
    """The pool under the mask of the largest scores; the gradient of the mask goes to all magnitudes."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, pool: Tensor, keep: int) -> Tensor:
        ctx.save_for_backward(scores, pool)
        if scores.is_cpu:
            values = scores.numpy()
            return pool * torch.from_numpy(_top_k(np.abs(values), keep).astype(values.dtype))
        return pool * top_k_mask(scores.abs(), keep)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        scores, pool = ctx.saved_tensors
        return (gradients[0] * pool).mul_(scores.sign()), None, None


def popup_weight(scores: Tensor, pool: Tensor, keep: int) -> Tensor:
    """Return weights of a pool where the magnitudes of scores are largest, zeros elsewhere.

    Args:
        scores: Scores; gradients reach all of them as if each magnitude itself multiplied its weight.
        pool: The weights, of the same shape; they get no gradient.
        keep: Weights to keep.
    """
    found: Tensor = _Popup.apply(scores, pool, keep)  # type: ignore[no-untyped-call]
    return found


def pack(mask: Tensor) -> Tensor:
    """Pack a mask into bytes `[ceil(entries / 8)]`, eight entries each, the first in the highest bit."""
    bits = np.packbits(mask.detach().cpu().numpy().reshape(-1))
    return torch.from_numpy(bits).to(mask.device)


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """Unpack what `pack` packed into a mask of the given shape."""
    bits = np.unpackbits(packed.cpu().numpy(), count=shape.numel()).view(np.bool_)
    return torch.from_numpy(bits).reshape(shape).to(packed.device)


class _Mixture(torch.autograd.Function):
    """Weights under a mixture of masks, one mask in memory at a time."""

    @staticmethod
    def forward(ctx: Any, mixture: Tensor, pool: Tensor, mask_of: Callable[[int], Tensor]) -> Tensor:
        ctx.save_for_backward(mixture, pool)
        ctx.mask_of = mask_of
        total = torch.zeros_like(pool)
        for number, share in enumerate(mixture.tolist()):
            if share:
                total += torch.where(mask_of(number), pool * share, 0)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        mixture, pool = ctx.saved_tensors
        product = gradients[0] * pool
        found = torch.zeros_like(mixture)
        for number, share in enumerate(mixture.tolist()):
            if share:
                found[number] = product[ctx.mask_of(number)].sum()
        return found, None, None


def mixed_weight(mixture: Tensor, pool: Tensor, mask_of: Callable[[int], Tensor]) -> Tensor:
    """Return `sum over tasks of mixture[task] * mask[task] * pool` (arXiv 2006.14769, section 3.3).

    Args:
        mixture: Weight of each task, `[tasks]`; gradients reach those that are not 0.
        pool: The weights that the masks select from.
        mask_of: Gives the mask of a task by its number.
    """
    found: Tensor = _Mixture.apply(mixture, pool, mask_of)  # type: ignore[no-untyped-call]
    return found
