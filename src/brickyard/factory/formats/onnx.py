"""The cut graph as it is: ONNX, 32-bit numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from brickyard.devices.runtimes import Runtime
from brickyard.devices.runtimes.ort import ORT
from brickyard.factory.formats.base import Floats, Format


class OnnxFormat(Format):
    """`model.onnx`."""

    name, files, runs_in = "onnx", ("model.onnx",), ("ort", "openvino", "torch")

    @property
    def runtime(self) -> Runtime:
        """ONNX Runtime."""
        return ORT

    def convert(self, graph: onnx.ModelProto, *, inputs: Floats, twin: Callable[[], Any]) -> dict[str, bytes]:
        """Serialize the graph; see `Format.convert`."""
        return {self.files[0]: graph.SerializeToString()}
