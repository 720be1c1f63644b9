"""Fronts: which points no other beats, what they dominate, and where a better one would lie.

All objectives are made smaller. The hypervolume is what the points dominate below a reference point.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def non_dominated(values: Values) -> npt.NDArray[np.bool_]:
    """Tell which points no other point beats; of equal points the first one counts.

    Args:
        values: Objectives, `[points, objectives]`, the smaller the better.

    Returns:
        A mask, `[points]`.
    """
    count = len(values)
    keep = np.zeros(count, dtype=bool)
    order = np.lexsort(values.T[::-1])
    if values.shape[1] == 2:  # better in the second objective than all that are as good in the first
        second = values[order, 1]
        keep[order[:1]] = True
        keep[order[1:]] = second[1:] < np.minimum.accumulate(second)[:-1]
        return keep
    front = np.empty((0, values.shape[1]))
    for place in order:
        if not (front <= values[place]).all(1).any():
            keep[place] = True
            front = np.vstack([front, values[place]])
    return keep


def boxes(front: Values, reference: Values) -> tuple[Values, Values]:
    """Cut what no point of a front dominates, below the reference point, into boxes that do not overlap.

    Args:
        front: Points that no other beats, `[points, objectives]`.
        reference: The worst that counts, `[objectives]`.

    Returns:
        Lower corners, some of them at minus infinity, and upper corners, `[boxes, objectives]` each.
    """
    inside = front[(front < reference).all(1)]
    lower, upper = _cut(inside, reference)
    return lower, upper


def _cut(front: Values, reference: Values) -> tuple[Values, Values]:
    width = len(reference)
    if width == 1:
        best = front.min() if len(front) else reference[0]
        return np.full((1, 1), -np.inf), np.array([[best]])
    if width == 2:
        front = front[np.argsort(front[:, 1], kind="stable")]
        steps = np.concatenate([[-np.inf], front[:, 1], reference[1:]])
        ends = np.concatenate([reference[:1], np.minimum.accumulate(front[:, 0])])
        wide = steps[1:] > steps[:-1]
        low = np.stack([np.full(len(ends), -np.inf), steps[:-1]], axis=1)
        return low[wide], np.stack([ends, steps[1:]], axis=1)[wide]
    edges = np.concatenate([[-np.inf], np.unique(front[:, -1]), reference[-1:]])
    lower, upper = [], []
    for low, high in pairwise(edges):
        flat = front[front[:, -1] <= low, :-1]
        parts = _cut(flat[non_dominated(flat)] if len(flat) else flat, reference[:-1])
        count = len(parts[0])
        lower.append(np.hstack([parts[0], np.full((count, 1), low)]))
        upper.append(np.hstack([parts[1], np.full((count, 1), high)]))
    return np.vstack(lower), np.vstack(upper)


def hypervolume(values: Values, reference: Values) -> float:
    """Return the volume that points dominate below a reference point.

    Args:
        values: Objectives, `[points, objectives]`; points that are not below the reference add nothing.
        reference: The worst that counts, `[objectives]`.
    """
    inside = values[(values < reference).all(1)]
    if not len(inside):
        return 0.0
    best = inside.min(0)
    lower, upper = boxes(inside[non_dominated(inside)], reference)
    free = np.prod(np.maximum(upper - np.maximum(lower, best), 0.0), axis=1).sum()
    return float(np.prod(reference - best) - free)
