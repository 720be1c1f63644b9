"""How long a request takes: warm, the search alone, and the command in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _factories import Kept
from _record import Ledger, pick, say

from brickyard.core.errors import InfeasibleError
from brickyard.data.geometry import GeometrySpec, scenes
from brickyard.devices.profile import DeviceProfile

_WARM, _COLD = 12, 5


def timing(ledger: Ledger, entry: Kept, *, threads: int) -> None:
    """Time requests; profiling this machine is not part of any.

    Args:
        ledger: Takes the rows.
        entry: A geometry factory.
        threads: Threads of the runtime.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        profile = entry.factory.device(threads=threads)
        _warm(ledger, entry, profile, folder)
        _search(ledger, entry, profile)
        _cold(ledger, entry, folder, threads)
    _scenes(ledger)


def _scenes(ledger: Ledger, *, count: int = 2048) -> None:
    for size in (32, 64, 96):
        spec = GeometrySpec(size=size)
        scenes(spec, 256, 0)
        rates = []
        for seed in range(3):
            started = time.perf_counter()
            scenes(spec, count, seed)
            rates.append(count / (time.perf_counter() - started))
        method = f"geometry scenes of {size} x {size} pixels"
        ledger.add("time", method, "pictures per second", float(np.median(rates)), count=count)


def _requests(entry: Kept, profile: DeviceProfile, count: int) -> list[tuple[str, dict[str, object]]]:
    known, unseen = entry.pairs()
    tasks = [
        tasks[place % len(tasks)] for place in range(count) for tasks in ((known, unseen)[place % 2 :][:1])
    ]
    space = entry.factory.folder.blueprint.space
    low, high = profile.predict(space.smallest()), profile.predict(space.largest())
    budgets: list[dict[str, object]] = [
        {"max_macs": "25%"},
        {"max_macs": "50%"},
        {"latency_ms": low + 0.5 * (high - low)},
        {"max_macs": "35%", "max_file_mb": 1.0},
    ]
    return [(task.text, budgets[place % len(budgets)]) for place, task in enumerate(tasks)]


def _warm(ledger: Ledger, entry: Kept, profile: DeviceProfile, folder: Path) -> None:
    seconds: list[float] = []
    parts: dict[str, list[float]] = {}
    for place, (task, budget) in enumerate(_requests(entry, profile, _WARM + 1)):
        started = time.perf_counter()
        try:
            report = entry.factory.make(task=task, budget=budget, device=profile, out=folder / f"warm{place}")
        except InfeasibleError as error:
            say(f"time: left out, {task}: {error}")
            continue
        seconds.append(time.perf_counter() - started)
        for part, value in report.seconds.items():
            parts.setdefault(part, []).append(value)
    seed = {"seed": entry.seed, "count": len(seconds) - 1}
    ledger.add("time", "warm request", "seconds", float(np.median(seconds[1:])), **seed)
    ledger.add("time", "first request of a process", "seconds", seconds[0], **seed)
    for part, values in parts.items():
        if part != "total":
            ledger.add("time", f"warm request: {part}", "seconds", float(np.median(values[1:])), **seed)


def _search(ledger: Ledger, entry: Kept, profile: DeviceProfile) -> None:
    maker, times = entry.factory.maker(profile), []
    for text, budget in _requests(entry, profile, _WARM):
        limits = (
            {"macs": 0.3 * maker.whole.macs} if "max_macs" in budget else {"latency_ms": budget["latency_ms"]}
        )
        task = entry.vocabulary.parse(text)
        started = time.perf_counter()
        maker.find(task, limits, seed=0)  # type: ignore[arg-type]
        times.append(1e3 * (time.perf_counter() - started))
    ledger.add("time", "search", "milliseconds", float(np.median(times)), seed=entry.seed, count=len(times))


def _cold(ledger: Ledger, entry: Kept, folder: Path, threads: int) -> None:
    known, unseen = entry.pairs()
    seconds = []
    for place in range(_COLD):
        task = (known, unseen)[place % 2][place].text
        command = [
            sys.executable,
            "-m",
            "brickyard",
            "make",
            str(entry.path),
            "--task",
            task,
            "--max-macs",
            "25%",
        ]
        command += ["--threads", str(threads), "--out", str(folder / f"cold{place}"), "--json"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - started)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    ledger.add("time", "cold command", "seconds", float(np.median(seconds)), seed=entry.seed, count=_COLD)


def speedup(ledger: Ledger) -> tuple[float, str] | None:
    """Compare the fastest training to equal accuracy with a warm request.

    Args:
        ledger: Rows of `peers` and `time`.

    Returns:
        The ratio, median over tasks, and where its parts come from; None where one lacks.
    """
    training = pick(ledger.section("peers"), method="fastest training to ours")
    warm = pick(ledger.section("time"), method="warm request")
    if not training or not warm:
        return None
    seconds = float(np.median([row.value for row in training]))
    if any(row.note for row in training):
        say("speedup: for some task no training reached ours; its seconds are a lower bound")
    sources = {"this run" if row.run == ledger.run else f"kept {row.run[:10]}" for row in (*training, *warm)}
    return seconds / float(np.mean([row.value for row in warm])), " + ".join(sorted(sources))
