"""Times a model on this machine, by default through ONNX Runtime.

Every run is timed on its own, batch 1, inputs normal random numbers of a fixed seed. Other processes slow a
model down for a while now and then, which is no property of the model: runs come in bursts, and the burst
with the lowest median is the measurement; where there is time to wait, only bursts between two quick pulses
of the machine count (`brickyard.devices.pulse`). With more than one thread, workers of ONNX Runtime are told
to stop spinning when a run ends; by its default they go on for a while, which makes the next run of the same
model quicker and everything else on the machine slower.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import DeviceError
from brickyard.devices.pulse import Pulse
from brickyard.devices.runtimes.base import Runtime, Session, random_inputs
from brickyard.devices.runtimes.ort import ORT

Floats = npt.NDArray[np.float64]

PATIENCE = 1.0
"""How long a search waits for a quiet machine to time one subnet, seconds."""

_PULSE = Pulse()
_PAUSE = 0.01  # seconds between bursts while the machine is busy


@dataclass(frozen=True)
class Measurement:
    """Times of single runs in milliseconds.

    Attributes:
        p10: Tenth percentile.
        p20: Twentieth percentile.
        p50: Median.
        p90: Ninetieth percentile.
        runs: Timed runs of the burst that counts.
        warmup: Runs before the first burst.
        threads: Threads of the runtime.
        bursts: Bursts that were timed.
        runtime: Runtime and version.
        processor: Name of the processor.
    """

    p10: float
    p20: float
    p50: float
    p90: float
    runs: int
    warmup: int
    threads: int
    bursts: int
    runtime: str
    processor: str


def run_times(session: Session, inputs: dict[str, Any], runs: int) -> list[float]:
    """Time single runs, milliseconds each."""
    times = []
    clock, run = time.perf_counter_ns, session.run
    for _ in range(runs):
        started = clock()
        run(None, inputs)
        times.append((clock() - started) / 1e6)
    return times


def round_robin(
    sessions: Sequence[Session],
    *,
    passes: int = 6,
    most_passes: int = 40,
    agree: float = 0.01,
    most_seconds: float = 60.0,
    seconds: float = 0.003,
    least_runs: int = 10,
    most_runs: int = 40,
    report: Callable[[int, int], None] = lambda done, most: None,
    each: Callable[[int, int], None] = lambda done, most: None,
    earlier: Sequence[Sequence[Sequence[float]]] | None = None,
    keep: Callable[[list[list[list[float]]]], None] = lambda times: None,
) -> list[Floats]:
    """Time sessions in turns, so that a drift of the machine hits all of them alike.

    Passes go on until the quietest burst among the even and among the odd passes agree; a busy machine takes
    longer.

    Args:
        sessions: Models of static shapes.
        passes: Bursts of each session at least.
        most_passes: Bursts of each session at most.
        agree: Mean relative difference between even and odd passes that is good enough.
        most_seconds: No further pass starts after this time, once the fewest passes are done.
        seconds: How long a burst shall take.
        least_runs: Fewest runs of a burst.
        most_runs: Most runs of a burst.
        report: Called with the passes that are done and their largest number.
        each: Called with the bursts that are done, of all sessions together, and their largest number.
        earlier: Bursts of each session from a measurement that was stopped, as `keep` got them; they count as
            passes that are done.
        keep: Called after each pass with all bursts `[sessions][passes][runs]`.

    Returns:
        For each session milliseconds `[passes, runs]`; the number of runs differs between sessions.
    """
    inputs = [random_inputs(session) for session in sessions]
    once = [min(run_times(*pair, 4)) for pair in zip(sessions, inputs, strict=True)]
    runs = [int(min(most_runs, max(least_runs, seconds * 1e3 / max(ms, 1e-3)))) for ms in once]
    times = [[list(burst) for burst in bursts] for bursts in earlier or [()] * len(sessions)]
    runs = [len(bursts[0]) if bursts else count for bursts, count in zip(times, runs, strict=True)]
    started = time.perf_counter()
    for number in range(len(times[0]), most_passes):
        report(number, most_passes)
        for place, (session, given) in enumerate(zip(sessions, inputs, strict=True)):
            each(number * len(sessions) + place, most_passes * len(sessions))
            times[place].append(run_times(session, given, runs[place] + 2)[2:])
        keep(times)
        if number + 1 < passes:
            continue
        late = time.perf_counter() - started > most_seconds
        if late or disagreement([np.array(bursts) for bursts in times]) <= agree:
            break
    return [np.array(bursts) for bursts in times]


def quiet(times: Floats, percentile: float = 20) -> float:
    """Return a percentile of times `[bursts, runs]` in the burst in which it is lowest, milliseconds."""
    return float(np.percentile(times, percentile, axis=1).min())


def typical(times: Floats, bursts: int = 4) -> float:
    """Return what `measure_session` would measure: the lowest median of some bursts, a mean over such groups.

    Args:
        times: Times `[passes, runs]`, milliseconds; passes that fill no group are left out.
        bursts: Bursts of a group, as many as there are if there are fewer.
    """
    medians = np.median(times, axis=1)
    size = min(bursts, len(medians))
    return float(medians[: len(medians) // size * size].reshape(-1, size).min(axis=1).mean())


def medians(times: Sequence[Floats]) -> tuple[Floats, float]:
    """Return the median of each session on a quiet machine, milliseconds.

    The 20th percentile of the quietest burst is disturbed least by others; what it is below the median is
    common to all sessions.

    Args:
        times: Bursts of each session, `[passes, runs]`.

    Returns:
        The medians `[sessions]`, and the median of runs over their 20th percentile.
    """
    low = np.array([quiet(rows, 20) for rows in times])
    ratio = float(np.median([typical(rows) for rows in times] / low))
    return low * ratio, ratio


def disagreement(times: Sequence[Floats]) -> float:
    """Return how far `quiet` of even and odd bursts are apart: the noise, relative, a mean."""
    return float(np.mean([abs(quiet(bursts[::2]) / quiet(bursts[1::2]) - 1) for bursts in times]))


def slowdown(times: Sequence[Floats]) -> float:
    """Return how much slower the last third of the bursts is than the first: throttling, or other work.

    Args:
        times: Bursts of each session, `[passes, runs]`, at least 3 passes.

    Returns:
        A share, a median over sessions; below 0 where the machine became faster.
    """
    part = len(times[0]) // 3
    medians = [np.median(bursts, axis=1) for bursts in times]
    return float(np.median([np.median(row[-part:]) / np.median(row[:part]) - 1 for row in medians]))


def clock_step_ns() -> int:
    """Return the smallest step of the clock that was seen, nanoseconds."""
    clock = time.perf_counter_ns
    steps = []
    for _ in range(2000):
        started = now = clock()
        while now == started:
            now = clock()
        steps.append(now - started)
    return min(steps)


def measure_session(
    session: Session,
    *,
    threads: int,
    runtime: Runtime = ORT,
    seconds: float = 0.08,
    bursts: int = 4,
    least_runs: int = 30,
    most_runs: int = 300,
    patience: float = 0.0,
) -> Measurement:
    """Time a session: warm-up first, then bursts of single runs.

    Args:
        session: The model, of static shapes.
        threads: Threads it was opened with, for the record.
        runtime: What it was opened with, for the record.
        seconds: How long to time in all, unless the fewest runs take longer.
        bursts: Number of bursts; 1 takes all runs as they come.
        least_runs: Fewest timed runs of a burst.
        most_runs: Most timed runs of a burst.
        patience: How long to go on, seconds, until so many bursts were timed while no other work slowed the
            machine down; after that all bursts count. 0 takes the bursts as they come.

    Returns:
        The measurement.
    """
    inputs = random_inputs(session)
    warmup = 5
    once = float(np.median(run_times(session, inputs, warmup)))
    runs = int(min(most_runs, max(least_runs, seconds / bursts * 1e3 / max(once, 1e-3))))
    rows, timed = _bursts(session, inputs, runs, bursts, patience)
    p10, p20, p50, p90 = min(
        (np.percentile(row, [10, 20, 50, 90]).round(6).tolist() for row in rows), key=lambda row: row[2]
    )
    return Measurement(
        *(p10, p20, p50, p90, runs, warmup, threads, timed),
        runtime=runtime.full_name(),
        processor=processor_name(),
    )


def _bursts(
    session: Session, inputs: dict[str, Any], runs: int, bursts: int, patience: float
) -> tuple[list[list[float]], int]:
    """Return the bursts that count, and how many there were."""
    if not patience:
        return [run_times(session, inputs, runs) for _ in range(bursts)], bursts
    rows: list[list[float]] = []
    undisturbed: list[list[float]] = []
    until = time.perf_counter() + patience
    while len(undisturbed) < bursts and (len(rows) < bursts or time.perf_counter() < until):
        quiet_before = _PULSE.is_quiet()
        rows.append(run_times(session, inputs, runs))
        if quiet_before and _PULSE.is_quiet():
            undisturbed.append(rows[-1])
        else:
            time.sleep(_PAUSE)
    return undisturbed or rows, len(rows)


def measure_file(
    path: Path, *, threads: int = 1, runtime: Runtime = ORT, seconds: float = 0.5
) -> Measurement:
    """Time a model file; see `measure_session`.

    Args:
        path: The file, in a form that the runtime opens: ONNX for all of `brickyard.devices.runtimes`.
        threads: Threads of the runtime.
        runtime: The runtime.
        seconds: How long to time in all, unless the fewest runs take longer.

    Returns:
        The measurement.

    Raises:
        DeviceError: The file is missing, or `threads` is below 1.
        MissingExtraError: The runtime is not installed.
    """
    if not path.is_file():
        raise DeviceError(f"{path} is not a file; expected an ONNX model")
    session = runtime.open(path.read_bytes(), threads=threads)
    return measure_session(session, threads=threads, runtime=runtime, seconds=seconds)


def this_device_name(threads: int, runtime: Runtime = ORT) -> str:
    """Name this machine with a runtime and a number of threads, in letters that suit a file name.

    Raises:
        MissingExtraError: The runtime is not installed.
    """
    words = re.sub(r"[^a-z0-9]+", "-", processor_name().lower()).strip("-")
    return f"{words or platform.machine()}-{runtime.short}{runtime.version()}-{runtime.precision}-{threads}t"


def processor_name() -> str:
    """Return the name of this machine's processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        pairs = (
            line.partition(":") for line in info.read_text(encoding="utf-8", errors="replace").splitlines()
        )
        values = {key.strip().lower(): value.strip() for key, _, value in pairs}
        for key in ("model name", "hardware"):
            if values.get(key):
                return values[key]
    return platform.processor() or platform.machine()
