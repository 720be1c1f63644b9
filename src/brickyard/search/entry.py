"""One call from a space and an evaluation to a front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brickyard.core.config import Config
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space
from brickyard.search.adapters.base import SuperNetwork
from brickyard.search.encodings import ENCODINGS
from brickyard.search.front import Predicted, Result, held_out_quality
from brickyard.search.fronts import Values
from brickyard.search.genes import Genes
from brickyard.search.idle import find_idle
from brickyard.search.model import Features
from brickyard.search.objective import Objective
from brickyard.search.params import SameParams, params_of
from brickyard.search.predictors import GaussianProcess, held_out
from brickyard.search.samplers import SamplerSettings
from brickyard.search.study import Evaluate, Search
from brickyard.search.transfer import WarmStart
from brickyard.search.workers import run_workers

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

_LEAST = 20  # points before held-out predictions mean something


def run(
    network: SuperNetwork | None = None,
    *,
    space: Space | None = None,
    evaluate: Evaluate | None = None,
    objectives: Iterable[str | Objective],
    evaluations: int = 100,
    limits: Mapping[str, float] | None = None,
    storage: str | Path | BaseStorage | None = None,
    name: str = "search",
    sampler: str | BaseSampler = "linas",
    extremes: bool = True,
    encodings: Features | None = None,
    reference: Sequence[float | None] | None = None,
    canonical: Callable[[Config], Config] | None = None,
    startup: int = 15,
    batch_size: int = 5,
    warm_start: WarmStart | None = None,
    narrow: bool = False,
    repeats: int = 1,
    workers: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Search a space for the configs that no other beats.

    The same call goes on where the last one was stopped, if there is a storage; workers that share one call
    it with different seeds.

    Args:
        network: A super-network with `space` and `evaluate`, in place of the two.
        space: The space.
        evaluate: Measures a config: gives the objectives, the limited numbers and whatever else is worth
            keeping.
        objectives: One to four names, what matters most first, such as `accuracy`, `latency_ms`, `min:error`;
            see `Objective.parse`. `linas` draws every fifth point for the first one alone.
        evaluations: Different points in all, those of earlier calls and other workers among them.
        limits: Bounds by name: the most of a cost, the least of an accuracy.
        storage: Address of a database, path of an SQLite file, storage of Optuna, or None for memory.
        name: Name of the study in the storage.
        sampler: `linas`, `nsga2`, `random`, `exhaustive`, or a sampler of Optuna.
        extremes: Whether the largest and the smallest config are evaluated first.
        encodings: What predictors may see of a config, by name, in place of the encodings of every space.
        reference: Worst value of each objective that counts, as it is measured; None, for one of them or in
            place of all, to follow from the evaluations.
        canonical: From a config to one that computes the same; such are evaluated once. None for the
            network's own, if it has one.
        startup: Evaluations at random before predictors are asked.
        batch_size: Points from one fit of the predictors.
        warm_start: An earlier study of the same space, such as one on another device, to learn from; points
            of its front are evaluated first, in place of the extremes and of points at random.
        narrow: Whether `linas` narrows the domains to what the front shows, see `brickyard.search.narrow`.
        repeats: Most measurements of a point. Above 1, points of the front and their rivals are measured
            again in the end until noise cannot have put them there; see `brickyard.search.repeats`.
        workers: Processes that evaluate; above 1 they need a storage, and `evaluate` a place at the top of a
            module.
        seed: Seed of the draws.
        progress: Called with the points that are done and wanted.

    Returns:
        What was found.

    Raises:
        ConfigError: An argument is out of range, or the study in the storage is of something else.

    Example:
        >>> result = run(
        ...     space=network.space,
        ...     evaluate=lambda config: {"accuracy": accuracy_of(config), "macs": macs_of(config)},
        ...     objectives=["accuracy", "macs"],
        ...     evaluations=60,
        ... )
        >>> result.write(Path("front"))
    """
    space, evaluate = _parts(network, space, evaluate)
    canonical = canonical or getattr(network, "canonical", None)
    features: Features = encodings or {name: ENCODINGS[name] for name in ENCODINGS}
    if workers < 1:
        raise ConfigError(f"workers = {workers} must be at least 1", path="workers")
    settings: dict[str, Any] = {
        "space": space,
        "objectives": tuple(objectives),
        "limits": limits,
        "storage": storage,
        "name": name,
        "sampler": sampler,
        "settings": SamplerSettings(
            seed=seed,
            encodings=features,
            reference=reference,
            startup=startup,
            batch_size=batch_size,
            narrow=narrow,
        ),
        "canonical": canonical,
        "warm_start": warm_start,
    }
    search = Search(**settings)
    if extremes and warm_start is None:
        search.seed_with([space.largest(), space.smallest()])
    if workers == 1:
        search.run(evaluate, evaluations=evaluations, repeats=repeats, progress=progress)
    else:
        run_workers(
            settings, evaluate, evaluations=evaluations, workers=workers, repeats=repeats, progress=progress
        )
    return result_of(search, encodings=features, seed=seed)


def _parts(
    network: SuperNetwork | None, space: Space | None, evaluate: Evaluate | None
) -> tuple[Space, Evaluate]:
    if network is None and space is not None and evaluate is not None:
        return space, evaluate
    if network is None or space is not None or evaluate is not None:
        raise ConfigError(
            "a search needs either a network, or space and evaluate: run(network, ...) or run(space=..., "
            "evaluate=..., ...)",
            path="network",
        )
    return network.space, network.evaluate


def result_of(search: Search, *, encodings: Features, seed: int = 0) -> Result:
    """Collect what a study found, with how well each objective can be predicted.

    Args:
        search: The search.
        encodings: Encodings to choose from, by name.
        seed: Seed of folds and intervals.
    """
    points = tuple(search.found())
    result = Result(
        name=search.study.study_name, objectives=search.objectives, limits=search.limits, points=points
    )
    if len(points) < _LEAST:
        return result
    genes = Genes(search.distributions)
    if search.canonical is not None:
        genes.idle = find_idle(genes, SameParams(search.space, search.canonical))
    rows = genes.rows([params_of(search.space, point.config) for point in points])
    predicted = tuple(
        _predicted(
            objective,
            np.array([point.metrics[objective.name] for point in points]),
            {name: encode(genes, rows) for name, encode in encodings.items()},
            seed=seed,
        )
        for objective in search.objectives
    )
    return replace(result, predicted=predicted)


def _predicted(
    objective: Objective, measured: Values, features: Mapping[str, Values], *, seed: int
) -> Predicted:
    """Predict an objective on held-out points by a Gaussian process, on the encoding that tells most."""
    found = [
        held_out_quality(
            objective.name,
            measured=measured,
            predicted=held_out(GaussianProcess, x, measured, seed=seed),
            predictor="gaussian",
            encoding=name,
            seed=seed,
        )
        for name, x in features.items()
    ]
    return max(found, key=lambda part: part.quality.rank_correlation)
