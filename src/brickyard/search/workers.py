"""Several processes at one study on one machine; on many machines, start the same search on each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import optuna

from brickyard.core.errors import ConfigError, SearchError
from brickyard.search.study import Evaluate, Search

_POLL_S = 0.2


def run_workers(
    settings: Mapping[str, Any],
    evaluate: Evaluate,
    *,
    evaluations: int,
    workers: int,
    repeats: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Evaluate in several processes until the study has so many points.

    A process that is killed loses the evaluation it was at; another takes it up once its heartbeat has been
    missing for a while. What an evaluation raises ends its process; the others go on.

    Args:
        settings: Arguments of `Search`; the storage must be one that processes share.
        evaluate: Measures a config; a function of a module, so that processes find it.
        evaluations: Points in all.
        workers: Processes.
        repeats: Most measurements of a point, see `Search.run`.
        progress: Called with the points that are done and wanted.

    Raises:
        ConfigError: The storage is in memory, or `evaluate` cannot be handed to a process.
        SearchError: Every process ended before the points were there.
    """
    if settings.get("storage") is None:
        raise ConfigError(
            "several workers need a storage that they share, such as storage='search.db'", path="storage"
        )
    names = [str(getattr(part, "__qualname__", "")) for part in (evaluate, settings.get("canonical"))]
    hidden = [name for name in names if "<" in name]
    if hidden:
        raise ConfigError(
            f"workers cannot be handed {hidden[0]}; use a function at the top of a module",
            path="evaluate",
        )
    watched = Search(**settings)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_work, args=(dict(settings), evaluate, evaluations, repeats, index), daemon=True
        )
        for index in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            time.sleep(_POLL_S)
            if progress is not None:
                progress(len(watched.found()), evaluations)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    done = len(watched.found())
    if done < min(evaluations, watched.space.size):
        codes = [process.exitcode for process in processes]
        raise SearchError(
            f"all {workers} workers ended (exit codes {codes}) with {done} of {evaluations} points; what "
            "they said is above; the same call goes on from there"
        )


def _work(settings: dict[str, Any], evaluate: Evaluate, evaluations: int, repeats: int, index: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the one who waits tells how far they are
    sampling = settings.get("settings")
    if sampling is not None:
        settings["settings"] = replace(sampling, seed=sampling.seed + 1000 * index)
    Search(**settings).run(evaluate, evaluations=evaluations, repeats=repeats)
