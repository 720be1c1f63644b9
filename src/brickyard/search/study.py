"""A search: a space, what an evaluation gives of it, and a study of Optuna that keeps every evaluation.

The study lives in a storage, so a search can be stopped at any time, goes on from there, and can be shared by
many workers. A worker that dies loses the evaluation it was at; another takes the same point up.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, BruteForceSampler, NSGAIISampler, RandomSampler
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from brickyard.core.config import Config
from brickyard.core.errors import ConfigError
from brickyard.core.registry import Registry
from brickyard.core.space import Space
from brickyard.search.model import Features
from brickyard.search.objective import Limit, Objective, limits_of, objectives_of
from brickyard.search.params import config_of, distributions, params_of
from brickyard.search.sampler import Constraints, LinasSampler

Metrics = Mapping[str, float]
Evaluate = Callable[[Config], Metrics]
"""From a config to the objectives, the limited numbers and whatever else is worth keeping, by name."""

_METRICS, _CONFIG, _SETUP, _COPY = "metrics", "config", "brickyard", "copy_of"
_HEARTBEAT_S = 10
_PATIENCE_S, _SHORT_S = 0.5, 0.02


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """What a sampler is built from.

    Attributes:
        seed: Seed of its draws.
        constraints: Gives the excesses of a finished trial; None without limits.
        encodings: Encodings that predictors may see; None for those of every space.
        reference: Worst values that count, one for each objective; None to follow from the evaluations.
        startup: Evaluations before predictors are asked.
        batch_size: Points from one fit.
    """

    seed: int = 0
    constraints: Constraints | None = None
    encodings: Features | None = None
    reference: Sequence[float] | None = None
    startup: int = 15
    batch_size: int = 10


SAMPLERS: Registry[Callable[[SamplerSettings], BaseSampler]] = Registry("samplers")
"""What builds a sampler, by name."""


@SAMPLERS.add("linas")
def _linas(settings: SamplerSettings) -> BaseSampler:
    return LinasSampler(
        startup=settings.startup,
        batch_size=settings.batch_size,
        encodings=settings.encodings,
        reference=settings.reference,
        constraints_func=settings.constraints,
        seed=settings.seed,
    )


@SAMPLERS.add("nsga2")
def _nsga2(settings: SamplerSettings) -> BaseSampler:
    return NSGAIISampler(seed=settings.seed, constraints_func=settings.constraints)


@SAMPLERS.add("random")
def _random(settings: SamplerSettings) -> BaseSampler:
    return RandomSampler(seed=settings.seed)


@SAMPLERS.add("exhaustive")
def _exhaustive(settings: SamplerSettings) -> BaseSampler:
    return BruteForceSampler(seed=settings.seed)


@dataclass(frozen=True)
class Found:
    """An evaluated point.

    Attributes:
        number: Number of its trial.
        config: The config.
        metrics: All that its evaluation gave.
        feasible: Whether it keeps every limit.
    """

    number: int
    config: Config
    metrics: Metrics
    feasible: bool


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

    Raises:
        ConfigError: The objectives are not legal, or the study in the storage is of another space or other
            objectives or limits.
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
    ) -> None:
        self.space, self.canonical = space, canonical
        self.objectives = objectives_of(objectives)
        self.limits = limits_of(limits or {}, self.objectives)
        self.distributions = distributions(space)
        settings = settings or SamplerSettings()
        if self.limits:
            settings = replace(settings, constraints=_Excess(self.limits))
        with _experiments():
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
            with _experiments():
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
        trial.set_user_attr(_CONFIG, config.to_json())
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
        trial.set_user_attr(_METRICS, {name: float(value) for name, value in metrics.items()})
        return [float(metrics[objective.name]) for objective in self.objectives]

    def run(
        self,
        evaluate: Evaluate,
        *,
        evaluations: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Evaluate until the study has so many different points, those of other workers among them.

        Args:
            evaluate: Measures a config. An error it raises stops the search and is raised; the point is
                evaluated again when the search goes on.
            evaluations: Different points in all, at least 1.
            progress: Called with the points that are done and wanted.

        Raises:
            ConfigError: `evaluations` is not positive, or an evaluation lacks a number or gives one that
                is not finite.
        """
        if evaluations < 1:
            raise ConfigError(f"evaluations = {evaluations} must be at least 1", path="evaluations")

        def one(trial: optuna.Trial) -> list[float]:
            config = self._config(trial)
            before = self._before(trial.number)
            same = before.get(self._key(config))
            if same is not None and same.state == TrialState.COMPLETE:
                trial.set_user_attr(_COPY, same.number)
                trial.set_user_attr(_METRICS, same.user_attrs[_METRICS])
                return list(same.values)
            if same is not None or len(before) >= evaluations:
                raise optuna.TrialPruned
            return self._measured(trial, config, evaluate)

        def after(study: optuna.Study, trial: FrozenTrial) -> None:
            if not self._wait_for_room(evaluations, progress):
                study.stop()

        if self._wait_for_room(evaluations, progress):
            self.study.optimize(one, callbacks=[after])

    def _measured(self, trial: optuna.Trial, config: Config, evaluate: Evaluate) -> list[float]:
        """Evaluate a config; where that fails or is interrupted, put it first in line."""
        try:
            return self._keep(trial, evaluate(config))
        except Exception:
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
            fail_stale_trials(self.study)
            self._free_the_silent(running)

    def _free_the_silent(self, running: Sequence[FrozenTrial]) -> None:
        """Put in line again what a worker held that died before its first sign of life.

        Optuna never notices such.
        """
        storage = self._storage
        if not isinstance(storage, RDBStorage) or storage.grace_period is None:
            return
        oldest = datetime.now() - timedelta(seconds=storage.grace_period)
        with storage.engine.connect() as connection:
            heard = set(connection.execute(text("SELECT trial_id FROM trial_heartbeats")).scalars())
        for trial in running:
            silent = trial._trial_id not in heard
            if silent and trial.datetime_start is not None and trial.datetime_start < oldest:
                with suppress(ValueError):  # another worker was quicker
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    if _CONFIG in trial.user_attrs:
                        self.study.enqueue_trial(_fixed(trial))  # type: ignore[arg-type]

    def _before(self, number: int) -> dict[str, FrozenTrial]:
        """Return the points that earlier trials hold or evaluate, by key.

        Waits until every earlier trial that runs has said what its point is (the bakery algorithm: the number
        of a trial is its ticket), so that of two workers at the same point exactly one evaluates it.
        """
        while True:
            trials = self.study.get_trials(deepcopy=False)
            earlier = [t for t in trials if t.state == TrialState.RUNNING and t.number < number]
            silent = [trial for trial in earlier if _CONFIG not in trial.user_attrs]
            if not silent:
                break
            time.sleep(_SHORT_S)
            fail_stale_trials(self.study)
            self._free_the_silent(silent)
        held: dict[str, FrozenTrial] = {}
        for trial in trials:
            if trial.state == TrialState.COMPLETE and _COPY not in trial.user_attrs:
                held[self._key(self._config_of(trial))] = trial
        for trial in earlier:
            held.setdefault(self._key(self._config_of(trial)), trial)
        return held

    def _key(self, config: Config) -> str:
        return (config if self.canonical is None else self.canonical(config)).digest()

    def _config_of(self, trial: FrozenTrial) -> Config:
        return self.space.check(Config.from_json(trial.user_attrs[_CONFIG]))

    def found(self) -> list[Found]:
        """Return every evaluated point, in the order of their trials; copies of a point are left out."""
        return [
            Found(
                trial.number,
                self._config_of(trial),
                trial.user_attrs[_METRICS],
                feasible=all(
                    limit.excess(trial.user_attrs[_METRICS][limit.name]) <= 0 for limit in self.limits
                ),
            )
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if _COPY not in trial.user_attrs
        ]


