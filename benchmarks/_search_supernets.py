"""Searches of trained super-networks, and searches that start from what one on another device found."""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _adaptor
import numpy as np
import numpy.typing as npt
from _record import Ledger, say
from _search_arms import OURS, OURS_SETTINGS, nsga2_on, ours_with, own_digest
from _search_runs import WARM, Shares
from _search_tables import EnoughError, Problem, Recorder, Values, front_of, volume
from _search_unseen import METRIC, Unseen
from _train_supernets import supernet_folder

from brickyard.core.config import Config
from brickyard.core.space import Space

OURS_CELLS, NSGA2_CELLS = 100, 800
_COLD_CELLS, _COLD_SUBNETS = 300, 200
_LEVEL = 0.99
_EXAMPLES = 10_000  # all that are kept, of pictures and of texts with classes
_DRAWN = 50
_SEED = 0  # of the trained super-networks
SEARCHED = "ratio of hypervolumes"
SHARE, SHARE_JUDGED = "share of the evaluations", "share of the evaluations, judged anew"


@dataclass(frozen=True, kw_only=True)
class Supernet:
    """A trained super-network that can be searched.

    Attributes:
        space: Its space.
        evaluate: Measures a config; gives the objectives by name.
        canonical: From a config to one that computes the same.
        objectives: Names of the objectives, that of quality first; see `brickyard.search.Objective.parse`.
        digest: Digest of its weights and of what it is judged by.
    """

    space: Space
    evaluate: Callable[[Config], Mapping[str, float]]
    canonical: Callable[[Config], Config]
    objectives: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Source:
    """Where a super-network comes from.

    Attributes:
        trained: Its name for `_train_supernets.py`.
        quality: What it is judged by.
        examples: Most held-out examples that it is judged by.
    """

    trained: str
    quality: str = "accuracy"
    examples: int = _EXAMPLES


NETWORKS = {
    "vision": Source("mobile"),
    "translation": Source("translation", "bleu", 1000),
    "encoder": Source("encoder"),
}
"""The super-networks by the names that figures use."""


def open_supernet(source: Source, kept: Path, *, runtime: str = "ort") -> Supernet | None:
    """Open a trained super-network; latencies are measured here, on one thread.

    Args:
        source: Which one.
        kept: Folder of trained super-networks.
        runtime: What subnets are timed on.

    Returns:
        The super-network; None where it was not trained.
    """
    from brickyard.factory.measures import read_measures
    from brickyard.factory.searching import SearchSetup, SubnetEvaluator

    folder = supernet_folder(source.trained, _SEED, kept=kept)
    if not (folder / "manifest.json").is_file():
        return None
    objectives = (source.quality, "latency_ms")
    evaluator = SubnetEvaluator(
        SearchSetup(
            network=str(folder),
            objectives=read_measures(objectives)[0],
            pictures=source.examples,
            runtime=runtime,
        )
    )
    return Supernet(
        space=evaluator.space,
        evaluate=evaluator,
        canonical=evaluator.canonical,
        objectives=objectives,
        digest=_digest(folder, source.examples),
    )


def _digest(folder: Path, examples: int) -> str:
    """Return eight digits of a digest of the weights and the held-out examples."""
    found = hashlib.sha256(str(examples).encode())
    for path in (folder / "model.safetensors", *sorted(folder.glob("heldout.*"))):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


