"""Proposals: the points that are worth measuring next.

Lightweight iterative search as in arXiv 2205.10358: predictors learn from all measurements so far, an inner
search runs on predictions alone, a batch of its best points is measured, and so on. What differs from the
paper: no point is ever proposed twice, predictors say how sure they are, and a batch is drawn by expected
hypervolume improvement, each point supposing that those before it turn out as predicted. So it explores, and
a batch does not crowd one place. Every fifth point is drawn for the first objective alone: what is best
in it is on the front wherever a cost turns out lower than predicted, as measured costs do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from brickyard.search.candidates import candidates, without
from brickyard.search.fronts import Values, boxes, non_dominated
from brickyard.search.genes import Genes, Rows
from brickyard.search.improvement import expected_below, expected_improvement
from brickyard.search.model import Features, Model, stack
from brickyard.search.narrow import Domains
from brickyard.search.predictors.base import Together
from brickyard.search.threads import one_blas_thread
from brickyard.search.transfer import Earlier, told_first

_SHORTLIST = 300
_MARGIN = 0.1
_ALONE = 5  # every so many points, one is drawn for the first objective alone
_BEST_ALONE = 20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known.

    Attributes:
        rows: Genes of the measured points, `[points, columns]`.
        values: Objectives, the smaller the better, `[points, objectives]`, finite.
        limits: Constraints, met at 0 and below, `[points, constraints]`.
        pending: Genes of points that are being measured, `[points, columns]`.
        refused: Genes of other points that are not to be proposed.
    """

    rows: Rows
    values: Values
    limits: Values
    pending: Rows
    refused: Rows