class _Excess:
    """By how much a finished trial breaks each limit."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)

    def __call__(self, trial: FrozenTrial) -> list[float]:
        metrics = trial.user_attrs[_METRICS]
        return [limit.excess(metrics[limit.name]) for limit in self.limits]


def _fixed(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return the parameters of a trial, those it is to get where it waits."""
    fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
    return {**fixed, **trial.params}


def open_storage(
    storage: str | Path | BaseStorage | None, *, heartbeat_s: int = _HEARTBEAT_S
) -> BaseStorage | None:
    """Open a storage in which a worker that died is noticed and its trial is taken up by another.

    Args:
        storage: Address, path of an SQLite file, storage of Optuna, or None for memory.
        heartbeat_s: Seconds between the signs of life of a worker; it counts as dead after three without one.
    """
    if storage is None or isinstance(storage, BaseStorage):
        return storage
    name = str(storage)
    address = name if "://" in name else f"sqlite:///{name}"
    with _experiments():
        return RDBStorage(
            address,
            engine_kwargs={"connect_args": {"timeout": 60}} if address.startswith("sqlite") else None,
            heartbeat_interval=heartbeat_s,
            grace_period=3 * heartbeat_s,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )


@contextmanager
def _experiments() -> Iterator[None]:
    """Let Optuna's interfaces that may still change be used without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
