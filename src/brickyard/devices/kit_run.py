"""What runs inside a kit: times its models on this machine and writes the device profile."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from brickyard.core.errors import DeviceError
from brickyard.devices.energy import POWERCAP, SUBNETS, EnergyCounter, energy_record
from brickyard.devices.measure import (
    clock_step_ns,
    disagreement,
    processor_name,
    round_robin,
    slowdown,
    this_device_name,
)
from brickyard.devices.record import BY_SUBNETS, predicted_ms, profile_record, subnets_record
from brickyard.devices.runtimes.base import Fed, Session
from brickyard.devices.runtimes.ort import OnnxRuntime

_FINEST = 0.02  # the clock's step, at most this share of the shortest time
_NOISE = 0.05
_SLOWDOWN = 0.10
_MOST_PASSES = 200


def main(arguments: list[str] | None = None, *, folder: Path | None = None) -> None:
    """Read the command line and measure; errors the user can mend end with code 1 and one line."""
    parser = argparse.ArgumentParser(
        description="Measures this machine; a run that was stopped goes on.", allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("device.json"), help="file to write")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument("--name", help="name of the device; made from the processor if not given")
    parser.add_argument("--seconds", type=float, default=120.0, help="time after which it ends, about")
    parser.add_argument("--energy", action="store_true", help="measure energy too (RAPL counters)")
    given = parser.parse_args(arguments)
    try:
        record = run(
            folder or Path(sys.argv[0]).resolve().parent,
            out=given.out,
            threads=given.threads,
            name=given.name,
            seconds=given.seconds,
            energy=given.energy,
        )
    except (DeviceError, OSError) as error:
        _say(f"error: {error}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _say("stopped; the same command goes on")
        raise SystemExit(130) from None
    error_told = (
        f"{len(record['subnets'])} subnets; the error is told where the file is used"
        if record.get("kind") == BY_SUBNETS
        else f"error {record['held_out_mape']:.1%} on {record['held_out']} held-out subnets"
    )
    _say(
        f"{given.out}: {record['name']}, {error_told}, noise {record['noise']:.1%}, slowdown "
        f"{record['slowdown']:+.1%}"
    )


def run(
    folder: Path, *, out: Path, threads: int, name: str | None, seconds: float, energy: bool = False
) -> dict[str, Any]:
    """Measure and write the profile.

    Args:
        folder: The unpacked kit.
        out: File to write; must not exist.
        threads: Threads of the runtime.
        name: Name of the device; made from the processor if None.
        seconds: No further pass starts after this time.
        energy: Measure the energy of subnets too.

    Returns:
        The profile's record.

    Raises:
        DeviceError: The kit is damaged or the output exists; energy is wanted and cannot be read; the clock
            is too coarse; or the times are so noisy, or the machine slowed down so much, that a profile would
            pretend a precision it lacks. What was measured is kept, and another run adds to it.
    """
    if out.exists():
        raise DeviceError(f"{out} already exists; choose another file or remove it first")
    counter = EnergyCounter(POWERCAP) if energy else None
    plan, models = _read(folder)
    by_subnets = plan.get("kind") == BY_SUBNETS
    if by_subnets and energy:
        raise DeviceError("this kit tells no energy, as it measures whole subnets; leave --energy out")
    feed = {name: np.array(ids, dtype=np.int64) for name, ids in plan.get("inputs", {}).items()}
    runtime = OnnxRuntime(plan["precision"])
    state = folder / f"times-{threads}t.json"
    key = {"models": plan["models"], "runtime": runtime.full_name(), "processor": processor_name()}
    earlier = _earlier(state, key, passes_of=len(models))
    step = clock_step_ns()
    sessions: list[Session] = []
    for number, content in enumerate(models):
        _progress(f"opening {number + 1} of {len(models)}")
        session = runtime.open(content, threads=threads)
        sessions.append(Fed(session, feed) if feed else session)
    bursts = round_robin(
        sessions,
        most_passes=_MOST_PASSES,
        most_seconds=seconds,
        report=lambda done, _: _progress(f"pass {done + 1}, until two halves agree"),
        earlier=earlier,
        keep=lambda times: _write(state, {"key": key, "times": times}),
    )
    _progress("")
    shortest = min(float(np.median(rows)) for rows in bursts)
    if step > _FINEST * shortest * 1e6:
        raise DeviceError(
            f"the clock of this machine moves in steps of {step} ns, too coarse for a model that takes "
            f"{shortest * 1e6:.0f} ns; this machine cannot be profiled"
        )
    noise, slower = disagreement(bursts), slowdown(bursts)
    if noise > _NOISE or slower > _SLOWDOWN:
        raise DeviceError(
            f"two halves of the times differ by {noise:.1%} (allowed {_NOISE:.0%}), and the end was "
            f"{slower:+.1%} slower than the start (allowed {_SLOWDOWN:.0%}): other programs run, or the "
            "machine is throttled. No profile was written. Stop other programs, let it cool, and run this "
            f"again; it goes on from {len(bursts[0])} passes, or remove {state.name} to start anew"
        )
    record = (subnets_record if by_subnets else profile_record)(
        plan,
        bursts,
        name=name or this_device_name(threads, runtime),
        runtime=runtime.full_name(),
        precision=runtime.precision,
        threads=threads,
    )
    if counter is not None:
        whole = list(zip(sessions[-len(plan["subnets"]) :], plan["subnets"], strict=True))[:SUBNETS]
        record["energy"] = energy_record(
            [session for session, _ in whole],
            [predicted_ms(record, config) for _, config in whole],
            counter,
            report=lambda done, total: _progress(f"energy of subnet {done + 1} of {total}"),
        )
        _progress("")
    _write(out, record)
    return record


def _read(folder: Path) -> tuple[dict[str, Any], list[bytes]]:
    path = folder / "plan.json"
    if not path.is_file():
        raise DeviceError(f"{path} is missing; unpack the whole kit and run the measure.py that lies in it")
    plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    models = []
    for file, digest in plan["models"].items():
        content = (folder / file).read_bytes() if (folder / file).is_file() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise DeviceError(f"{folder / file} is missing or damaged; unpack the kit again")
        models.append(content)
    return plan, models


def _earlier(state: Path, key: dict[str, Any], *, passes_of: int) -> list[list[list[float]]] | None:
    """Read the passes of a run that was stopped, if they belong to this kit, machine and runtime."""
    if not state.is_file():
        return None
    record = json.loads(state.read_text(encoding="utf-8"))
    if record["key"] != key or len(record["times"]) != passes_of:
        raise DeviceError(f"{state} holds times of another machine, runtime or kit; remove it to start anew")
    times: list[list[list[float]]] = record["times"]
    return times


def _write(path: Path, record: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(record, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a full disk is told without a name
        raise


def _progress(text: str) -> None:
    """Show what is going on, where a person looks on."""
    if not sys.stderr.isatty():
        return
    sys.stderr.write(f"\r{text:<60}" if text else "\r")
    sys.stderr.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
