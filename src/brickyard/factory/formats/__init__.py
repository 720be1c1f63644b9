"""Formats that a made model can be written in: one file for each."""

from __future__ import annotations

from brickyard.core.errors import DeviceError, ExportError
from brickyard.devices.profile import DeviceProfile
from brickyard.devices.runtimes import runtime_behind
from brickyard.factory.formats.base import Content, Format
from brickyard.factory.formats.executorch import ExecuTorchFormat
from brickyard.factory.formats.onnx import OnnxFormat
from brickyard.factory.formats.onnx_int8 import OnnxInt8Format
from brickyard.factory.formats.openvino import OpenVinoFormat

__all__ = ["FORMATS", "Content", "Format", "format_for", "format_named", "format_on"]

FORMATS: dict[str, Format] = {
    form.name: form for form in (OnnxFormat(), OnnxInt8Format(), OpenVinoFormat(), ExecuTorchFormat())
}
"""By name."""


def format_named(name: str) -> Format:
    """Return a format.

    Args:
        name: A key of `FORMATS`.

    Raises:
        ExportError: There is none of that name.
    """
    if name not in FORMATS:
        raise ExportError(f"format {name!r} is unknown; known: {', '.join(FORMATS)}")
    return FORMATS[name]


def format_for(runtime: str | None) -> Format:
    """Return the format that a device's runtime asks for: the first that it runs.

    Args:
        runtime: Name of the runtime; None where it is unknown.
    """
    return next((form for form in FORMATS.values() if runtime in form.runs_in), FORMATS["onnx"])


def format_on(device: DeviceProfile | None, name: str | None) -> Format:
    """Return the format of a request, which its device must run.

    Args:
        device: The device; one of unknown runtime runs any format.
        name: Name of the format; None for what the device's runtime asks for.

    Raises:
        DeviceError: The device does not run it.
        ExportError: There is none of that name.
    """
    runtime = None if device is None else runtime_behind(device.runtime, device.precision)
    form = format_for(None if runtime is None else runtime.name) if name is None else format_named(name)
    if runtime is not None and runtime.name not in form.runs_in:
        assert device is not None
        fitting = [known.name for known in FORMATS.values() if runtime.name in known.runs_in]
        raise DeviceError(
            f"device {device.name!r} was measured with {device.runtime}, {device.precision}, which does not "
            f"run the format {form.name}; take the format {' or '.join(fitting)}, or another device"
        )
    return form
