"""What every data set of the user needs: a stratified split and the statistics of its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import DataError


def stratified(strata: NDArray[Any], *, share: float, seed: int) -> NDArray[np.bool_]:
    """Choose which examples are held out, the same share of each stratum.

    Args:
        strata: Stratum of each example, integers `[N]`.
        share: Share to hold out, above 0, below 1. A stratum of two or more examples keeps at least one on
            both sides, one of a single example is trained on.
        seed: Seed of the draw.

    Returns:
        bool `[N]`, True where held out.

    Raises:
        DataError: The share is out of range, or nothing can be held out.
    """
    if not 0 < share < 1:
        raise DataError(f"the held-out share is {share}; allowed: above 0, below 1")
    rng = np.random.default_rng(seed)
    heldout = np.zeros(len(strata), np.bool_)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        heldout[members[:count]] = True
    if not heldout.any():
        raise DataError(
            f"no two of the {len(strata)} images share a label, so none can be held out; give more images"
        )
    return heldout


def normalisation(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel after scaling to 0..1.

    Args:
        images: uint8 `[N, H, W, C]`.

    Returns:
        Two tuples of C numbers, rounded to 4 digits; the deviation is at least 0.01.
    """
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ levels)
        means.append(round(mean, 4))
        stds.append(round(max(float(share @ (levels - mean) ** 2) ** 0.5, 0.01), 4))
    return tuple(means), tuple(stds)
