"""How the times of single blocks become the time of a whole subnet: a small regression.

A block that is timed alone pays for a session; inside a network it does not, and layouts and caches are
others. So each block's time counts with a factor, less an offset while any of its bricks is on, and a
constant is added. First one factor and one offset are fitted for all blocks, then those of each block, drawn
to the common ones. Errors are relative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_PULL = 0.05


@dataclass(frozen=True)
class Fit:
    """Coefficients of a fit.

    Attributes:
        slope: Factor common to all blocks.
        offset: Milliseconds less for each block that is on, common to all.
        factors: Factor of each block.
        offsets: Milliseconds less of each block while it is on.
        constant: Milliseconds that are always paid, of the fit with each block's own coefficients.
        common_constant: The same of the fit with common ones.
    """

    slope: float
    offset: float
    factors: Floats
    offsets: Floats
    constant: float
    common_constant: float

    def common(self, alone: Floats) -> Floats:
        """Predict with the common coefficients from times `[subnets, blocks]`, 0 where a block is off."""
        on = (alone > 0).sum(1)
        predicted: Floats = self.slope * alone.sum(1) - self.offset * on + self.common_constant
        return predicted

    def predict(self, alone: Floats) -> Floats:
        """Predict with each block's own coefficients."""
        predicted: Floats = alone @ self.factors - (alone > 0) @ self.offsets + self.constant
        return predicted


def fit(alone: Floats, times: Floats) -> Fit:
    """Fit the coefficients to measured subnets.

    Args:
        alone: Times of the blocks alone, `[subnets, blocks]` milliseconds, 0 where a block is off.
        times: Times of the subnets, milliseconds.

    Returns:
        The coefficients; factors are not negative.
    """
    weights = (1 / times)[:, None]
    on = (alone > 0).astype(np.float64)
    one = np.ones((len(times), 1))
    design = np.concatenate([alone.sum(1, keepdims=True), -on.sum(1, keepdims=True), one], 1) * weights
    slope, offset, common_constant = np.linalg.lstsq(design, np.ones(len(times)), rcond=None)[0]
    blocks = alone.shape[1]
    design = np.concatenate([alone, -on, one], 1) * weights
    centre = np.concatenate([np.full(blocks, slope), np.full(blocks, offset), [0.0]])
    scale = [np.sqrt((part**2).sum(0)).mean() for part in (design[:, :blocks], design[:, blocks:-1])]
    pull = np.diag(np.repeat([_PULL * scale[0], _PULL * scale[1], 0.0], [blocks, blocks, 1]))
    target = np.concatenate([np.ones(len(times)), pull @ centre])
    solution = np.linalg.lstsq(np.concatenate([design, pull]), target, rcond=None)[0]
    return Fit(
        slope=float(slope),
        offset=float(offset),
        factors=solution[:blocks].clip(min=0),
        offsets=solution[blocks:-1],
        constant=float(solution[-1]),
        common_constant=float(common_constant),
    )
