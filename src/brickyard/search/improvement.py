"""How much a point may be expected to add to a front.

The expected hypervolume improvement is exact for independent predictions, each a mixture of two normals: over
each box that no point dominates yet it is a product of one-dimensional expected improvements (arXiv
1904.10885 for the idea).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from brickyard.search.fronts import Values

_ODD, _WIDER = 0.1, 3.0
_ROOT = float(np.sqrt(2.0 * np.pi))


def expected_below(edge: npt.NDArray[np.float64], mean: Values, deviation: Values) -> Values:
    """Return how far below an edge a variable lies on average, counting 0 where it lies above.

    The variable is normal, and in one of ten cases three times as wide: measurements have outliers, and a
    lucky one is worth finding.

    Args:
        edge: Edges, `[edges]`; minus infinity gives 0.
        mean: Means, `[points]`.
        deviation: Standard deviations, `[points]`, above 0.

    Returns:
        Expected distances, `[points, edges]`.
    """
    finite = np.where(np.isfinite(edge), edge, 0.0)
    gap = finite[None] - mean[:, None]
    usual, odd = (_normal_below(gap, scale * deviation[:, None]) for scale in (1.0, _WIDER))
    return np.where(np.isfinite(edge)[None], (1.0 - _ODD) * usual + _ODD * odd, 0.0)


def _normal_below(gap: Values, deviation: Values) -> Values:
    z = gap / deviation
    found: Values = gap * ndtr(z) + deviation * np.exp(-0.5 * z**2) / _ROOT
    return found


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
