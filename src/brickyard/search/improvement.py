"""How much a point may be expected to add to a front.

The expected hypervolume improvement is exact for independent normal predictions: over each box that no point
dominates yet it is a product of one-dimensional expected improvements (arXiv 1904.10885 for the idea).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from brickyard.search.fronts import Values

_ROOT = float(np.sqrt(2.0 * np.pi))


def expected_below(edge: npt.NDArray[np.float64], mean: Values, deviation: Values) -> Values:
    """Return how far below an edge a normal variable lies on average, counting 0 where it lies above.

    Args:
        edge: Edges, `[edges]`; minus infinity gives 0.
        mean: Means, `[points]`.
        deviation: Standard deviations, `[points]`, above 0.

    Returns:
        Expected distances, `[points, edges]`.
    """
    finite = np.where(np.isfinite(edge), edge, 0.0)
    gap = finite[None] - mean[:, None]
    z = gap / deviation[:, None]
    found: Values = gap * ndtr(z) + deviation[:, None] * np.exp(-0.5 * z**2) / _ROOT
    return np.where(np.isfinite(edge)[None], found, 0.0)


def expected_improvement(mean: Values, deviation: Values, lower: Values, upper: Values) -> Values:
    """Return the expected hypervolume improvement of points.

    Args:
        mean: Predicted objectives, `[points, objectives]`.
        deviation: Their standard deviations, `[points, objectives]`.
        lower: Lower corners of the boxes that are free, `[boxes, objectives]`; see `fronts.boxes`.
        upper: Their upper corners.

    Returns:
        Improvements, `[points]`.
    """
    product = np.ones((len(mean), len(lower)))
    for column in range(mean.shape[1]):
        edges, places = np.unique(np.concatenate([lower[:, column], upper[:, column]]), return_inverse=True)
        below = expected_below(edges, mean[:, column], deviation[:, column])
        product *= below[:, places[len(lower) :]] - below[:, places[: len(lower)]]
    total: Values = product.sum(1)
    return total
