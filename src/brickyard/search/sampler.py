"""Lightweight iterative search as a sampler of Optuna (arXiv 2205.10358; see `brickyard.search.propose`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from brickyard.core.errors import ConfigError
from brickyard.search.encodings import ENCODINGS
from brickyard.search.genes import Genes, Rows
from brickyard.search.idle import find_idle
from brickyard.search.known import Known
from brickyard.search.propose import Measured, Proposer
from brickyard.search.transfer import Lesson

if TYPE_CHECKING:
    from optuna.study import Study

    from brickyard.search.model import Features

Constraints = Callable[[FrozenTrial], Sequence[float]]
Same = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class LinasSampler(BaseSampler):
    """Proposes what predictors, refitted as evaluations come, expect to add most to the front.

    Works on any search space of Optuna, with one objective or several; parameters that only some trials have
    are drawn at random. No point is proposed twice, nor while it is being evaluated, as long as there are
    others.

    Args:
        startup: Evaluations at random before predictors are asked, at least 2.
        batch_size: Points that are proposed from one fit, to be evaluated one after the other or at once.
        encodings: What predictors may see of a point, by name; those of `brickyard.search.encodings` if None.
            Functions of `(genes, rows)` that know more of a space, such as its graph, help a lot.
        predictors: Names of predictors to choose from by cross-validation; the Gaussian process alone is the
            quickest, and the best on most spaces.
        reference: Worst values that count, one for each objective; None, for one or in place of all, to
            follow from the evaluations.
        constraints_func: Gives numbers of a finished trial, all of them at most 0 where it is to be counted.
        warm_start: What an earlier study measured in the same space, to learn from too.
        narrow: Whether the domains shrink to what the front shows, see `brickyard.search.narrow`.
        canonical: From the parameters of a point to those of one that computes the same; decisions that play
            no part are seen as such, and none of two points that compute the same is proposed. None where all
            points differ.
        seed: Seed of all draws; None for one of the system.

    Raises:
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        *,
        startup: int = 15,
        batch_size: int = 5,
        encodings: Features | None = None,
        predictors: Sequence[str] = ("gaussian",),
        reference: Sequence[float | None] | None = None,
        constraints_func: Constraints | None = None,
        warm_start: Lesson | None = None,
        narrow: bool = False,
        canonical: Same | None = None,
        seed: int | None = None,
    ) -> None:
        if startup < 2 or batch_size < 1:
            raise ConfigError(
                f"startup = {startup} must be at least 2 and batch_size = {batch_size} at least 1"
            )
        self.startup, self.batch_size = startup, batch_size
        self.encodings: Features = encodings or {name: ENCODINGS[name] for name in ENCODINGS}
        self.predictors = tuple(predictors)
        self.reference, self.constraints_func = reference, constraints_func
        self.warm_start, self.narrow, self.canonical = warm_start, narrow, canonical
        self.seed = int(np.random.SeedSequence().entropy) % 2**32 if seed is None else seed  # type: ignore[arg-type]
        self._random = RandomSampler(seed=self.seed)
        self._spaces = IntersectionSearchSpace()
        self._genes: tuple[str, Genes] | None = None
        self._known: tuple[str, Known] | None = None
        self._proposer: tuple[tuple[str, int], Proposer] | None = None
        self._queue: list[Rows] = []
        self._asked_at = 0
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def reseed_rng(self) -> None:
        """Draw a new seed of single parameters; proposals depend on the number of the trial already."""
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all finished trials share."""
        shared = self._spaces.calculate(study)
        return {name: found for name, found in shared.items() if not found.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the parameters of a trial together."""
        if not search_space:
            return {}
        rng = np.random.default_rng([self.seed, trial.number])
        space = repr((study._study_id, tuple(search_space.items())))
        with self._lock:  # threads of one study share what is known, the predictors and the queue
            genes = self._genes_of(search_space, space)
            known = self._read(study, trial, genes, space)
            row = None
            if len(known.rows) >= self.startup:
                key = space, known.limits.shape[1]
                if self._proposer is None or self._proposer[0] != key:
                    self._proposer = key, self._new_proposer(genes, study, known.limits.shape[1])
                    self._queue = []
                row = self._next(known, rng)
        return genes.params(_fresh(genes, known, rng) if row is None else row)

    def _genes_of(self, search_space: dict[str, BaseDistribution], key: str) -> Genes:
        if self._genes is None or self._genes[0] != key:
            genes = Genes(search_space)
            if self.canonical is not None:
                genes.idle = find_idle(genes, self.canonical)
            self._genes = key, genes
        return self._genes[1]

    def _new_proposer(self, genes: Genes, study: Study, num_limits: int) -> Proposer:
        reference = None
        if self.reference is not None:
            if len(self.reference) != len(study.directions):
                raise ConfigError(
                    f"reference has {len(self.reference)} values; the study has {len(study.directions)} "
                    "objectives"
                )
            reference = [
                None if value is None else float(value * sign)
                for value, sign in zip(self.reference, _signs(study), strict=True)
            ]
        earlier = None if self.warm_start is None else self.warm_start.earlier(genes)
        if earlier is not None and len(earlier) != len(study.directions) + num_limits:
            raise ConfigError(
                f"warm_start tells of {len(earlier)} numbers; the study has {len(study.directions)} "
                f"objectives and {num_limits} constraints; give None for what the earlier study lacks",
                path="warm_start",
            )
        return Proposer(
            genes,
            num_objectives=len(study.directions),
            num_limits=num_limits,
            encodings=self.encodings,
            predictors=self.predictors,
            reference=reference,
            seed=self.seed,
            earlier=earlier,
            narrow=self.narrow,
        )

    def _next(self, known: Measured, rng: np.random.Generator) -> Rows | None:
        """Return the next point of the queue that nobody has taken; propose anew where the queue is old."""
        assert self._proposer is not None
        taken = {row.tobytes() for rows in (known.rows, known.pending, known.refused) for row in rows}
        while True:
            if not self._queue or len(known.rows) >= self._asked_at + self.batch_size:
                self._queue = list(self._proposer[1](known, self.batch_size, rng))
                self._asked_at = len(known.rows)
                if not self._queue:
                    return None
            row = self._queue.pop(0)
            if row.tobytes() not in taken:
                return row

    def _read(self, study: Study, trial: FrozenTrial, genes: Genes, key: str) -> Measured:
        """Sort the trials of a study into measured, pending and others."""
        if self._known is None or self._known[0] != key:
            self._known = key, Known(genes, _signs(study), self._limits)
        return self._known[1](study.get_trials(deepcopy=False), but=trial.number)

    def _limits(self, trial: FrozenTrial) -> Sequence[float]:
        return () if self.constraints_func is None else tuple(self.constraints_func(trial))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Keep the constraints of a trial where Optuna looks for them."""
        if self.constraints_func is not None:
            from optuna.samplers._base import _process_constraints_after_trial

            _process_constraints_after_trial(self.constraints_func, study, trial, state)


def _signs(study: Study) -> Any:
    return np.array([-1.0 if way == StudyDirection.MAXIMIZE else 1.0 for way in study.directions])


def _fresh(genes: Genes, known: Measured, rng: np.random.Generator) -> Rows:
    """Draw a point that is not known; any, where a thousand draws found none."""
    taken = {row.tobytes() for rows in (known.rows, known.pending, known.refused) for row in rows}
    drawn = genes.draw(1000, rng)
    return next((row for row in drawn if row.tobytes() not in taken), drawn[0])
