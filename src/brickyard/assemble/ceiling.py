"""The budgeted top-k ceiling: which bricks open under a limit.

A limit is a ceiling, not a quota: a brick opens when its logit is positive and everything ranked before
it fits too. So the cost never exceeds the limit, for every task, without a penalty to tune.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ALWAYS = np.float32(1e3)
"""Bricks whose logit is at least this stay open whatever the limit; see `assembly.raise_floors`."""


def open_bricks(
    logits: npt.NDArray[np.float32], costs: npt.NDArray[np.float32], limits: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Open the longest prefix, by logit, of positive bricks whose cost fits.

    Args:
        logits: `[batch, bricks]`.
        costs: Cost share of each brick, `[bricks]`.
        limits: Share that the open bricks may cost together, `[batch]`.

    Returns:
        Whether each brick is open, `[batch, bricks]`.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    fits = np.cumsum(costs[order], axis=1) <= limits[:, None] + 1e-6
    opened = np.empty(logits.shape, dtype=np.bool_)
    np.put_along_axis(opened, order, fits, axis=1)
    return (opened & (logits > 0)) | (logits >= ALWAYS)
