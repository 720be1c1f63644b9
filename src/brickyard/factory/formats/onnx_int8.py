"""ONNX with 8-bit integers, quantised statically on the factory's calibration inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from brickyard.devices.runtimes import Runtime
from brickyard.devices.runtimes.ort_int8 import ORT_INT8, quantized
from brickyard.factory.formats.base import Floats, Format


class OnnxInt8Format(Format):
    """`model.int8.onnx`: float32 in and out, 8-bit integers inside."""

    name, files, runs_in, tolerance = "onnx-int8", ("model.int8.onnx",), ("ort-int8",), None

    @property
    def runtime(self) -> Runtime:
        """ONNX Runtime, 8-bit integers."""
        return ORT_INT8

    def convert(self, graph: onnx.ModelProto, *, inputs: Floats, twin: Callable[[], Any]) -> dict[str, bytes]:
        """Quantise the graph; see `Format.convert`."""
        return {self.files[0]: quantized(graph, inputs)}
