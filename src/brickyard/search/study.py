"""A search: a space, what an evaluation gives of it, and a study of Optuna that keeps every evaluation.

The study lives in a storage, so a search can be stopped at any time, goes on from there, and can be shared by
many workers. A worker that dies loses the evaluation it was at; another takes the same point up.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from brickyard.core.config import Config
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space
from brickyard.search.objective import Limit, Objective, limits_of, objectives_of
from brickyard.search.params import SameParams, config_of, distributions, params_of
from brickyard.search.remeasure import tell_apart
from brickyard.search.samplers import SAMPLERS, SamplerSettings
from brickyard.search.storage import (
    AGAIN,
    CONFIG,
    METRICS,
    open_storage,
    quiet_experiments,
    take_up_stale,
    without_sign_of_life,
)
from brickyard.search.transfer import WarmStart, lesson_of

Metrics = Mapping[str, float]
Evaluate = Callable[[Config], Metrics]
"""From a config to the objectives, the limited numbers and whatever else is worth keeping, by name."""

_SETUP, _COPY = "brickyard", "copy_of"
_PATIENCE_S, _SHORT_S = 0.5, 0.02


@dataclass(frozen=True)
class Found:
    """An evaluated point.

    Attributes:
        number: Number of its trial.
        config: The config.
        metrics: All that its evaluation gave; means where it was measured more than once.
        feasible: Whether it keeps every limit.
        measurements: What each measurement gave, in order.
    """

    number: int
    config: Config
    metrics: Metrics
    feasible: bool
    measurements: tuple[Metrics, ...] = ()


class Search:
    """One study of one space, with `ask` and `tell`.

    Args:
        space: The space.
        objectives: One to four objectives, see `Objective.parse`.
        limits: Bounds of numbers that an evaluation gives, by name.
        storage: Address of a database (`sqlite:///search.db`, `postgresql://...`), a path of an SQLite file,
            or a storage of Optuna; None to keep everything in memory.
        name: Name of the study.
        sampler: `linas`, `nsga2`, `random` or `exhaustive`, or a sampler of Optuna.
        settings: What a sampler that is given by name is built from; its constraints follow from the limits.
        canonical: From a config to one that computes the same; two that agree there are evaluated once.
        warm_start: An earlier study of the same space. Points of its front come first, in place of those at
            random; `linas` learns from all that it measured under the names of this search.

    Raises:
        ConfigError: The objectives or the reference are not legal, the study in the storage is of another
            space or other objectives or limits, or the earlier study is not there, of another space or of
            other numbers.
    """

    def __init__(
        self,
        *,
        space: Space,
        objectives: Iterable[str | Objective],
        limits: Mapping[str, float] | None = None,
        storage: str | Path | BaseStorage | None = None,
        name: str = "search",
        sampler: str | BaseSampler = "linas",
        settings: SamplerSettings | None = None,
        canonical: Callable[[Config], Config] | None = None,
        warm_start: WarmStart | None = None,
    ) -> None:
        self.space, self.canonical = space, canonical
        self.objectives = objectives_of(objectives)
        self.limits = limits_of(limits or {}, self.objectives)
        self.distributions = distributions(space)
        settings = settings or SamplerSettings()
        if settings.reference is not None and len(settings.reference) != len(self.objectives):
            raise ConfigError(
                f"reference has {len(settings.reference)} values; the search has {len(self.objectives)} "
                "objectives; give one for each, None where the evaluations are to decide",
                path="reference",
                value=list(settings.reference),
            )
        if self.limits:
            settings = replace(settings, constraints=_Excess(self.limits))
        if canonical is not None and settings.canonical is None:
            settings = replace(settings, canonical=SameParams(space, canonical))
        first: list[Config] = []
        if warm_start is not None:
            if warm_start.name == name and str(warm_start.storage) == str(storage):
                raise ConfigError(
                    f"warm_start is study {name!r} of the same storage, this search itself; give the search "
                    "another name",
                    path="warm_start",
                    value=name,
                )
            settings, first = self._warm(warm_start, settings)
        with quiet_experiments():
            built = SAMPLERS[sampler](settings) if isinstance(sampler, str) else sampler
        self._storage = open_storage(storage)
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            sampler=built,
            directions=["maximize" if objective.maximize else "minimize" for objective in self.objectives],
            load_if_exists=True,
        )
        self._agree()
        self.seed_with(first)

    @classmethod
    def stored(cls, storage: str | Path | BaseStorage, name: str, space: Space) -> Search:
        """Open a study that is in a storage, whatever its objectives and limits are.

        Args:
            storage: Its storage.
            name: Its name.
            space: Its space.

        Raises:
            ConfigError: It is not there, or of another space.
        """
        opened = open_storage(storage)
        assert opened is not None
        names = optuna.get_all_study_names(opened)
        if name not in names:
            raise ConfigError(
                f"there is no study {name!r} in the storage; there are {names}", path="name", value=name
            )
        setup = optuna.load_study(study_name=name, storage=opened).user_attrs.get(_SETUP, {})
        if setup.get("space") != json.loads(json.dumps(space.to_json())):
            raise ConfigError(
                f"study {name!r} is of another space; it can be read, and learnt from, in its own space only",
                path="space",
                value=space.to_json(),
                allowed=setup.get("space"),
            )
        return cls(
            space=space,
            objectives=[Objective(name, maximize) for name, maximize in setup["objectives"]],
            limits={name: bound for name, bound, _ in setup["limits"]},
            storage=opened,
            name=name,
            sampler="random",
        )

    def _warm(self, warm_start: WarmStart, settings: SamplerSettings) -> tuple[SamplerSettings, list[Config]]:
        """Return settings with what an earlier study knows, and the points to begin with."""
        points = Search.stored(warm_start.storage, warm_start.name, self.space).found()
        known = lesson_of(
            [params_of(self.space, point.config) for point in points],
            [point.metrics for point in points],
            objectives=self.objectives,
            limits=self.limits,
        )
        edges = settings.reference or [None] * len(self.objectives)
        signed = [
            edge if edge is None or not objective.maximize else -edge
            for objective, edge in zip(self.objectives, edges, strict=True)
        ]
        front = known.front(len(self.objectives), settings.startup, signed)
        startup = max(2, min(settings.startup, len(front)))
        return replace(settings, warm_start=known, startup=startup), [points[i].config for i in front]

    def _agree(self) -> None:
        """Write what the study is about, or compare with what it is about already."""
        own = {
            "space": self.space.to_json(),
            "objectives": [[objective.name, objective.maximize] for objective in self.objectives],
            "limits": [[limit.name, limit.bound, limit.at_least] for limit in self.limits],
        }
        own = json.loads(json.dumps(own))
        known = self.study.user_attrs.get(_SETUP)
        if known is None:
            self.study.set_user_attr(_SETUP, own)
            with quiet_experiments():
                self.study.set_metric_names([objective.name for objective in self.objectives])
            return
        for part, value in own.items():
            if known[part] != value:
                raise ConfigError(
                    f"study {self.study.study_name!r} in this storage has other {part}; choose another name, "
                    f"or search on with the same {part}",
                    path=part,
                    value=value,
                    allowed=known[part],
                )

    def seed_with(self, configs: Iterable[Mapping[str, Any]]) -> None:
        """Put configs first in line; those that were ever in line or evaluated are left out.

        Args:
            configs: Legal configs, such as the largest and the smallest of the space.

        Raises:
            ConfigError: One of them is not legal; then none is put in line.
        """
        params = [params_of(self.space, config) for config in configs]
        known = [_fixed(trial) for trial in self.study.get_trials(deepcopy=False)]
        for found in params:
            if found not in known:
                self.study.enqueue_trial(found)
                known.append(found)

    def ask(self) -> tuple[optuna.Trial, Config]:
        """Return a trial and the config to evaluate; near the end of a space it may be a known one."""
        trial = self.study.ask(self.distributions)
        return trial, self._config(trial)

    def _config(self, trial: optuna.Trial) -> Config:
        for name, distribution in self.distributions.items():
            trial.suggest_categorical(name, distribution.choices)  # type: ignore[attr-defined]
        config = config_of(self.space, trial.params)
        trial.set_user_attr(CONFIG, config.to_json())
        return config

    def tell(self, trial: optuna.Trial, metrics: Metrics) -> None:
        """Keep what an evaluation gave.

        Args:
            trial: The trial that `ask` returned.
            metrics: Its numbers, those of all objectives and limits among them.

        Raises:
            ConfigError: A number is missing or not finite.
        """
        values = self._keep(trial, metrics)
        self.study.tell(trial, values)

    def _keep(self, trial: optuna.Trial, metrics: Metrics) -> list[float]:
        checked = self.checked(metrics)
        trial.set_user_attr(METRICS, checked)
        return [checked[objective.name] for objective in self.objectives]

    def checked(self, metrics: Metrics) -> dict[str, float]:
        """Return what an evaluation gave, all numbers that the search needs among it.

        Args:
            metrics: What it gave.

        Raises:
            ConfigError: A number is missing or not finite.
        """
        needed = [*(objective.name for objective in self.objectives), *(limit.name for limit in self.limits)]
        missing = [name for name in needed if name not in metrics]
        if missing:
            raise ConfigError(
                f"the evaluation gave {sorted(metrics)}; {missing[0]!r} is missing", path=missing[0]
            )
        strange = [name for name in needed if not math.isfinite(metrics[name])]
        if strange:
            raise ConfigError(
                f"the evaluation gave {strange[0]} = {metrics[strange[0]]}; objectives and limits need "
                "finite numbers, so raise an error where there is none",
                path=strange[0],
                value=metrics[strange[0]],
            )
        return {name: float(value) for name, value in metrics.items()}

    def run(
        self,
        evaluate: Evaluate,
        *,
        evaluations: int,
        repeats: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Evaluate until the study has so many different points, those of other workers among them.

        Args:
            evaluate: Measures a config. An error it raises stops the search and is raised; the point is
                evaluated again when the search goes on.
            evaluations: Different points in all, at least 1.
            repeats: Most measurements of a point, at least 1. Above 1, points of the front and those that
                noise may hide behind are measured again when all points are there, until they are told apart;
                see `brickyard.search.repeats`.
            progress: Called with the points that are done and wanted.

        Raises:
            ConfigError: `evaluations` or `repeats` is not positive, or an evaluation lacks a number or gives
                one that is not finite.
        """
        for name, number in (("evaluations", evaluations), ("repeats", repeats)):
            if number < 1:
                raise ConfigError(f"{name} = {number} must be at least 1", path=name, value=number)
        late: list[int] = []

        def one(trial: optuna.Trial) -> list[float]:
            try:
                return self._evaluated(trial, evaluate, evaluations)
            except UpdateFinishedTrialError:  # so long without a sign of life that another has the point now
                late.append(trial.number)
                raise

        def after(study: optuna.Study, trial: FrozenTrial) -> None:
            if not self._wait_for_room(evaluations, progress):
                study.stop()

        while self._wait_for_room(evaluations, progress):
            try:
                self.study.optimize(one, callbacks=[after])
            except (UpdateFinishedTrialError, ValueError):
                if not late:
                    raise
                late.clear()
        if repeats > 1:
            tell_apart(self, evaluate, repeats)

    def _evaluated(self, trial: optuna.Trial, evaluate: Evaluate, evaluations: int) -> list[float]:
        """Evaluate the point of a trial, unless it is known, another worker is at it, or there is no room."""
        config = self._config(trial)
        before = self._before(trial.number)
        same = before.get(self._key(config))
        if same is not None and same.state == TrialState.COMPLETE:
            trial.set_user_attr(_COPY, same.number)
            trial.set_user_attr(METRICS, same.user_attrs[METRICS])
            return list(same.values)
        if same is not None or len(before) >= evaluations:
            raise optuna.TrialPruned
        try:
            return self._keep(trial, evaluate(config))
        except UpdateFinishedTrialError:
            raise
        except Exception:  # the point is put first in line
            self.study.enqueue_trial(trial.params)
            raise
        except KeyboardInterrupt:
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)
            raise

    def _wait_for_room(self, evaluations: int, progress: Callable[[int, int], None] | None) -> bool:
        """Tell whether a point is left to evaluate; wait while other workers are at the last ones."""
        while True:
            done = len(self.found())
            if progress is not None:
                progress(done, evaluations)
            if done >= evaluations or done >= self.space.size:
                return False
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if done + len(running) < evaluations:
                return True
            time.sleep(_PATIENCE_S)
            take_up_stale(self.study)
            self.free_the_silent(running)

    def free_the_silent(self, running: Sequence[FrozenTrial]) -> None:
        """Put in line again what a worker held that died before its first sign of life.

        Args:
            running: Trials that run.
        """
        for trial in without_sign_of_life(self._storage, running):
            with suppress(ValueError, UpdateFinishedTrialError):  # another worker was quicker
                self.study.tell(trial.number, state=TrialState.FAIL)
                known = _fixed(trial)
                if AGAIN not in trial.user_attrs and set(self.distributions) <= set(known):
                    self.study.enqueue_trial(known)  # type: ignore[arg-type]

    def _before(self, number: int) -> dict[str, FrozenTrial]:
        """Return the points that earlier trials hold, evaluate or wait to evaluate, by key.

        Waits until every earlier trial that runs has said what its point is (the bakery algorithm: the number
        of a trial is its ticket), so that of two workers at the same point exactly one evaluates it.
        """
        while True:
            trials = [t for t in self.study.get_trials(deepcopy=False) if not _is_more(t)]
            running = [t for t in trials if t.state == TrialState.RUNNING and t.number < number]
            silent = [trial for trial in running if CONFIG not in trial.user_attrs]
            if not silent:
                break
            time.sleep(_SHORT_S)
            take_up_stale(self.study)
            self.free_the_silent(silent)
        waiting = [t for t in trials if t.state == TrialState.WAITING and t.number < number]
        waiting = [trial for trial in waiting if set(self.distributions) <= set(_fixed(trial))]
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        held: dict[str, FrozenTrial] = {}
        for trial in (*done, *running):
            held.setdefault(self._key(self._config_of(trial)), trial)
        for trial in waiting:
            held.setdefault(self._key(config_of(self.space, _fixed(trial))), trial)
        return held

    def _key(self, config: Config) -> str:
        return (config if self.canonical is None else self.canonical(config)).digest()

    def _config_of(self, trial: FrozenTrial) -> Config:
        return self.space.check(Config.from_json(trial.user_attrs[CONFIG]))

    def found(self) -> list[Found]:
        """Return every evaluated point, in the order of their trials; copies of a point are left out."""
        measured: dict[int, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if AGAIN in trial.user_attrs:
                measured[trial.user_attrs[AGAIN]].append(trial)
            elif _COPY not in trial.user_attrs:
                measured[trial.number] = [trial]
        return [self._found(trials) for trials in measured.values()]

    def _found(self, trials: Sequence[FrozenTrial]) -> Found:
        measurements = tuple(trial.user_attrs[METRICS] for trial in trials)
        metrics = measurements[0]
        if len(measurements) > 1:
            shared = [name for name in metrics if all(name in more for more in measurements)]
            metrics = {name: math.fsum(m[name] for m in measurements) / len(measurements) for name in shared}
        return Found(
            trials[0].number,
            self._config_of(trials[0]),
            metrics,
            feasible=all(limit.excess(metrics[limit.name]) <= 0 for limit in self.limits),
            measurements=measurements,
        )


class _Excess:
    """By how much a finished trial breaks each limit; one that measured nothing breaks all."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)

    def __call__(self, trial: FrozenTrial) -> list[float]:
        if METRICS not in trial.user_attrs:
            return [1.0] * len(self.limits)
        metrics = trial.user_attrs[METRICS]
        return [limit.excess(metrics[limit.name]) for limit in self.limits]


def _is_more(trial: FrozenTrial) -> bool:
    """Tell whether a trial is a copy of a point or measures one again."""
    return _COPY in trial.user_attrs or AGAIN in trial.user_attrs


def _fixed(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return the parameters of a trial, those it is to get where it waits."""
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return {**fixed, **trial.params}
