"""Measures a device by whole subnets of a network, here or by a kit elsewhere."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from brickyard.core.config import Config
from brickyard.core.decision import Choice, Decision, Subset
from brickyard.core.errors import DeviceError
from brickyard.core.files import read_json, write_json
from brickyard.core.space import Space
from brickyard.devices.kit import pack_kit
from brickyard.devices.measure import processor_name, round_robin, this_device_name
from brickyard.devices.record import BY_SUBNETS, subnets_record
from brickyard.devices.runtimes import Runtime, Session
from brickyard.devices.runtimes.base import Fed, check_threads
from brickyard.factory.subnet_profile import SubnetProfile, require_search

Progress = Callable[[str, int, int, str], None]

SUBNETS, FEWEST = 120, 16
_HELD_OUT = 4  # every fourth
_TRIES = 60  # draws for each subnet that is wanted
_PASSES, _MOST_PASSES, _SECONDS = 8, 40, 180.0


class Timable(Protocol):
    """What is needed of a network; see `brickyard.factory.timable` for those of folders."""

    @property
    def space(self) -> Space:
        """All decisions but those of the head."""

    @property
    def sha256(self) -> str:
        """Hash of its structure."""

    @property
    def feed(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Inputs by name where random numbers are no legal ones; else empty."""

    def canonical(self, config: Config, /) -> Config:
        """Return the config that computes the same."""

    def content(self, config: Config) -> bytes:
        """Return a subnet as serialized ONNX, with a whole head."""


def profile_subnets(
    network: Timable,
    *,
    subnets: int = SUBNETS,
    runtime: Runtime,
    threads: int = 1,
    seed: int = 0,
    name: str | None = None,
    state: Path,
    progress: Progress = lambda stage, done, total, text: None,
) -> SubnetProfile:
    """Measure subnets on this machine in turns, or go on with a measurement that was stopped.

    Args:
        network: The network.
        subnets: How many subnets; one of four is held out.
        runtime: What runs them.
        threads: Threads of the runtime.
        seed: Seed of the subnets.
        name: Name of the device; made from processor, runtime, precision and threads if None.
        state: File that keeps what was measured until all is; the caller removes it when the profile is
            written.
        progress: Called with a stage, steps done, steps in all, and a short text.

    Returns:
        The profile, judged.

    Raises:
        DeviceError: The runtime cannot run the network, a number is not allowed, the network has too few
            subnets, or `state` is of another network, machine or of other settings.
        MissingExtraError: A library that is needed is not installed.
    """
    check_threads(threads)
    require_search()
    _require_runs(runtime, network)
    plan = plan_of(network, subnets=subnets, seed=seed)
    key = {
        "plan": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
        "runtime": runtime.full_name(),
        "precision": runtime.precision,
        "threads": threads,
        "processor": processor_name(),
    }
    earlier = _earlier(state, key)
    count = len(plan["subnets"])
    sessions: list[Session] = []
    for number, config in enumerate(plan["subnets"]):
        progress("subnets", number, count, "exported and opened")
        content = runtime.prepared(network.content(network.space.check(config)))
        session = runtime.open(content, threads=threads)
        sessions.append(Fed(session, network.feed) if network.feed else session)
    progress("subnets", count, count, "exported and opened")
    bursts = round_robin(
        sessions,
        passes=_PASSES,
        most_passes=_MOST_PASSES,
        most_seconds=_SECONDS,
        each=lambda done, most: progress("timing", done, most, "bursts, fewer once halves agree"),
        earlier=earlier,
        keep=lambda times: write_json(state, {"key": key, "times": times}),
    )
    record = subnets_record(
        plan,
        bursts,
        name=name or this_device_name(threads, runtime),
        runtime=runtime.full_name(),
        precision=runtime.precision,
        threads=threads,
    )
    return SubnetProfile.model_validate(record).judged()


