"""Workers of one study that are killed at random: no finished evaluation may be lost or made again."""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from _record import say

from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.space import Space

SPACE = Space([Choice(f"layer{place}", [1, 2, 3, 4]) for place in range(7)])
_OBJECTIVES = ("error", "macs")
_REFERENCE = (10.0, 120.0)
_SECONDS = 0.2  # of an evaluation
_HEARTBEAT_S = 2
_POLL_S = 0.1


def measure(config: Config) -> dict[str, float]:
    """Give an error that falls with every layer, the more the wider its neighbours are, and a cost."""
    sizes = [float(size) for size in config.values()]
    gain = sum(math.log(size) / (place + 2) for place, size in enumerate(sizes))
    gain += 0.3 * sum(math.sqrt(a * b) for a, b in pairwise(sizes)) / len(sizes)
    return {"error": 10.0 - gain, "macs": sum(size**2 for size in sizes)}


class _Logged:
    """Takes a moment, and writes down first what is evaluated."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, config: Config) -> dict[str, float]:
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{config.digest()}\n".encode())
        os.close(file)
        time.sleep(_SECONDS)
        return measure(config)


def _work(folder: Path, evaluations: int, seed: int) -> None:
    _search(folder, seed).run(_Logged(folder / "log"), evaluations=evaluations)


def _search(folder: Path, seed: int = 0):
    import optuna

    from brickyard.search import SamplerSettings, Search
    from brickyard.search.storage import open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(folder / "study.db", heartbeat_s=_HEARTBEAT_S)
    return Search(
        space=SPACE,
        objectives=[f"min:{name}" for name in _OBJECTIVES],
        storage=storage,
        settings=SamplerSettings(seed=seed, batch_size=20, reference=_REFERENCE),
    )


def _run(
    folder: Path,
    *,
    evaluations: int,
    workers: int,
    seed: int,
    kill_at: list[int],
    watch: Callable[[int], None],
) -> tuple[int, int]:
    """Run a study and kill one worker whenever so many evaluations are there.

    Returns:
        Workers killed, and evaluations that were seen in the storage and are not there in the end.

    Raises:
        SystemExit: A worker failed.
    """
    context = multiprocessing.get_context("forkserver")  # a new worker need not import everything again
    context.set_forkserver_preload(["brickyard.search.study", "brickyard.search.samplers"])
    search = _search(folder)
    search.seed_with([SPACE.largest(), SPACE.smallest()])

    def start(index: int):
        process = context.Process(target=_work, args=(folder, evaluations, seed + 1000 * index), daemon=True)
        process.start()
        return process

    rng = np.random.default_rng(seed)
    processes = [start(index) for index in range(workers)]
    seen: dict[int, str] = {}
    waiting, killed = sorted(kill_at), 0
    try:
        while any(process.is_alive() for process in processes):
            now = {point.number: point.config.digest() for point in search.found()}
            seen.update(now)
            watch(len(now))
            if waiting and len(now) >= waiting[0]:
                waiting.pop(0)
                time.sleep(float(rng.uniform(0.0, _SECONDS)))
                index = int(rng.integers(workers))
                killed += processes[index].is_alive()
                processes[index].kill()
                processes[index].join()
                processes[index] = start(index)
            ended = [process.exitcode for process in processes if process.exitcode]
            if ended:
                raise SystemExit(f"a worker that nobody killed ended with {ended[0]}; it said why above")
            time.sleep(_POLL_S)
    finally:
        for process in processes:
            process.kill()
            process.join()
    final = {point.number: point.config.digest() for point in search.found()}
    return killed, sum(final.get(number) != digest for number, digest in seen.items())


def _repeated(folder: Path) -> int:
    """Count evaluations that were begun although nobody had been interrupted at the same point."""
    from optuna.trial import TrialState

    search = _search(folder)
    begun = Counter((folder / "log").read_text().splitlines())
    stopped = (TrialState.FAIL, TrialState.RUNNING)
    trials = search.study.get_trials(deepcopy=False, states=stopped)
    configs = [trial.user_attrs["config"] for trial in trials if "config" in trial.user_attrs]
    interrupted = Counter(Config.from_json(config).digest() for config in configs)
    known = Counter(point.config.digest() for point in search.found())
    again = sum(max(0, count - 1 - interrupted[digest]) for digest, count in begun.items())
    return again + sum(count - 1 for count in known.values())


def kills(*, evaluations: int = 500, count: int = 50, workers: int = 4, seed: int = 0) -> dict[str, float]:
    """Run a study twice, once undisturbed and once with workers that are killed.

    Args:
        evaluations: Evaluations of each.
        count: Workers that are killed (SIGKILL), each at a random number of evaluations.
        workers: Processes at a time.
        seed: Seed of the samplers and of the kills.

    Returns:
        Numbers by name: `kills_lost` counts finished evaluations that were lost or made again; the
        hypervolumes of the fronts; by how many percent the disturbed one is off.
    """
    from brickyard.search.fronts import hypervolume

    volumes, lost, killed, times = [], 0, 0, []
    rng = np.random.default_rng(seed)
    for kill_at in ([], rng.integers(workers, evaluations - workers, count).tolist()):
        said: list[int] = []

        def watch(done: int, said: list[int] = said) -> None:
            if done // 100 > len(said):
                said.append(done)
                say(f"   {done} of {evaluations} evaluations")

        with tempfile.TemporaryDirectory() as name:
            folder, begun = Path(name), time.monotonic()
            stopped, gone = _run(
                folder, evaluations=evaluations, workers=workers, seed=seed, kill_at=kill_at, watch=watch
            )
            points = _search(folder).found()
            times.append(time.monotonic() - begun)
            wrong = sum(point.metrics != measure(point.config) for point in points)
            lost += gone + _repeated(folder) + wrong + max(0, evaluations - len(points))
            killed += stopped
            values = np.array([[point.metrics[name] for name in _OBJECTIVES] for point in points])
            volumes.append(hypervolume(values, np.array(_REFERENCE)))
        say(f"   {killed} workers killed, {lost} evaluations lost or repeated, {times[-1]:.0f} s")
    return {
        "kills_lost": float(lost),
        "workers killed": float(killed),
        "hypervolume, undisturbed": volumes[0],
        "hypervolume, workers killed": volumes[1],
        "difference of the hypervolumes, %": 100.0 * abs(volumes[1] / volumes[0] - 1.0),
        "seconds, undisturbed": times[0],
        "seconds, workers killed": times[1],
    }
