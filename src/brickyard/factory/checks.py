"""Limits that are kept by measuring the made files: memory and energy beside latency and, of formats, size.

A search needs costs of subnets that are not made yet. Energy comes from the device's profile; memory from a
line through three subnets, which are measured once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from brickyard.core.decision import Subset
from brickyard.core.errors import DeviceError, InfeasibleError
from brickyard.devices.energy import POWERCAP, EnergyCounter, measure_energy
from brickyard.devices.memory import measure_memory
from brickyard.devices.profile import DeviceProfile
from brickyard.devices.runtimes import Session
from brickyard.export.decode import Decode, append_decode
from brickyard.factory.formats import FORMATS, Content, Format
from brickyard.factory.formats.production import Production
from brickyard.factory.records import Energy

# What a first try aims at, as a share of the ceiling: medians of one file differ by a few percent from one
# measurement to the next, and so does what is predicted from what is measured.
_HEADROOM = {"latency_ms": 0.92, "energy_mj": 0.92, "runtime_memory_bytes": 0.97}
_UNITS = {"latency_ms": "ms", "file_bytes": "bytes", "runtime_memory_bytes": "bytes", "energy_mj": "mJ"}
_IDLE_SECONDS = 1.0
_MEASURED = tuple(form.name for form in FORMATS.values() if form.runtime.library == "onnxruntime")


class Checks:
    """Predicts memory and energy of subnets, and measures those of files.

    Args:
        production: Makes the files of subnets.
        device: Profile of the device, None without one.
    """

    def __init__(self, production: Production, device: DeviceProfile | None) -> None:
        self.production, self.blueprint, self.device = production, production.blueprint, device
        self._tail: Decode | None = None
        self._lines: dict[Decode | None, tuple[list[int], list[int]]] = {}

    def prepare(self, names: Collection[str], tail: Decode | None) -> None:
        """Measure now what predictions of these limits need.

        Args:
            names: The limits.
            tail: Decoding that is appended to files from now on; its memory is in the predictions.
        """
        self._tail = tail
        if "runtime_memory_bytes" in names:
            self._line()

    def _line(self) -> tuple[list[int], list[int]]:
        """Counted and measured bytes of the smallest subnet, one with half the bricks, and the largest."""
        if self._tail not in self._lines:
            space = self.blueprint.space
            halves = {
                part.name: tuple(range(max(part.minimum, part.count // 2)))
                for part in space
                if isinstance(part, Subset)
            }
            configs = (space.smallest(), space.largest().replace(halves), space.largest())
            counted = [self.blueprint.count(config).peak_memory_bytes for config in configs]
            graphs = [self.blueprint.cut(config) for config in configs]
            if self._tail is not None:
                graphs = [append_decode(graph, self._tail) for graph in graphs]
            files = [
                self.production.files(config, graph, inputs=1)
                for config, graph in zip(configs, graphs, strict=True)
            ]
            measured = [self.memory(content) for content in files]
            self._lines[self._tail] = counted, measured
        return self._lines[self._tail]

    def predict(self, names: Collection[str], config: Mapping[str, Any], *, peak: int) -> dict[str, Any]:
        """Predict what has to be measured in the end.

        Args:
            names: The limits; only these are predicted.
            config: One legal value for each decision.
            peak: Its weights and live activations, bytes.
        """
        costs: dict[str, Any] = {}
        if "runtime_memory_bytes" in names:
            costs["runtime_memory_bytes"] = round(float(np.interp(peak, *self._line())))
        if "energy_mj" in names and self.device is not None:
            energy = self.device.predict_energy(config)
            assert energy is not None
            costs["energy_mj"] = energy
        return costs

    def memory(self, files: Content) -> int:
        """Measure the memory of an ONNX file, bytes; see `brickyard.devices.memory.measure_memory`."""
        return measure_memory(next(iter(files.values())), threads=self.production.threads)

    @cached_property
    def _counter(self) -> tuple[EnergyCounter, float]:
        counter = EnergyCounter(POWERCAP)
        return counter, counter.watts(_IDLE_SECONDS)

    def require_counter(self) -> None:
        """Open the energy counter of this machine.

        Raises:
            DeviceError: There is none that can be read.
        """
        _ = self._counter

    def energy(self, session: Session) -> Energy:
        """Measure the energy of an opened model; see `brickyard.devices.energy.measure_energy`."""
        counter, idle = self._counter
        return Energy(**asdict(measure_energy(session, counter, idle_watts=idle)))


def require_memory(form: Format) -> None:
    """Refuse a format whose memory cannot be measured.

    Raises:
        DeviceError: ONNX Runtime does not run its files.
    """
    if form.name not in _MEASURED:
        raise DeviceError(
            f"memory is measured in ONNX Runtime, which does not run the format {form.name}; take the format "
            f"{' or '.join(_MEASURED)}, or leave max_memory_mb and measure_memory out"
        )


def require_energy(device: DeviceProfile) -> None:
    """Refuse a device whose energy is unknown.

    Raises:
        DeviceError: It has no energy.
    """
    if device.energy is None:
        raise DeviceError(
            f"device {device.name!r} says nothing of energy, so energy_mj cannot be limited; profile it with "
            "--energy, add the column mj to a table, or leave the limit out"
        )


def with_headroom(limits: Mapping[str, float], *, here: bool) -> dict[str, float]:
    """Return ceilings for the first round: lower where the file is measured.

    Args:
        limits: Ceilings of the request.
        here: Whether the device is this machine; memory is measured in any case.
    """
    return {
        name: value * _HEADROOM.get(name, 1.0) if here or name == "runtime_memory_bytes" else value
        for name, value in limits.items()
    }


def tightened(
    wanted: Mapping[str, float],
    limits: Mapping[str, float],
    *,
    over: Mapping[str, float],
    predicted: Mapping[str, float],
) -> dict[str, float]:
    """Return ceilings for the next round.

    Args:
        wanted: Ceilings of this round, of predictions.
        limits: Ceilings of the request.
        over: What was measured above its limit.
        predicted: What was predicted for the file of this round, which may lie far below its ceiling.
    """
    return {
        name: min(value, predicted[name]) * min(0.97, 0.98 * limits[name] / over[name])
        if name in over
        else value
        for name, value in wanted.items()
    }


def not_met(name: str, limit: float, *, smallest: float, rounds: int) -> InfeasibleError:
    """Return the error of a limit that no file kept.

    Args:
        name: The limit.
        limit: Its ceiling.
        smallest: The smallest that was measured.
        rounds: How many files were made.
    """
    told = {"latency_ms": "the fastest file took", "energy_mj": "the thriftiest file took"}
    amount = f"{smallest:.0f}" if name.endswith("bytes") else f"{smallest:.6g}"
    return InfeasibleError(
        f"{name} = {limit:.10g} was not met by measurement in {rounds} rounds: "
        f"{told.get(name, 'the smallest file took')} {amount} {_UNITS[name]}; allow that"
        + ("" if name.endswith("bytes") else ", or repeat when the machine is idle"),
        limit=name,
        requested=limit,
        smallest=smallest,
    )