class Measured:
    """Evaluations of a super-network, each config measured once and kept.

    All methods meet the same numbers, however noisy a measurement is, and a stopped run goes on.

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
                for row in csv.DictReader(stream):
                    self.known[row["config"]] = {name: float(row[name]) for name in network.objectives}

    def metrics(self, config: Config) -> dict[str, float]:
        """Return the numbers of a config."""
        key = config.digest()
        if key not in self.known:
            found = self.network.evaluate(config)
            self.known[key] = {name: round(float(found[name]), 6) for name in self.network.objectives}
            fresh = not self.path.is_file()
            with self.path.open("a", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                if fresh:
                    writer.writerow(["config", *self.network.objectives])
                writer.writerow([key, *self.known[key].values()])
        return self.known[key]

    def values(self, config: Config) -> list[float]:
        """Return the objectives of a config, all of them the smaller the better."""
        metrics = self.metrics(config)
        return [-metrics[o.name] if o.maximize else metrics[o.name] for o in self.objectives]


@dataclass(frozen=True)
class Found:
    """What a search measured, in order.

    Attributes:
        configs: The subnets.
        values: Their objectives `[subnets, objectives]`, all of them the smaller the better.
    """

    configs: list[Config]
    values: Values

    def front(self) -> list[Config]:
        """Return the subnets of the front."""
        return [self.configs[place] for place in np.flatnonzero(front_of(self.values))]


def _measured(name: str, network: Supernet, results: Path, *, runtime: str = "ort") -> Measured:
    return Measured(network, results / f"search_evaluations_{name}_{runtime}_{network.digest}.csv")


def _drawn(network: Supernet) -> list[Config]:
    """Return subnets drawn at random, by which the usual quality of the space is told."""
    return [network.canonical(network.space.sample(random.Random(seed))) for seed in range(_DRAWN)]


def _usual(measured: Measured) -> float:
    """Return the median of the first objective over the space, the smaller the better."""
    return float(np.median([measured.values(config)[0] for config in _drawn(measured.network)]))


def _reference(measured: Measured, values: Values) -> Values:
    """Return the worst that counts, as for the tables: see `supernets`."""
    front = values[front_of(values)]
    return np.array([_usual(measured), *(1.1 * front[:, 1:].max(0))])


def supernets(ledger: Ledger, kept: Path, results: Path, *, seeds: Sequence[int]) -> None:
    """Compare the front after 100 evaluations of ours with that after 800 of NSGA-II.

    The reference point is as for the tables: the median of the first objective over the space, estimated on
    50 subnets drawn at random, and 1.1 times the largest of the others on the common front. Ours is told the
    median, as a user tells the least quality that is of use; NSGA-II has no such setting. Subnets that
    compute the same count once for both.

    Both fronts are compared twice: as searched, and judged anew, by examples that neither search saw and by
    latencies timed again, the reference point with them.

    Args:
        ledger: Takes the rows.
        kept: Folder of trained super-networks.
        results: Folder of the evaluations.
        seeds: Seeds of both.
    """
    _be_quiet()
    for name, source in NETWORKS.items():
        network = open_supernet(source, kept)
        if network is None:
            say(f"   {name}: no trained super-network to search; _train_supernets.py trains it")
            continue
        measured = _measured(name, network, results)
        unseen = _unseen(name, network, kept, results)
        for seed in seeds:
            ours, peer = _ours(measured, seed, OURS_CELLS), _nsga2(measured, seed)
            reference = _reference(measured, np.vstack([ours.values, peer.values]))
            add = partial(
                ledger.add, "supernets", group=name, seed=seed, note=f"brickyard.search {own_digest()}"
            )
            found, other = volume(ours.values, reference), volume(peer.values, reference)
            counts = len(ours.values), len(peer.values)
            add(OURS, "hypervolume after 100", found, count=counts[0])
            add("pymoo NSGA-II", "hypervolume after 800", other, count=counts[1])
            add(OURS, SEARCHED, _ratio(found, other), count=counts[0])
            say(f"   {name}, seed {seed}: {found:.4g}, NSGA-II {other:.4g} after {counts[1]}")
            if unseen is not None:
                found_by = ours.front(), peer.front()
                unseen.judge([config for front in found_by for config in front])
                fronts = [np.array([unseen.values(config) for config in front]) for front in found_by]
                reference = _unseen_reference(unseen, network, np.vstack(fronts))
                found, other = (volume(values, reference) for values in fronts)
                add(OURS, METRIC, _ratio(found, other), count=counts[0])
                say(f"   {name}, seed {seed}, judged anew: {found:.4g}, NSGA-II {other:.4g}")


def _unseen(
    name: str, network: Supernet, kept: Path, results: Path, *, runtime: str = "ort"
) -> Unseen | None:
    """Return what judges subnets anew; None without the data for it."""
    if _adaptor.data_folder() is None:
        return None
    trained = NETWORKS[name].trained
    device = "" if runtime == "ort" else f"_{runtime}"
    path = results / f"search_unseen_{name}{device}_{network.digest}.csv"
    return Unseen(trained, supernet_folder(trained, _SEED, kept=kept), path, runtime=runtime)


def _unseen_reference(unseen: Unseen, network: Supernet, values: Values) -> Values:
    """Return the worst that counts of fronts that were judged anew."""
    usual = np.median([unseen.quality(config) for config in _drawn(network)])
    return np.array([usual, *(1.1 * values[front_of(values)][:, 1:].max(0))])


def _ratio(found: float, other: float) -> float:
    return found / other if other else float("nan")


def _be_quiet() -> None:
    """Keep Optuna from telling of every trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def _ours(measured: Measured, seed: int, evaluations: int, **more: Any) -> Found:
    """Search by ours, told the median of the first objective; return what was measured."""
    from brickyard.search import run

    configs: list[Config] = []
    first, *others = measured.objectives
    least = -_usual(measured) if first.maximize else _usual(measured)

    def evaluate(config: Config) -> dict[str, float]:
        configs.append(config)
        return measured.metrics(config)

    run(
        space=measured.network.space,
        evaluate=evaluate,
        canonical=measured.network.canonical,
        objectives=measured.network.objectives,
        reference=[least, *(None for _ in others)],
        evaluations=evaluations,
        seed=seed,
        **OURS_SETTINGS,
        **more,
    )
    return Found(configs, np.array([measured.values(config) for config in configs]))


