"""What is known of one objective: warped values, the predictors and encodings that do best on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brickyard.core.errors import ConfigError
from brickyard.search.genes import Genes, Rows
from brickyard.search.predictors.base import PREDICTORS, Array, Predictor, Together, together
from brickyard.search.predictors.select import Quality, select
from brickyard.search.transfer import Bridge, Certain, Earlier
from brickyard.search.warp import Warp, half_rank

Features = Mapping[str, Callable[[Genes, Rows], Array]]

_SELECT_AGAIN = 2.0  # predictors and encodings are chosen anew when there are so many times as many points
_SETTLED = 300  # with so many points, the choice stays as it is
_TUNE_AGAIN = 1.3  # what shapes the predictors is fitted anew
_VIEWS = 3


@dataclass(frozen=True)
class View:
    """A predictor and the encoding that it sees."""

    encoding: str
    predictor: Predictor


class Model:
    """Predicts one objective; what it is made of is chosen anew as points come in.

    Few points do not tell which of several encodings is best, and each is blind to something. So a model may
    hold several views: the predictor and encoding that rank held-out points best, and up to two others that
    are as good within the 95 % interval of the best.

    Args:
        genes: The space.
        encodings: Encodings to choose from, by name.
        predictors: Names of predictors to choose from.
        seed: Seed of folds and predictors.
        earlier: Points of an earlier study and what it measured there, to learn from too; see
            `brickyard.search.transfer`.

    Attributes:
        qualities: How well every choice did when the last one was made, the best first.
        views: What it predicts by, the best first.
    """

    def __init__(
        self,
        genes: Genes,
        *,
        encodings: Features,
        predictors: Sequence[str],
        seed: int,
        earlier: Earlier | None = None,
    ) -> None:
        if not encodings or not predictors:
            raise ConfigError("a model needs at least one encoding and one predictor")
        self.genes, self.seed, self.earlier = genes, seed, earlier
        self.encodings = dict(encodings)
        self.makers = {name: PREDICTORS[name] for name in predictors}
        self.qualities: list[Quality] = []
        self.views = [View(next(iter(self.encodings)), next(iter(self.makers.values()))(seed))]
        self._warp: Warp | None = None
        self._bridge: Bridge | None = None
        self._selected = self._tuned = 0

    def fit(self, rows: Rows, values: Array) -> Array:
        """Learn from measured points.

        Args:
            rows: Genes, `[points, columns]`.
            values: The objective, the smaller the better, `[points]`, finite.

        Returns:
            The values as it learns them; the order of points is the same.
        """
        count = len(rows)
        self._bridge = None if self.earlier is None else self.earlier.bridge(rows, values)
        if self._bridge is not None:
            rows, values = self._bridge.joined(rows, values)
        self._warp = half_rank(values)
        target = self._warp(values)
        choices = len(self.makers) * len(self.encodings)
        settled = bool(self._selected) and len(rows) >= _SETTLED
        if choices > 1 and not settled and len(rows) >= _SELECT_AGAIN * self._selected:
            self._select(rows, target, count)
        tune = count >= _TUNE_AGAIN * self._tuned
        if tune:
            self._tuned = count
        for view in self.views:
            view.predictor.fit(self._features(view.encoding, rows, count), target, tune=tune)
        return target[:count]

    def _select(self, rows: Rows, target: Array, count: int) -> None:
        self._selected, self._tuned = len(rows), 0
        features = {name: self._features(name, rows, count) for name in self.encodings}
        makers = {name: (lambda make=make: make(self.seed)) for name, make in self.makers.items()}
        self.qualities = select(makers, features, target, seed=self.seed)
        least = self.qualities[0].rank_interval[0]
        good = [found for found in self.qualities if found.rank_correlation >= least]
        chosen = good[:_VIEWS] or self.qualities[:1]
        self.views = [View(found.encoding, self.makers[found.predictor](self.seed)) for found in chosen]

    def view(self, place: int) -> View:
        """Return the view whose turn it is, counted round."""
        return self.views[place % len(self.views)]

    def _features(self, encoding: str, rows: Rows, count: int) -> Array:
        """Encode points; the first ones are of this study, what comes after of the earlier one."""
        found = self.encodings[encoding](self.genes, rows)
        return found if self._bridge is None else self._bridge.features(found, count)

    def warp(self, values: Array) -> Array:
        """Return values as they are learnt."""
        assert self._warp is not None
        return self._warp(values)

    def predict(self, rows: Rows, place: int = 0) -> tuple[Array, Array]:
        """Predict points, as they are learnt.

        Args:
            rows: Genes, `[points, columns]`.
            place: Whose turn it is among the views; the best one is 0.

        Returns:
            Means and standard deviations, `[points]` each.
        """
        found = self._by(self.view(place), rows)
        return found.mean, found.deviation

    def together(self, rows: Rows) -> list[Together]:
        """Predict points so that some can be supposed known, by each of the views."""
        return [self._by(view, rows) for view in self.views]

    def _by(self, view: View, rows: Rows) -> Together:
        found = together(view.predictor, self._features(view.encoding, rows, len(rows)))
        if self._bridge is None:
            return found
        known, values = self._bridge.known(rows)
        return Certain(found, known, self.warp(values)) if known.any() else found


def stack(parts: Sequence[Array]) -> Array:
    """Put objectives side by side, `[points, objectives]`."""
    return np.stack(list(parts), axis=1)
