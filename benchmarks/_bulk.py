"""A thousand different requests in one run of the command: seconds of each, and memory that must not grow."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _factories import Kept
from _record import Ledger, say

from brickyard.devices.profile import DeviceProfile

_SLOWER = 3.0
_SHARE = 10  # the first and the last tenth of the requests are compared


def bulk(ledger: Ledger, entry: Kept, *, requests: int, threads: int, jobs: int = 2) -> None:
    """Run `brickyard make --requests` and watch it from outside.

    Args:
        ledger: Takes the rows.
        entry: The factory.
        requests: Number of requests; no two of them are the same.
        threads: Threads that files are measured with.
        jobs: Requests that are worked on at the same time.
    """
    profile = entry.factory.profile(threads=threads, seed=entry.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        devices = {"here": profile, "slower": _slower(profile)}
        for device, record in devices.items():
            record.save(folder / f"{device}.json")
        file = folder / "requests.jsonl"
        drawn = draw_requests(entry, profile, folder, count=requests)
        file.write_text("".join(json.dumps(request) + "\n" for request in drawn))
        command = [sys.executable, "-m", "brickyard", "make", str(entry.path), "--requests", str(file)]
        command += ["--out", str(folder / "models"), "--json", "--jobs", str(jobs)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        times, memory, answers = [started], [], []
        for line in process.stdout:
            answers.append(json.loads(line))
            times.append(time.perf_counter())
            memory.append(_resident(process.pid))
            if len(answers) % 100 == 0:
                say(f"bulk: {len(answers)} of {requests}, {memory[-1] / 1e6:.0f} MB")
        process.wait()
    count = {"seed": entry.seed, "count": len(answers)}
    if len(answers) != requests:
        raise RuntimeError(f"{requests} requests were given, {len(answers)} were answered")
    part = max(1, requests // _SHARE)
    first, last = float(np.mean(memory[:part])), float(np.mean(memory[-part:]))
    seconds = np.diff(times)
    ledger.add(
        "bulk", "requests from one file", "seconds per request", (times[-1] - started) / requests, **count
    )
    ledger.add(
        "bulk", "requests from one file", "seconds, 90th percentile", np.percentile(seconds, 90), **count
    )
    ledger.add("bulk", "first tenth", "resident memory, MB", first / 1e6, **count)
    ledger.add("bulk", "last tenth", "resident memory, MB", last / 1e6, **count)
    ledger.add("bulk", "last tenth / first tenth", "resident memory, ratio", last / first, **count)
    feasible = sum(answer.get("feasible", False) for answer in answers)
    ledger.add("bulk", "requests from one file", "share that was met", feasible / requests, **count)


def draw_requests(entry: Kept, profile: DeviceProfile, folder: Path, *, count: int) -> list[dict[str, Any]]:
    """Draw different requests that can be met: tasks, budgets of every kind, two devices.

    Args:
        entry: The factory.
        profile: Profile of this machine.
        folder: Where the profiles `here.json` and `slower.json` lie.
        count: Number of requests.

    Returns:
        Records for a file of requests.
    """
    rng = np.random.default_rng(2026)
    vocabulary, maker = entry.vocabulary, entry.factory.maker(profile)
    space, measured = maker.blueprint.space, ("runtime_memory_bytes",)
    whole, least = (maker.costs(config, limits=measured) for config in (space.largest(), space.smallest()))
    requests: dict[str, dict[str, Any]] = {}
    while len(requests) < count:
        device = ("here", "slower")[int(rng.integers(2))]
        task = _task(entry, rng)
        share = float(rng.uniform(0.25, 1.0))
        assert whole.latency_ms is not None
        assert least.latency_ms is not None
        assert whole.runtime_memory_bytes is not None
        assert least.runtime_memory_bytes is not None
        slow = _SLOWER if device == "slower" else 1.0
        budget = [
            {"max_macs": f"{100 * max(share, 1.2 * least.macs / whole.macs):.1f}%"},
            {"max_file_mb": round((1.1 * least.file_bytes + share * whole.file_bytes) / 1e6, 4)},
            {"latency_ms": round(slow * (1.3 * least.latency_ms + share * whole.latency_ms), 4)},
            {
                "max_memory_mb": round(
                    (1.1 * least.runtime_memory_bytes + share * whole.runtime_memory_bytes) / 1e6, 4
                )
            },
        ][int(rng.integers(4))]
        record = {
            "task": vocabulary.task(task).text,
            "budget": budget,
            "device": str(folder / f"{device}.json"),
        }
        requests.setdefault(json.dumps(record), record)
    return list(requests.values())


def _task(entry: Kept, rng: np.random.Generator) -> list[str]:
    vocabulary = entry.vocabulary
    if vocabulary.kind == "classes":
        words = np.array(vocabulary.words)
        return [
            str(word)
            for word in rng.choice(words, int(rng.integers(2, min(5, len(words)) + 1)), replace=False)
        ]
    groups = list(vocabulary.groups.values())
    chosen = rng.choice(len(groups), int(rng.integers(1, min(3, len(groups)) + 1)), replace=False)
    return [str(rng.choice(groups[place])) for place in sorted(chosen)]


def _slower(profile: DeviceProfile) -> DeviceProfile:
    """Return a board of another name that takes longer, so that its files are not measured."""
    record = profile.model_dump()
    record |= {"name": "slower board", "processor": "slower"}
    return DeviceProfile.model_validate({**record, "median_ratio": _SLOWER * profile.median_ratio})


def _resident(pid: int) -> float:
    """Return the resident memory of a running process and its children in bytes."""
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if pid in (int(folder.name), parent):
                pages += int((folder / "statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return float(pages * resource.getpagesize())
