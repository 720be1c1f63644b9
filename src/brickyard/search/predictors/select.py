"""Which predictor on which encoding: the one that ranks held-out points best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from brickyard.search.predictors.base import Array, Predictor

_FOLDS = 5
_DRAWS = 200


@dataclass(frozen=True)
class Quality:
    """How well a predictor does on points that it was not fitted to.

    Attributes:
        predictor: Its name.
        encoding: Name of the encoding it sees.
        rank_correlation: Spearman's, in [-1, 1].
        rank_interval: Its 95 % interval over draws of the points.
        error: Mean absolute error, in the unit of the values.
        error_interval: Its 95 % interval.
        count: Points.
    """

    predictor: str
    encoding: str
    rank_correlation: float
    rank_interval: tuple[float, float]
    error: float
    error_interval: tuple[float, float]
    count: int


def held_out(make: Callable[[], Predictor], x: Array, y: Array, *, seed: int, folds: int = _FOLDS) -> Array:
    """Predict every point by a predictor that was fitted without it.

    What decides the shape of a predictor is fitted once, on all points, and kept in the folds: that costs one
    fit instead of several, and flatters all predictors a little.

    Args:
        make: Builds the predictor.
        x: Features `[points, width]`.
        y: Values `[points]`, at least two.
        seed: Seed of the folds.
        folds: Number of folds, fewer where there are fewer points.

    Returns:
        Predictions, `[points]`.
    """
    order = np.random.default_rng(seed).permutation(len(y))
    predictor = make().fit(x, y)
    found = np.empty(len(y))
    for part in np.array_split(order, min(folds, len(y))):
        rest = np.setdiff1d(order, part)
        found[part] = predictor.fit(x[rest], y[rest], tune=False).predict(x[part])[0]
    return found


def rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation; 0 where one of the two is constant."""
    first, second = rankdata(a), rankdata(b)
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / size) if size > 0 else 0.0


def judge(predicted: Array, y: Array, *, predictor: str, encoding: str, seed: int) -> Quality:
    """Sum up held-out predictions.

    Args:
        predicted: Predictions, `[points]`.
        y: Values, `[points]`.
        predictor: Name of the predictor.
        encoding: Name of the encoding.
        seed: Seed of the intervals.
    """
    rng = np.random.default_rng(seed)
    errors = np.abs(predicted - y)
    ranks, means = [], []
    for _ in range(_DRAWS):
        drawn = rng.integers(0, len(y), len(y))
        ranks.append(rank_correlation(predicted[drawn], y[drawn]))
        means.append(errors[drawn].mean())
    return Quality(
        predictor=predictor,
        encoding=encoding,
        rank_correlation=rank_correlation(predicted, y),
        rank_interval=_interval(ranks),
        error=float(errors.mean()),
        error_interval=_interval(means),
        count=len(y),
    )


def select(
    makers: Mapping[str, Callable[[], Predictor]], features: Mapping[str, Array], y: Array, *, seed: int
) -> list[Quality]:
    """Judge every predictor on every encoding.

    Args:
        makers: What builds each predictor, by name.
        features: Features of the points under each encoding, `[points, width]`.
        y: Values, `[points]`.
        seed: Seed of folds and intervals.

    Returns:
        The qualities, the best first: the highest rank correlation, then the smallest error.
    """
    found = [
        judge(held_out(make, x, y, seed=seed), y, predictor=name, encoding=encoding, seed=seed)
        for name, make in makers.items()
        for encoding, x in features.items()
    ]
    return sorted(found, key=lambda quality: (-quality.rank_correlation, quality.error))


def _interval(draws: list[float]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
