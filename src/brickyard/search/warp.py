"""Warping: targets as a predictor learns them best.

Networks that failed lie far from all others, and a predictor would spend itself on how bad they are. What is
worse than the median is therefore placed by its rank alone, as the lower half of a normal distribution; what
is better keeps its distances (half-rank warping of arXiv 2408.11527). The order of points never changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Warp:
    """A growing function from measured to learnt values, linear up to the median.

    Attributes:
        median: Where ranks take over.
        known: Measured values above the median, ascending.
        placed: Where they lie.
    """

    median: float
    known: Array
    placed: Array

    def __call__(self, values: Array) -> Array:
        """Warp values, `[points]`; those between measured ones are interpolated.

        Above the largest measured value the function goes on with its last slope.
        """
        if not len(self.known):
            return np.asarray(values, dtype=float)
        known = np.concatenate([[self.median], self.known])
        placed = np.concatenate([[self.median], self.placed])
        warped = np.interp(values, known, placed)
        slope = (placed[-1] - placed[-2]) / max(known[-1] - known[-2], 1e-300)
        warped = np.where(values > known[-1], placed[-1] + slope * (values - known[-1]), warped)
        return np.where(values <= self.median, values, warped)


def half_rank(values: Array) -> Warp:
    """Fit the warping to measured values.

    Args:
        values: Values, the smaller the better, `[points]`.

    Returns:
        The function.
    """
    median = float(np.median(values))
    better = values[values <= median]
    spread = float(np.sqrt(((better - median) ** 2).mean()))
    known = np.unique(values[values > median])
    if not len(known) or spread == 0.0:
        return Warp(median, np.zeros(0), np.zeros(0))
    ranks = np.searchsorted(np.sort(values), known, side="left") + 0.5
    placed = median + spread * ndtri(np.clip(ranks / len(values), 0.5 + 1e-9, 1 - 1e-9))
    keep = np.concatenate([[True], np.diff(placed) > 0]) & (placed > median)
    return Warp(median, known[keep], placed[keep])
