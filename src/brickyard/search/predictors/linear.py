"""Ridge regression whose penalty and noise follow from the data (evidence), with its own uncertainty."""

from __future__ import annotations

from typing import Self

from brickyard.search.predictors.base import PREDICTORS, Array


@PREDICTORS.add("ridge")
class Ridge:
    """A linear function of the features; scikit-learn's `BayesianRidge`.

    Args:
        seed: Not used; nothing is drawn.
    """

    def __init__(self, seed: int = 0) -> None:
        from sklearn.linear_model import BayesianRidge

        self._model = BayesianRidge()

    def fit(self, x: Array, y: Array, *, tune: bool = True) -> Self:
        """Learn from measured points; penalty and noise are cheap and fitted anew always."""
        self._model.fit(x, y)
        return self

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Predict points, with the noise that is left."""
        mean, deviation = self._model.predict(x, return_std=True)
        return mean, deviation
