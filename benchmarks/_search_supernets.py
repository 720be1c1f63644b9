"""Searches of trained super-networks, and searches that start from what one on another device found."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _record import Ledger, say
from _search_arms import OURS, OURS_SETTINGS, nsga2_on, ours_with, own_digest
from _search_runs import Shares
from _search_tables import EnoughError, Problem, Recorder, Values, front_of, volume

from brickyard.core.config import Config
from brickyard.core.space import Space

NETWORKS = ("vision", "translation", "encoder")
OURS_CELLS, NSGA2_CELLS = 100, 800
_COLD_CELLS = 300
_LEVEL = 0.99


@dataclass(frozen=True, kw_only=True)
class Supernet:
    """A trained super-network that can be searched.

    Attributes:
        space: Its space.
        evaluate: Measures a config; gives the objectives by name.
        objectives: Names of the objectives, the error-like one first; see `brickyard.search.Objective.parse`.
    """

    space: Space
    evaluate: Callable[[Config], Mapping[str, float]]
    objectives: tuple[str, ...] = ("accuracy", "latency_ms")


OPENERS: dict[str, Callable[[Path], Supernet]] = {}
"""What opens the kept folder of each network of `NETWORKS`."""


class Measured:
    """Evaluations of a super-network, each config measured once and kept in its folder.

    Both methods meet the same numbers, however noisy a measurement is, and a stopped run goes on.

    Args:
        network: The super-network.
        path: File of the evaluations, one line for each.
    """

    def __init__(self, network: Supernet, path: Path) -> None:
        from brickyard.search import Objective

        self.network, self.path = network, path
        self.objectives = [Objective.parse(name) for name in network.objectives]
        self.known: dict[str, dict[str, float]] = {}
        if path.is_file():
            with path.open(newline="") as stream:
                self.known = {row["config"]: json.loads(row["metrics"]) for row in csv.DictReader(stream)}

    def metrics(self, config: Config) -> dict[str, float]:
        """Return the numbers of a config."""
        key = config.digest()
        if key not in self.known:
            self.known[key] = {name: float(value) for name, value in self.network.evaluate(config).items()}
            fresh = not self.path.is_file()
            with self.path.open("a", newline="") as stream:
                writer = csv.writer(stream)
                if fresh:
                    writer.writerow(["config", "metrics"])
                writer.writerow([key, json.dumps(self.known[key])])
        return self.known[key]

    def values(self, metrics: Mapping[str, float]) -> list[float]:
        """Return the objectives, all of them the smaller the better."""
        return [-metrics[o.name] if o.maximize else metrics[o.name] for o in self.objectives]


def supernets(ledger: Ledger, kept: Path, *, seeds: Sequence[int]) -> None:
    """Compare the front after 100 evaluations of ours with that after 800 of NSGA-II.

    The reference point is as for the tables: the median of the first objective over all that both evaluated,
    and 1.1 times the largest of the others on their common front.

    Args:
        ledger: Takes the rows.
        kept: Folder with a folder for each trained super-network.
        seeds: Seeds of both.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    for name in NETWORKS:
        if name not in OPENERS or not (kept / name).is_dir():
            say(f"   {name}: no trained super-network to search")
            continue
        measured = Measured(OPENERS[name](kept / name), kept / name / "evaluations.csv")
        for seed in seeds:
            ours = _ours(measured, seed)
            peer = _nsga2(measured, seed)
            both = np.vstack([ours, peer])
            front = both[front_of(both)]
            reference = np.array([np.median(both[:, 0]), *(1.1 * front[:, 1:].max(0))])
            found, other = volume(ours, reference), volume(peer, reference)
            more = {"group": name, "seed": seed, "note": f"brickyard.search {own_digest()}"}
            ledger.add("supernets", OURS, "hypervolume after 100", found, count=len(ours), **more)
            ledger.add("supernets", "pymoo NSGA-II", "hypervolume after 800", other, count=len(peer), **more)
            ratio = found / other if other else float("nan")
            ledger.add("supernets", OURS, "ratio of hypervolumes", ratio, count=len(ours), **more)
            say(f"   {name}, seed {seed}: {found:.4g}, NSGA-II {other:.4g} after {len(peer)}")


def _ours(measured: Measured, seed: int) -> Values:
    from brickyard.search import run

    result = run(
        space=measured.network.space,
        evaluate=measured.metrics,
        objectives=measured.network.objectives,
        evaluations=OURS_CELLS,
        seed=seed,
        **OURS_SETTINGS,
    )
    return np.array([measured.values(point.metrics) for point in result.points])


def _nsga2(measured: Measured, seed: int) -> Values:
    from brickyard.search.params import config_of, distributions

    space = measured.network.space
    choices: dict[str, Any] = {name: found.choices for name, found in distributions(space).items()}  # type: ignore[attr-defined]
    seen: dict[str, list[float]] = {}

    def evaluate(places: Sequence[int]) -> list[float]:
        params = {name: values[place] for (name, values), place in zip(choices.items(), places, strict=True)}
        config = config_of(space, params)
        if config.digest() not in seen:
            if len(seen) >= min(NSGA2_CELLS, space.size):
                raise EnoughError
            seen[config.digest()] = measured.values(measured.metrics(config))
        return seen[config.digest()]

    with suppress(EnoughError):
        nsga2_on([len(values) for values in choices.values()], evaluate, len(measured.objectives), seed)
    return np.array(list(seen.values()))


def warm_start(ledger: Ledger, first: Problem, second: Problem, *, seeds: Sequence[int]) -> None:
    """Measure which share of the evaluations a search needs that starts from one on another device.

    A cold search of the second device evaluates 300 cells; what counts is after how many the cold and the
    warm one have 99 % of its last hypervolume.

    Args:
        ledger: Takes the rows; a level that was not reached is infinite.
        first: The device that was searched before.
        second: The device to search.
        seeds: Seeds of all searches.
    """
    from optuna.storages import InMemoryStorage

    from brickyard.search import WarmStart

    for seed in seeds:
        storage = InMemoryStorage()
        _search(first, seed, storage=storage, name="first")
        earlier = WarmStart(storage=storage, name="first")
        cold, warm = _search(second, seed), _search(second, seed, warm_start=earlier)
        goal = _LEVEL * cold[-1]
        counts = [int(np.argmax(v >= goal)) + 1 if v[-1] >= goal else float("inf") for v in (cold, warm)]
        more = {"group": f"{first.name} to {second.name}", "seed": seed, "count": _COLD_CELLS}
        note = f"brickyard.search {own_digest()}"
        for metric, value in (
            ("cells to 99% of the cold front, cold", counts[0]),
            ("cells to 99% of the cold front, warm", counts[1]),
            ("share of the evaluations", counts[1] / counts[0]),
        ):
            ledger.add("warm-start", OURS, metric, value, note=note, **more)
        say(f"   seed {seed}: cold {counts[0]}, warm {counts[1]}")


def _search(problem: Problem, seed: int, **more: Any) -> Values:
    """Search 300 cells by ours and return the share of the true front's volume after each."""
    shares = Shares(problem)
    recorder = Recorder(problem, _COLD_CELLS, lambda order: shares.add(order[-1]) > 1.0 + 1e-9)
    with suppress(EnoughError):
        ours_with(recorder, seed, **more)
    return np.array(shares.found)
