"""What a step with scores adds to a dense one: one pass over memory each, compiled where numba is installed.

Without numba, numpy and torch do the same with a pass for each operation, ten in all. That takes half as long
as the dense step of a small network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Kernels:
    """Functions of flat arrays of 32-bit floats.

    Attributes:
        select: From scores, pool, weight (written: the pool where a score is selected, else 0), room for
            flags (bytes) and for places and magnitudes (32-bit integers), the number of scores to select,
            those of largest magnitude, and two bounds of the smallest selected magnitude to that magnitude;
            to a negative number if it lies outside, and then the weight is not what it should be. Bounds and
            result are the bits of numbers, as integers, which have the order of the numbers.
        hand_on: From a weight's gradient (overwritten with that of the scores), pool and scores to nothing.
    """

    select: Callable[..., int]
    hand_on: Callable[..., None]


@functools.cache
def kernels() -> Kernels | None:
    """Return the compiled functions; None where numba is not installed (`pip install 'brickyard[fast]'`)."""
    try:
        import numba
    except ImportError:
        return None
    compiled: Any = numba.njit(nogil=True)
    return Kernels(compiled(_select), compiled(_hand_on))


def _select(  # noqa: PLR0917  numba takes arrays by place
    scores: Any, pool: Any, weight: Any, flags: Any, places: Any, room: Any, keep: int, low: Any, high: Any
) -> int:
    bits, rest, between = scores.view(np.int32), np.int32(keep), 0
    low, high = np.int32(low), np.int32(high)
    for i in range(bits.size):  # without a branch, so that the processor takes many at once
        magnitude = bits[i] & np.int32(0x7FFFFFFF)
        weight[i] = pool[i] if magnitude >= high else np.float32(0)
        rest -= np.int32(magnitude >= high)
        flags[i] = (magnitude >= low) != (magnitude >= high)
    words = flags[: flags.size // 8 * 8].view(np.uint64)
    for word in range(words.size + 1):  # and what is left over
        if word == words.size or words[word]:
            for i in range(8 * word, min(8 * word + 8, flags.size)):
                if flags[i]:
                    places[between], room[between] = i, bits[i] & np.int32(0x7FFFFFFF)
                    between += 1
    if rest < 1 or rest > between:
        return -1
    band = room[:between]
    while high - low > 1:  # at least `rest` are as large as the lower bound, fewer as the upper one
        middle = low + (high - low) // 2
        if np.sum(band >= middle) >= rest:
            low = middle
        else:
            high = middle
    rest -= np.sum(band > low)
    for j in range(between):  # of equal ones those that come first
        equal = band[j] == low and rest > 0
        rest -= equal
        if equal or band[j] > low:
            weight[places[j]] = pool[places[j]]
    return int(low)


def _hand_on(gradient: Any, pool: Any, scores: Any) -> None:
    for i in range(gradient.size):
        product = gradient[i] * pool[i]
        gradient[i] = product if scores[i] > 0 else -product
