"""Support vector regression with a radial kernel; as sure as it was right on held-out folds."""

from __future__ import annotations

from typing import Self

import numpy as np

from brickyard.search.predictors.base import PREDICTORS, Array

_PENALTIES = (1.0, 10.0, 100.0)
_FOLDS = 5


@PREDICTORS.add("svr")
class SupportVectors:
    """scikit-learn's `SVR` on standardised values; the penalty is the best in five folds.

    Args:
        seed: Seed of the folds.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.penalty = 10.0
        self._error = 1.0

    def fit(self, x: Array, y: Array, *, tune: bool = True) -> Self:
        """Learn from measured points."""
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.svm import SVR

        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        z = (y - self._mean) / self._scale
        if tune and len(z) >= 2 * _FOLDS:
            folds = KFold(_FOLDS, shuffle=True, random_state=self.seed)
            errors = {
                penalty: float(
                    np.sqrt(
                        ((cross_val_predict(SVR(C=penalty, epsilon=0.01), x, z, cv=folds) - z) ** 2).mean()
                    )
                )
                for penalty in _PENALTIES
            }
            self.penalty = min(errors, key=errors.__getitem__)
            self._error = errors[self.penalty]
        self._model = SVR(C=self.penalty, epsilon=0.01).fit(x, z)
        return self

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Predict points; the deviation is the error of the folds, the same everywhere."""
        mean = self._mean + self._scale * self._model.predict(x)
        return mean, np.full(len(x), max(self._scale * self._error, 1e-9))