def write_subnet_kit(
    network: Timable,
    path: Path,
    *,
    subnets: int = SUBNETS,
    runtime: Runtime,
    seed: int = 0,
    name: str,
    progress: Progress = lambda stage, done, total, text: None,
) -> int:
    """Write a kit that measures another machine; what it writes there is a `SubnetProfile`.

    Args:
        network: The network.
        path: Zip file to write, whole or not at all.
        subnets: How many subnets; one of four is held out.
        runtime: What the models are prepared for; ONNX Runtime, in one of its precisions.
        seed: Seed of the subnets.
        name: Name of the network, for the kit's readme.
        progress: Called with a stage, steps done, steps in all, and a short text.

    Returns:
        Number of models in it.

    Raises:
        DeviceError: The runtime cannot run the network or is not ONNX Runtime, or the network has too few
            subnets.
    """
    _require_runs(runtime, network)
    plan = plan_of(network, subnets=subnets, seed=seed)

    def content(number: int, config: Mapping[str, Any]) -> bytes:
        progress("subnets", number + 1, len(plan["subnets"]), "exported")
        return network.content(network.space.check(config))

    return pack_kit(
        path,
        plan,
        (content(*pair) for pair in enumerate(plan["subnets"])),
        runtime=runtime,
        name=name,
        use=f"Take device.json back: brickyard search {name} --objectives accuracy latency_ms@device.json "
        "--out found",
    )


def plan_of(network: Timable, *, subnets: int, seed: int) -> dict[str, Any]:
    """Decide what is timed: JSON values that `subnets_record` reads.

    Args:
        network: The network.
        subnets: How many subnets, where it has so many.
        seed: Their seed.

    Raises:
        DeviceError: Fewer than 16 subnets are wanted or there.
    """
    if subnets < FEWEST:
        raise DeviceError(f"subnets = {subnets} is not allowed; allowed: {FEWEST} or more")
    configs = draw_subnets(network.space, subnets, seed=seed, canonical=network.canonical)
    if len(configs) < FEWEST:
        raise DeviceError(
            f"the network has {len(configs)} different subnets, too few to predict others from; search by "
            "latency_ms, measured on this machine"
        )
    return {
        "kind": BY_SUBNETS,
        "network_sha256": network.sha256,
        "space": network.space.to_json(),
        "subnets": [dict(config) for config in configs],
        "fitted": len(configs) - len(configs) // _HELD_OUT,
        "seed": seed,
        "inputs": {name: ids.tolist() for name, ids in network.feed.items()},
    }


def draw_subnets(
    space: Space, count: int, *, seed: int, canonical: Callable[[Config], Config] = lambda config: config
) -> list[Config]:
    """Draw distinct subnets of all sizes, the smallest and the largest first.

    Uniform draws alone are nearly all of middling size; so every second subnet has a share of the whole of
    its own, near which all its decisions are.

    Args:
        space: The space.
        count: How many; fewer come where there are no more, or further ones are hard to find.
        seed: Seed of the draws.
        canonical: What makes configs that compute the same one.
    """
    rng = random.Random(seed)
    found = dict.fromkeys((canonical(space.smallest()), canonical(space.largest())))
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        if len(found) % 2:
            found.setdefault(canonical(space.sample(rng)))
        else:
            share = rng.random()
            near = {part.name: _near(part, share + rng.uniform(-0.3, 0.3), rng) for part in space}
            found.setdefault(canonical(space.check(near)))
    return list(found)


def _near(decision: Decision, share: float, rng: random.Random) -> Any:
    """Draw a value that is about such a share of the largest."""
    share = min(1.0, max(0.0, share))
    if isinstance(decision, Choice):
        return decision.values[round(share * (len(decision.values) - 1))]
    if isinstance(decision, Subset):
        size = max(decision.minimum, round(share * decision.count))
        return tuple(sorted(rng.sample(range(decision.count), size)))
    return decision.sample(rng)


def _require_runs(runtime: Runtime, network: Timable) -> None:
    """Refuse runtimes that do not run the files of these subnets."""
    ids = bool(network.feed)
    allowed = ("ort", "openvino") if ids else ("ort", "ort-int8", "openvino")
    if runtime.name not in allowed:
        raise DeviceError(
            f"runtime = {runtime.name!r}: subnets of a network that reads {'tokens' if ids else 'pictures'} "
            f"are timed with {', '.join(allowed)}"
        )


def _earlier(state: Path, key: Mapping[str, Any]) -> list[list[list[float]]] | None:
    """Read what was measured before, if it is of the same."""
    if not state.is_file():
        return None
    record = read_json(state)
    if record.get("key") != key:
        raise DeviceError(
            f"{state} holds times of another network, machine or runtime, or of other --subnets, --threads "
            "or --seed; give the command of then to go on, or remove it to start anew"
        )
    times: list[list[list[float]]] = record["times"]
    return times
