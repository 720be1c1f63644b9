"""Runtimes that a device can be profiled with: one file for each, opened by the same few methods."""

from __future__ import annotations

from brickyard.core.errors import DeviceError
from brickyard.devices.runtimes.base import Runtime, Session
from brickyard.devices.runtimes.openvino import OpenVino
from brickyard.devices.runtimes.ort import ORT
from brickyard.devices.runtimes.ort_int8 import ORT_INT8
from brickyard.devices.runtimes.torch_eager import TorchEager

__all__ = ["RUNTIMES", "Runtime", "Session", "runtime_behind", "runtime_named"]

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (ORT, ORT_INT8, OpenVino(), TorchEager())
}
"""By name."""


def runtime_named(name: str) -> Runtime:
    """Return a runtime.

    Args:
        name: A key of `RUNTIMES`.

    Returns:
        The runtime; whether its library is installed shows when it is used.

    Raises:
        DeviceError: There is none of that name.
    """
    if name not in RUNTIMES:
        raise DeviceError(f"runtime {name!r} is unknown; known: {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def runtime_behind(recorded: str, precision: str) -> Runtime | None:
    """Return the runtime that a device profile was measured with.

    Args:
        recorded: What the profile says of it: library and version.
        precision: Numbers it computes with.

    Returns:
        The runtime of that library, of whatever version is installed here; None if it is none of these, as
        for a table.
    """
    library = recorded.partition(" ")[0]
    found = (
        runtime
        for runtime in RUNTIMES.values()
        if (runtime.library, runtime.precision) == (library, precision)
    )
    return next(found, None)
