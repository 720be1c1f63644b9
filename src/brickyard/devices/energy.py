"""Energy of a model by the machine's own counter: RAPL of Intel and AMD through Linux's powercap.

`energy_uj` of each processor package counts microjoules and starts again at 0 after `max_energy_range_uj`.
It is the energy of the whole package: cores, caches, memory controller; not of memory chips, disks or fans,
and whatever else runs is in it. Energy of one picture is what the package drew over many runs by their
number, with the power it also draws while idle; what lies above idle is told beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import DeviceError
from brickyard.devices.runtimes.base import Session, random_inputs

Floats = npt.NDArray[np.float64]

POWERCAP = Path("/sys/class/powercap")
SUBNETS = 36
"""How many whole subnets a profile measures the energy of; the smallest and the largest come first."""
_WARMUP = 5


class EnergyCounter:
    """Reads the energy of all processor packages; not for several threads at once.

    Args:
        root: Folder of the powercap zones.

    Raises:
        DeviceError: There is no counter, or it may not be read; the reason is told.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = _packages(root)
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [_number(zone / "energy_uj") for zone in self._zones]
        self._total = 0

    @property
    def name(self) -> str:
        """What is counted, for records."""
        return f"RAPL, {', '.join(_text(zone / 'name') for zone in self._zones)}"

    def joules(self) -> float:
        """Return the energy since this counter was opened.

        Call it more often than the counter wraps around, which takes minutes at least.
        """
        for place, (zone, span) in enumerate(zip(self._zones, self._ranges, strict=True)):
            now = _number(zone / "energy_uj")
            self._total += (now - self._last[place]) % (span + 1)
            self._last[place] = now
        return self._total / 1e6

    def watts(self, seconds: float) -> float:
        """Return the power over a while in which this program sleeps: that of the idle machine."""
        started, before = time.perf_counter(), self.joules()
        time.sleep(seconds)
        used = self.joules() - before
        return used / (time.perf_counter() - started)


@dataclass(frozen=True)
class EnergyUse:
    """Energy of one picture.

    Attributes:
        mj: Millijoules, idle power included.
        idle_watts: Power of the idle machine, measured before.
        above_idle_mj: Millijoules above what the idle machine draws in the same time; below 0 if the machine
            was not idle before.
        runs: Runs of the burst that counts.
        seconds: How long it took.
        counter: What was counted.
    """

    mj: float
    idle_watts: float
    above_idle_mj: float
    runs: int
    seconds: float
    counter: str


def measure_energy(
    session: Session,
    counter: EnergyCounter,
    *,
    idle_watts: float,
    seconds: float = 0.5,
    bursts: int = 3,
) -> EnergyUse:
    """Measure the energy of a session; the burst with the lowest counts, since other programs only add.

    Args:
        session: The model, of static shapes.
        counter: What counts.
        idle_watts: Power of the idle machine.
        seconds: Length of a burst; counters move about every millisecond.
        bursts: Number of bursts.

    Returns:
        The measurement.

    Raises:
        DeviceError: The counter stood still.
    """
    inputs = random_inputs(session)
    for _ in range(_WARMUP):
        session.run(None, inputs)
    found: list[tuple[float, int, float]] = []
    for _ in range(bursts):
        runs, before, started = 0, counter.joules(), time.perf_counter()
        while (lasted := time.perf_counter() - started) < seconds:
            session.run(None, inputs)
            runs += 1
        found.append(((counter.joules() - before) / runs, runs, lasted))
    joules, runs, lasted = min(found)
    if joules <= 0:
        raise DeviceError(
            f"the energy counter ({counter.name}) stood still for {seconds:g} s; it cannot be used"
        )
    return EnergyUse(
        mj=1e3 * joules,
        idle_watts=idle_watts,
        above_idle_mj=1e3 * (joules - idle_watts * lasted / runs),
        runs=runs,
        seconds=lasted,
        counter=counter.name,
    )


def fit_energy(latencies: Sequence[float], energies: Sequence[float], *, fitted: int) -> dict[str, Any]:
    """Fit energy as an affine function of latency; relative errors, squared.

    Args:
        latencies: Predicted latencies of subnets, milliseconds.
        energies: Their measured energies, millijoules.
        fitted: How many of the first to fit on; the others are held out and give the error.

    Returns:
        Entries of `brickyard.devices.energy_model.EnergyModel`.
    """
    ms, mj = np.asarray(latencies, dtype=np.float64), np.asarray(energies, dtype=np.float64)
    design = np.stack([np.ones(fitted), ms[:fitted]], axis=1) / mj[:fitted, None]
    fixed, slope = np.linalg.lstsq(design, np.ones(fitted), rcond=None)[0]
    errors = np.abs((fixed + slope * ms[fitted:]) / mj[fitted:] - 1)
    return {
        "fixed_mj": float(fixed),
        "mj_per_ms": float(slope),
        "held_out_mape": float(errors.mean()),
        "fitted": fitted,
        "held_out": len(errors),
    }


def energy_record(
    sessions: Sequence[Session],
    latencies: Sequence[float],
    counter: EnergyCounter,
    *,
    seconds: float = 0.3,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure subnets and fit their energy; two of three are fitted on, the last third is held out.

    Args:
        sessions: Subnets.
        latencies: What the profile predicts for them, milliseconds.
        counter: What counts.
        seconds: Length of a burst, and of the look at the idle machine.
        report: Called with subnets done and in all.

    Returns:
        Entries of `brickyard.devices.energy_model.EnergyModel`.
    """
    idle = counter.watts(seconds)
    energies = []
    for number, session in enumerate(sessions):
        report(number, len(sessions))
        energies.append(measure_energy(session, counter, idle_watts=idle, seconds=seconds).mj)
    fitted = fit_energy(latencies, energies, fitted=2 * len(sessions) // 3)
    return {**fitted, "idle_watts": idle, "counter": counter.name}


def _packages(root: Path) -> list[Path]:
    """Find the zones of whole packages: parts of a package, and its twin behind another bus, count twice."""
    zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    found = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not found:
        raise DeviceError(
            f"this machine has no readable energy counter: {root} has no zone of a processor package. Leave "
            "energy out, or name a device whose profile or table tells it"
        )
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        hint = "; let an administrator allow it" if isinstance(error, PermissionError) else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DeviceError(
            f"this machine has no readable energy counter: {file} cannot be read ({reason}){hint}"
        ) from None


def _number(file: Path) -> int:
    text = _text(file)
    if not text.isdigit():
        raise DeviceError(
            f"this machine has no readable energy counter: {file} holds {text[:40]!r}, no number"
        )
    return int(text)
