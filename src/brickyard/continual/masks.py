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
from torch import Tensor, nn

from brickyard.continual.kernels import Kernels, kernels

_SAMPLE = 4096  # entries from which the place of the smallest kept one is guessed
_NARROW, _WIDE = 1e-3, 0.05  # least and largest share of a threshold by which the next may differ
_SPREADS = 3.0  # how many standard deviations the guess is given on both sides
_FEW = 0.25  # share of a weight's entries below which it is faster to gather what is trained
_SIGNED = torch.ops.aten.leaky_relu_backward.grad_input  # slope -1: times the signs of a tensor, in one pass


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


class TopK:
    """Marks the largest entries of one array again and again, as `top_k_mask` does, in the same memory.

    From call to call the smallest kept entry changes little, so it is looked for near where it was. What is
    found does not depend on that: where it is not there, it is looked for anew.

    Args:
        room: An array of the same shape, which is overwritten with magnitudes.
        keep: Entries to mark.
        compiled: Functions that `select` is faster with; arrays must then be contiguous.
    """

    def __init__(self, room: npt.NDArray[np.float32], keep: int, *, compiled: Kernels | None = None) -> None:
        self.magnitudes, self.keep, self.compiled = room, keep, compiled
        self.found, self.band = (np.empty(room.shape, dtype=np.bool_) for _ in range(2))
        self.rooms = [np.empty(room.size, dtype=np.int32) for _ in range(0 if compiled is None else 2)]
        self.near, self.width = 0.0, 0.0

    def __call__(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Mark the entries of largest magnitude.

        Args:
            values: Numbers of the shape, without NaN.

        Returns:
            The mask, which the next call overwrites.
        """
        np.abs(values, out=self.magnitudes)
        threshold = self._near()
        if threshold is None:
            flat = self.magnitudes.reshape(-1)
            threshold = _kth_largest(flat, self.keep)
            np.greater_equal(self.magnitudes, np.float32(threshold), out=self.found)
            surplus = int(np.count_nonzero(self.found)) - self.keep
            if surplus:
                self.found.reshape(-1)[np.flatnonzero(flat == threshold)[-surplus:]] = False
        self._moved(threshold)
        return self.found

    def select(self, values: npt.NDArray[np.float32], pool: npt.NDArray[np.float32]) -> None:
        """Write into the room what a pool has in the places of largest magnitude, and 0 elsewhere.

        Args:
            values: Numbers of the shape, without NaN.
            pool: Numbers of the shape.
        """
        if self.compiled is not None and self.near > 0:
            flat = (array.reshape(-1) for array in (values, pool, self.magnitudes, self.band.view(np.uint8)))
            ends = (int(end.view(np.int32)) for end in self._ends())
            threshold = self.compiled.select(*flat, *self.rooms, self.keep, *ends)
            if threshold >= 0:
                self._moved(float(np.int32(threshold).view(np.float32)))
                return
        np.multiply(pool, self(values), out=self.magnitudes)

    def _ends(self) -> tuple[np.float32, np.float32]:
        """Return the ends of the band in which the new threshold is looked for."""
        return np.float32(self.near * (1 - self.width)), np.float32(self.near * (1 + self.width))

    def _moved(self, threshold: float) -> None:
        """Note where the threshold is, and how far away to look for the next."""
        drift = abs(threshold - self.near) / threshold if threshold > 0 else 1.0
        self.width = min(max(2 * drift, self.width / 2, _NARROW), _WIDE)
        self.near = threshold

    def _near(self) -> float | None:
        """Mark the entries by a band around the last threshold; None where it does not hold the new one."""
        if not self.near > 0 or self.magnitudes.size <= 4 * _SAMPLE:
            return None
        low, high = self._ends()
        np.greater_equal(self.magnitudes, high, out=self.found)
        np.greater_equal(self.magnitudes, low, out=self.band)
        np.logical_xor(self.band, self.found, out=self.band)
        places = np.flatnonzero(self.band)
        found = _rest(self.magnitudes.reshape(-1)[places], self.keep - int(np.count_nonzero(self.found)))
        if found is None:
            return None
        self.found.reshape(-1)[places[found[0]]] = True
        return found[1]


def _rest(inside: npt.NDArray[np.float32], rest: int) -> tuple[npt.NDArray[np.bool_], float] | None:
    """Mark the `rest` largest numbers, and tell the smallest of them; None where that is impossible."""
    if not 1 <= rest <= len(inside):
        return None
    place = len(inside) - rest
    threshold = np.partition(inside, place)[place]
    kept = inside >= threshold
    surplus = int(np.count_nonzero(kept)) - rest
    if surplus:
        kept[np.flatnonzero(inside == threshold)[-surplus:]] = False
    return kept, float(threshold)


class Popup:
    """Weights of a pool under the mask of the largest scores, step after step in the same memory.

    New memory of the size of a layer costs more than what is computed in it, and so do functions that
    autograd calls back. So the weights are a leaf: `fill` writes them before a step's forward pass, and after
    the backward pass `hand_on` makes their gradient that of the scores.

    Args:
        scores: The scores, of the pool's shape.
        pool: The weights; they must not change.
        keep: Weights to keep.
        free: Which weights are trained along with the scores; None for none.

    Attributes:
        weight: The weights that the network computes with.
        along: A copy of the pool that is trained along with the scores; None where there is none.
    """

    def __init__(self, scores: nn.Parameter, pool: Tensor, keep: int, *, free: Tensor | None = None) -> None:
        self.scores, self.keep, self.free = scores, keep, free
        self.along = None if free is None else nn.Parameter(pool.clone())
        self.pool = pool if self.along is None else self.along.detach()
        self.weight = torch.empty_like(pool).requires_grad_()
        self.top_k, self.compiled = None, None
        if pool.is_cpu and pool.dtype == torch.float32:
            flat = pool.is_contiguous() and scores.is_contiguous()
            self.compiled = kernels() if flat and pool.numel() > 4 * _SAMPLE else None
            self.top_k = TopK(self.weight.detach().numpy(), keep, compiled=self.compiled)
        self.fill()

    def fill(self) -> None:
        """Write the weights that the scores select, and free the memory of the last step's gradient."""
        self.scores.grad = None
        scores, weight = self.scores.detach(), self.weight.detach()
        if self.top_k is not None:
            self.top_k.select(scores.numpy(), self.pool.numpy())
        else:
            torch.mul(self.pool, top_k_mask(scores.abs(), self.keep), out=weight)

    def hand_on(self) -> None:
        """Give the scores their gradient: as if each magnitude itself multiplied its weight.

        And weights that are trained along get theirs, if they are free and under the mask; those that are
        exactly 0 do not.
        """
        gradient, self.weight.grad = self.weight.grad, None
        if gradient is not None and self.along is not None and self.free is not None:
            self.along.grad = torch.where((self.weight.detach() != 0) & self.free, gradient, 0)
        if gradient is not None and self.compiled is not None and gradient.is_contiguous():
            flat = (gradient, self.pool, self.scores.detach())
            self.compiled.hand_on(*(tensor.view(-1).numpy() for tensor in flat))
        elif gradient is not None:
            _SIGNED(gradient.mul_(self.pool), self.scores.detach(), -1.0, False, grad_input=gradient)
        self.scores.grad = gradient


class Filled:
    """A weight of which few entries are trained: they are gathered, trained and written back.

    Args:
        weight: The weight, which changes.
        trains: Which entries are trained, of its shape.

    Attributes:
        weight: The weight that the network computes with.
        trained: What an optimizer trains: the entries in their order.
    """

    def __init__(self, weight: Tensor, trains: Tensor) -> None:
        self.weight, self.trains = weight.requires_grad_(), trains
        self.places = torch.nonzero(trains.reshape(-1)).reshape(-1)
        self.trained = nn.Parameter(weight.detach().view(-1)[self.places])

    def fill(self) -> None:
        """Write the trained entries, and free the memory of the last step's gradient."""
        self.trained.grad = None
        self.weight.detach().view(-1).scatter_(0, self.places, self.trained.detach())

    def hand_on(self) -> None:
        """Give the trained entries their gradients."""
        gradient, self.weight.grad = self.weight.grad, None
        self.trained.grad = None if gradient is None else gradient.view(-1).index_select(0, self.places)


class Shielded:
    """A weight of which many entries are trained: the gradients of the others are made zero.

    An optimizer without weight decay leaves those exactly as they are. Updating a few entries too many costs
    less than gathering and writing back.

    Args:
        weight: The weight, which changes.
        trains: Which entries are trained, of its shape.

    Attributes:
        weight: The weight that the network computes with.
        trained: What an optimizer trains: the same.
    """

    def __init__(self, weight: Tensor, trains: Tensor) -> None:
        self.weight = self.trained = nn.Parameter(weight)
        self.trains = trains
        self.factors = trains.to(weight.dtype)  # a product with a mask of bools takes six times as long

    def fill(self) -> None:
        """Free the memory of the last step's gradient; the optimizer writes the weight itself."""
        self.trained.grad = None

    def hand_on(self) -> None:
        """Keep the gradients of the trained entries alone."""
        if self.trained.grad is not None:
            self.trained.grad.mul_(self.factors)


def under_mask(weight: Tensor, trains: Tensor) -> Filled | Shielded:
    """Return what trains some entries of a weight, the faster way for their number; arguments as for both."""
    return (Filled if int(trains.sum()) < _FEW * trains.numel() else Shielded)(weight, trains)


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