def _nsga2(measured: Measured, seed: int) -> Found:
    from brickyard.search.params import config_of, distributions

    space = measured.network.space
    choices: dict[str, Any] = {name: found.choices for name, found in distributions(space).items()}  # type: ignore[attr-defined]
    seen: dict[str, Config] = {}

    def evaluate(places: Sequence[int]) -> list[float]:
        params = {name: values[place] for (name, values), place in zip(choices.items(), places, strict=True)}
        config = measured.network.canonical(config_of(space, params))
        if config.digest() not in seen:
            if len(seen) >= min(NSGA2_CELLS, space.size):
                raise EnoughError
            seen[config.digest()] = config
        return measured.values(config)

    with suppress(EnoughError):
        nsga2_on([len(values) for values in choices.values()], evaluate, len(measured.objectives), seed)
    return Found(list(seen.values()), np.array([measured.values(config) for config in seen.values()]))


def warm_start_supernet(ledger: Ledger, kept: Path, results: Path, *, seeds: Sequence[int]) -> None:
    """Measure warm starts on the vision super-network, from ONNX Runtime to OpenVINO.

    A search of 200 subnets on the first device; then a cold one of as many on the second, and one that starts
    from the first. What counts is as in `warm_start`, by what the searches measured, and by what the subnets
    of the front so far are worth judged anew, as in `supernets`: what a user has who stops there.

    Args:
        ledger: Takes the rows.
        kept: Folder of trained super-networks.
        results: Folder of the evaluations.
        seeds: Seeds of all searches.
    """
    from optuna.storages import InMemoryStorage

    from brickyard.search import WarmStart

    _be_quiet()
    first, second = (open_supernet(NETWORKS["vision"], kept, runtime=name) for name in ("ort", "openvino"))
    if first is None or second is None:
        say("   vision: no trained super-network to search; _train_supernets.py trains it")
        return
    on_first = _measured("vision", first, results)
    on_second = _measured("vision", second, results, runtime="openvino")
    unseen = _unseen("vision", second, kept, results, runtime="openvino")
    for seed in seeds:
        storage = InMemoryStorage()
        _ours(on_first, seed, _COLD_SUBNETS, storage=storage, name="first")
        cold = _ours(on_second, seed, _COLD_SUBNETS)
        start = WarmStart(storage=storage, name="first")
        warm = _ours(on_second, seed, _COLD_SUBNETS, warm_start=start)
        reference = _reference(on_second, cold.values)
        curves = [
            np.array([volume(found.values[:count], reference) for count in range(1, len(found.values) + 1)])
            for found in (cold, warm)
        ]
        _add_shares(ledger, WARM, seed, curves[0], curves[1])
        if unseen is not None:
            curves = _judged_curves(unseen, second, cold, warm)
            _add_shares(ledger, WARM, seed, curves[0], curves[1], metric=SHARE_JUDGED)


def _judged_curves(unseen: Unseen, network: Supernet, *searches: Found) -> list[Values]:
    """Return, after each evaluation of a search, the hypervolume of its front so far, judged anew."""
    fronts = [
        [np.flatnonzero(front_of(found.values[:count])) for count in range(1, len(found.values) + 1)]
        for found in searches
    ]
    ever = {
        (config := found.configs[place]).digest(): config
        for found, of in zip(searches, fronts, strict=True)
        for place in np.concatenate(of)
    }
    unseen.judge(list(ever.values()))

    def judged(found: Found, front: npt.NDArray[np.intp]) -> Values:
        return np.array([unseen.values(found.configs[place]) for place in front])

    reference = _unseen_reference(unseen, network, judged(searches[0], fronts[0][-1]))
    return [
        np.array([volume(judged(found, front), reference) for front in of])
        for found, of in zip(searches, fronts, strict=True)
    ]


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
        _add_shares(ledger, f"{first.name} to {second.name}", seed, cold, warm)


def _add_shares(
    ledger: Ledger, group: str, seed: int, cold: Values, warm: Values, *, metric: str = SHARE
) -> None:
    """Add after how many evaluations both first have 99 % of the cold one's last hypervolume.

    Args:
        ledger: Takes the rows.
        group: Their group.
        seed: Their seed.
        cold: Hypervolumes after each evaluation; judged anew, they can fall.
        warm: Those of the warm start.
        metric: Metric of the share; what follows its comma is added to those of the counts.
    """
    goal = _LEVEL * cold[-1]
    counts = [int(np.argmax(v >= goal)) + 1 if (v >= goal).any() else float("inf") for v in (cold, warm)]
    add = partial(
        ledger.add,
        "warm-start",
        OURS,
        group=group,
        seed=seed,
        count=len(cold),
        note=f"brickyard.search {own_digest()}",
    )
    ending = metric.removeprefix(SHARE)
    add(f"evaluations to 99% of the cold front, cold{ending}", counts[0])
    add(f"evaluations to 99% of the cold front, warm{ending}", counts[1])
    add(metric, counts[1] / counts[0])
    say(f"   {group}, seed {seed}{ending}: cold {counts[0]:g}, warm {counts[1]:g}")


def _search(problem: Problem, seed: int, **more: Any) -> Values:
    """Search 300 cells by ours and return the share of the true front's volume after each."""
    shares = Shares(problem)
    recorder = Recorder(problem, _COLD_CELLS, lambda order: shares.add(order[-1]) > 1.0 + 1e-9)
    with suppress(EnoughError):
        ours_with(recorder, seed, **more)
    return np.array(shares.found)
