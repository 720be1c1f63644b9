"""Formats that a made model can be written in: one file for each."""

from __future__ import annotations

from brickyard.core.errors import ExportError
from brickyard.factory.formats.base import Content, Format
from brickyard.factory.formats.executorch import ExecuTorchFormat
from brickyard.factory.formats.onnx import OnnxFormat
from brickyard.factory.formats.onnx_int8 import OnnxInt8Format
from brickyard.factory.formats.openvino import OpenVinoFormat

__all__ = ["FORMATS", "Content", "Format", "format_for", "format_named"]

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
