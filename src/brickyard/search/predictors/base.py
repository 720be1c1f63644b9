"""The one interface of predictors: features and measured values in; means and how sure they are out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from brickyard.core.registry import Registry

Array = npt.NDArray[np.float64]


class Predictor(Protocol):
    """Learns a number that belongs to a point."""

    def fit(self, x: Array, y: Array, *, tune: bool = True) -> Self:
        """Learn from measured points.

        Args:
            x: Features `[points, width]`, about in [0, 1].
            y: Values `[points]`, finite.
            tune: Whether what decides the shape of the predictor (length scales, penalties) is fitted too, or
                kept from the last fit; for many fits in a row.

        Returns:
            Itself.
        """

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Predict points.

        Args:
            x: Features `[points, width]`.

        Returns:
            Means and standard deviations, `[points]` each, in the unit of the values.
        """


PREDICTORS: Registry[Callable[[int], Predictor]] = Registry("predictors")
"""What builds a predictor from a seed, by name."""


class Together(Protocol):
    """Predictions of some points, some of which can be supposed known."""

    mean: Array

    @property
    def deviation(self) -> Array:
        """Standard deviations, `[points]`."""

    def suppose(self, index: int) -> None:
        """Take the value of a point as known, as large as its mean."""


class Apart:
    """Predictions of points that tell nothing of each other.

    Args:
        mean: Means, `[points]`.
        deviation: Standard deviations, `[points]`.
    """

    def __init__(self, mean: Array, deviation: Array) -> None:
        self.mean, self.deviation = mean, deviation.copy()

    def suppose(self, index: int) -> None:
        """Take the value of a point as known."""
        self.deviation[index] = 1e-9


def together(predictor: Predictor, x: Array) -> Together:
    """Predict points together where the predictor can, and each for itself where it cannot.

    Args:
        predictor: A fitted predictor.
        x: Features `[points, width]`.
    """
    joint = getattr(predictor, "joint", None)
    if joint is not None:
        return joint(x)  # type: ignore[no-any-return]
    return Apart(*predictor.predict(x))
