"""A small ensemble of multi-layer perceptrons; their disagreement says how sure they are."""

from __future__ import annotations

import warnings
from typing import Self

import numpy as np

from brickyard.search.predictors.base import PREDICTORS, Array

_MEMBERS = 4


@PREDICTORS.add("mlp")
class Ensemble:
    """A few of scikit-learn's `MLPRegressor` with different fresh weights, on standardised values.

    Args:
        seed: Seed of the weights.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: Array, y: Array, *, tune: bool = True) -> Self:
        """Learn from measured points; nothing is tuned."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        z = (y - self._mean) / self._scale
        self._members = []
        for member in range(_MEMBERS):
            model = MLPRegressor(
                hidden_layer_sizes=(32, 32),
                solver="lbfgs",
                alpha=0.1,
                max_iter=150,
                random_state=self.seed + member,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a short fit is a regulariser here
                self._members.append(model.fit(2.0 * x - 1.0, z))
        return self

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Predict points by the mean and spread of the members."""
        found = np.stack([model.predict(2.0 * x - 1.0) for model in self._members])
        return self._mean + self._scale * found.mean(0), self._scale * np.maximum(found.std(0), 1e-9)