class Proposer:
    """Proposes points of one space.

    Args:
        genes: The space.
        num_objectives: Number of objectives.
        num_limits: Number of constraints.
        encodings: Encodings to choose from, by name.
        predictors: Names of predictors to choose from.
        reference: Worst values that count, one for each objective; None, for one or for all, to follow from
            what was measured.
        seed: Seed of all draws.
        earlier: What an earlier study tells of each objective and constraint; None without one.
        narrow: Whether the domains shrink to what the front shows, see `brickyard.search.narrow`.

    Attributes:
        models: One for each objective, then one for each constraint.
    """

    def __init__(
        self,
        genes: Genes,
        *,
        num_objectives: int,
        num_limits: int = 0,
        encodings: Features,
        predictors: Sequence[str],
        reference: Sequence[float | None] | None = None,
        seed: int = 0,
        earlier: Sequence[Earlier | None] | None = None,
        narrow: bool = False,
    ) -> None:
        self.narrow = narrow
        self.earlier = [told for told in earlier or () if told is not None]
        self.genes, self.num_objectives = genes, num_objectives
        self.reference = tuple(reference or ())
        self.models = [
            Model(genes, encodings=encodings, predictors=predictors, seed=seed, earlier=told)
            for told in earlier or [None] * (num_objectives + num_limits)
        ]

    def __call__(self, known: Measured, count: int, rng: np.random.Generator) -> Rows:
        """Propose points.

        Args:
            known: What was measured, at least two points.
            count: How many to propose.
            rng: Source of the draws of the inner search.

        Returns:
            Genes `[proposals, columns]`, all different and none of them known; fewer than `count`, or none,
            where the space has no more.
        """
        with one_blas_thread():
            return self._propose(known, count, rng)

    def _propose(self, known: Measured, count: int, rng: np.random.Generator) -> Rows:
        targets = stack(
            [
                model.fit(known.rows, column)
                for model, column in zip(self.models, np.hstack([known.values, known.limits]).T, strict=True)
            ]
        )[:, : self.num_objectives]
        met = (known.limits <= 0).all(1)
        front = targets[met]
        front = front[non_dominated(front)]
        taken = np.vstack([known.rows, known.pending, known.refused])
        free = without(told_first(self.earlier, len(known.rows)), taken)
        if not len(free):
            free = candidates(
                self.genes,
                domains=Domains(self.genes, known.rows[met], targets[met]) if self.narrow else None,
                predict=lambda rows: stack([model.predict(rows)[0] for model in self.models]),
                best=known.rows[met][non_dominated(targets[met])],
                num_objectives=self.num_objectives,
                known=taken,
                rng=rng,
            )
        if not len(free):
            return free
        shortlist, reference = self._shortlist(free, front, targets)
        return self._batch(shortlist, front, reference, known, count)

    def _reference(self, front: Values, targets: Values) -> Values:
        """Return the worst that counts: what the user says, else a little worse than the front."""
        points = front if len(front) else targets
        span = points.max(0) - points.min(0)
        span = np.where(span > 0, span, np.ptp(targets, axis=0) + 1e-9)
        worst: Values = points.max(0) + _MARGIN * span
        for place, edge in enumerate(self.reference):
            if edge is not None:
                worst[place] = self.models[place].warp(np.array([edge]))[0]
        return worst

    @property
    def _turns(self) -> int:
        return max(len(model.views) for model in self.models)

    def _shortlist(self, free: Rows, front: Values, targets: Values) -> tuple[Rows, Values]:
        """Return what is best in some view or alone, and the worst values that count."""
        reference = self._reference(front, targets)
        kept: set[int] = set()
        for turn, joint in enumerate(self._by_turns(free)):
            mean, deviation = _predicted(joint)
            gain = self._gain(mean, deviation, front, reference)
            kept.update(_first(gain, _SHORTLIST // self._turns))
            if turn == 0:
                kept.update(_first(self._gain_alone(mean, deviation, front, reference), _BEST_ALONE))
        return free[sorted(kept)], reference

    def _by_turns(self, rows: Rows) -> list[list[Together]]:
        """Predict points by every view; return, for each turn, the view of each objective and constraint."""
        joint = [model.together(rows) for model in self.models]
        return [[views[turn % len(views)] for views in joint] for turn in range(self._turns)]

    def _gain(self, mean: Values, deviation: Values, front: Values, reference: Values) -> Values:
        """Return the expected improvement of points, times the chance that they meet all constraints."""
        objectives = slice(0, self.num_objectives)
        if self.num_objectives == 1:
            best = front.min(0) if len(front) else reference
            lower, upper = np.full((1, 1), -np.inf), best[None]
        else:
            lower, upper = boxes(front, reference)
        gain = expected_improvement(mean[:, objectives], deviation[:, objectives], lower, upper)
        return gain * self._met(mean, deviation)

    def _gain_alone(self, mean: Values, deviation: Values, front: Values, reference: Values) -> Values:
        """Return the expected improvement in the first objective, where the others are worth anything."""
        best = front[:, :1].min(0) if len(front) else reference[:1]
        gain: Values = expected_below(best, mean[:, 0], deviation[:, 0])[:, 0]
        for other in range(1, self.num_objectives):
            gain *= ndtr((reference[other] - mean[:, other]) / deviation[:, other])
        return gain * self._met(mean, deviation)

    def _met(self, mean: Values, deviation: Values) -> Values:
        """Return the chance that all constraints are met."""
        chance = np.ones(len(mean))
        for place, model in enumerate(self.models[self.num_objectives :], start=self.num_objectives):
            chance *= ndtr((model.warp(np.zeros(1))[0] - mean[:, place]) / deviation[:, place])
        return chance

    def _batch(self, rows: Rows, front: Values, reference: Values, known: Measured, count: int) -> Rows:
        """Draw points one by one, each supposing the values of those before; the views take turns."""
        points = np.vstack([known.pending, rows])
        turns = self._by_turns(points)
        views = list({id(part): part for turn in turns for part in turn}.values())
        picked = list(range(len(known.pending)))
        for part in views:
            for index in picked:
                part.suppose(index)
        best = stack([part.mean for part in turns[0]])[:, : self.num_objectives]
        supposed = np.vstack([front, best[picked]])
        chosen: list[int] = []
        while len(chosen) < min(count, len(rows)):
            turn = turns[len(chosen) % len(turns)]
            mean, deviation = _predicted(turn)
            supposed = supposed[non_dominated(supposed)]
            drawn = len(known.rows) + len(picked)
            gain = (self._gain_alone if drawn % _ALONE == 0 else self._gain)(
                mean, deviation, supposed, reference
            )
            gain[picked] = -1.0
            index = int(np.argmax(gain))
            picked.append(index)
            chosen.append(index)
            for part in views:
                part.suppose(index)
            supposed = np.vstack([supposed, mean[index, : self.num_objectives]])
        return points[chosen]


def _predicted(turn: Sequence[Together]) -> tuple[Values, Values]:
    """Return means and deviations, `[points, objectives and constraints]` each."""
    return stack([part.mean for part in turn]), stack([part.deviation for part in turn])


def _first(gain: Values, count: int) -> list[int]:
    """Return the places of the largest gains."""
    found: list[int] = np.argsort(-gain, kind="stable")[:count].tolist()
    return found
