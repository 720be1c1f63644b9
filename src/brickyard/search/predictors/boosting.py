"""Gradient boosting of trees; how much members trained on different draws disagree says how sure they are."""

from __future__ import annotations

from typing import Self

import numpy as np

from brickyard.search.predictors.base import PREDICTORS, Array

_MEMBERS = 4


@PREDICTORS.add("boosting")
class Boosting:
    """A few of scikit-learn's `GradientBoostingRegressor`, each on a draw of the points.

    Args:
        seed: Seed of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: Array, y: Array, *, tune: bool = True) -> Self:
        """Learn from measured points; nothing is tuned."""
        from sklearn.ensemble import GradientBoostingRegressor

        rng = np.random.default_rng(self.seed)
        self._members = []
        for member in range(_MEMBERS):
            drawn = rng.integers(0, len(y), len(y)) if len(y) > 1 else np.zeros(1, dtype=np.int64)
            model = GradientBoostingRegressor(
                n_estimators=150,
                max_depth=3,
                learning_rate=0.08,
                subsample=0.8,
                random_state=self.seed + member,
            )
            self._members.append(model.fit(x[drawn], y[drawn]))
        return self

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Predict points by the mean and spread of the members."""
        found = np.stack([model.predict(x) for model in self._members])
        return found.mean(0), np.maximum(found.std(0), 1e-9)
