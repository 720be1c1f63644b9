"""Noise of measurements: which points have to be measured again before it is known which of them is better.

The noise of an objective is the deviation among measurements of one point, pooled over all points that were
measured more than once. Two points are told apart where the difference of their means is at least twice its
standard error, in so many objectives that it is known which of them beats the other, or that neither does.
To see the noise at all, the best eight points are measured twice first; what is exact costs no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from brickyard.search.fronts import Values, non_dominated

_FIRST = 8  # points that are measured twice to see how large the noise is
_SURE = 2.0  # standard errors


def noise_of(measured: Sequence[Values]) -> Values | None:
    """Return the standard deviation of one measurement of each objective, `[objectives]`.

    Args:
        measured: Measurements of each point, `[measurements, objectives]`.

    Returns:
        The deviations; None where no point was measured more than once.
    """
    # differences to one of the values, so that equal ones give exactly 0
    squares = [len(values) * np.var(values - values[0], axis=0) for values in measured if len(values) > 1]
    if not squares:
        return None
    found: Values = np.sqrt(np.sum(squares, axis=0) / sum(len(values) - 1 for values in measured))
    return found


def to_repeat(measured: Sequence[Values], limit: int) -> list[int]:
    """Return the points to measure again.

    Args:
        measured: Measurements of each point, `[measurements, objectives]`, the smaller the better.
        limit: Most measurements of a point.

    Returns:
        Indices of points, those with the fewest measurements first; none where all points of the front are
        told apart from all others, or the limit is reached.
    """
    if not measured:
        return []
    means = np.stack([values.mean(0) for values in measured])
    counts = np.array([len(values) for values in measured])
    noise = noise_of(measured)
    if noise is None or (counts - 1).sum() < min(_FIRST, len(counts)):
        wanted = {place for place in _best(means) if counts[place] == 1}
    else:
        wanted = _unclear(means, counts, noise)
    return sorted((int(i) for i in wanted if counts[i] < limit), key=lambda i: (counts[i], i))


def _best(means: Values) -> list[int]:
    """Return the first points, front by front; of a large front those that are spread along it."""
    found: list[int] = []
    rest = np.arange(len(means))
    while len(rest) and len(found) < _FIRST:
        layer = rest[non_dominated(means[rest])]
        rest = np.setdiff1d(rest, layer)
        layer = layer[np.argsort(means[layer, 0], kind="stable")]
        count = min(_FIRST - len(found), len(layer))
        found += layer[np.linspace(0, len(layer) - 1, count).round().astype(int)].tolist()
    return found


def _unclear(means: Values, counts: npt.NDArray[np.int64], noise: Values) -> set[int]:
    """Return the points of pairs, one of them on the front, that are not told apart.

    Points that one of the front surely beats are no rivals of the others.
    """
    pairs: list[tuple[int, npt.NDArray[np.bool_]]] = []
    beaten = np.zeros(len(means), dtype=bool)
    for place in np.flatnonzero(non_dominated(means)).tolist():
        gap = means - means[place]
        error = noise * np.sqrt(1.0 / counts + 1.0 / counts[place])[:, None]
        clear = np.abs(gap) >= _SURE * error
        better, worse = (clear & (gap < 0)).any(1), (clear & (gap > 0)).any(1)
        beaten |= clear.all(1) & worse & ~better
        unclear = ~clear.all(1) & ~(better & worse)
        unclear[place] = False
        pairs.append((place, unclear))
    found: set[int] = set()
    for place, unclear in pairs:
        rivals = np.flatnonzero(unclear & ~beaten)
        if len(rivals):
            found.update([place, *rivals.tolist()])
    return found
