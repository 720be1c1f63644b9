"""Times a model through ONNX Runtime on this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime


@dataclass(frozen=True)
class Measurement:
    """Times of single runs in milliseconds.

    Attributes:
        p10: Tenth percentile.
        p20: Twentieth percentile.
        p50: Median.
        p90: Ninetieth percentile.
        runs: Timed runs.
        warmup: Runs before them.
        threads: Threads of the runtime.
    """

    p10: float
    p20: float
    p50: float
    p90: float
    runs: int
    warmup: int
    threads: int


def open_session(content: bytes, *, threads: int) -> onnxruntime.InferenceSession:
    """Open a serialized model for running on the CPU with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def random_inputs(session: onnxruntime.InferenceSession, *, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Draw normal inputs of the static shapes that a session takes."""
    rng = np.random.default_rng(seed)
    return {entry.name: rng.standard_normal(entry.shape).astype(np.float32) for entry in session.get_inputs()}


def run_times(session: onnxruntime.InferenceSession, inputs: dict[str, Any], runs: int) -> list[float]:
    """Time single runs, milliseconds each."""
    times = []
    clock = time.perf_counter_ns
    for _ in range(runs):
        started = clock()
        session.run(None, inputs)
        times.append((clock() - started) / 1e6)
    return times


def summarise(times: Sequence[float], *, warmup: int, threads: int) -> Measurement:
    """Turn times of single runs into a record."""
    p10, p20, p50, p90 = (round(float(value), 6) for value in np.percentile(times, [10, 20, 50, 90]))
    return Measurement(p10, p20, p50, p90, len(times), warmup, threads)


def measure_session(
    session: onnxruntime.InferenceSession,
    *,
    threads: int,
    seconds: float = 0.06,
    least_runs: int = 30,
    most_runs: int = 1000,
) -> Measurement:
    """Time a session: warm-up first, then single runs for a while.

    Args:
        session: The model, of static shapes.
        threads: Threads it was opened with, for the record.
        seconds: How long to time, unless `least_runs` takes longer.
        least_runs: Fewest timed runs.
        most_runs: Most timed runs.

    Returns:
        The measurement.
    """
    inputs = random_inputs(session)
    warmup = 5
    once = float(np.median(run_times(session, inputs, warmup)))
    runs = int(min(most_runs, max(least_runs, seconds * 1e3 / max(once, 1e-3))))
    return summarise(run_times(session, inputs, runs), warmup=warmup, threads=threads)


def measure_file(path: Path, *, threads: int = 1, seconds: float = 0.5) -> Measurement:
    """Time a model file; see `measure_session`."""
    return measure_session(open_session(path.read_bytes(), threads=threads), threads=threads, seconds=seconds)


def processor_name() -> str:
    """Return the name of this machine's processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.lower().startswith(("model name", "hardware", "model\t")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
