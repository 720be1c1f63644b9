"""OpenVINO's own files: topology and weights, 32-bit numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from brickyard.devices.runtimes import RUNTIMES, Runtime, Session
from brickyard.devices.runtimes.openvino import compiled, core
from brickyard.factory.formats.base import Content, Floats, Format


class OpenVinoFormat(Format):
    """`model.xml` and `model.bin`."""

    name, files, runs_in = "openvino", ("model.xml", "model.bin"), ("openvino",)

    @property
    def runtime(self) -> Runtime:
        """OpenVINO."""
        return RUNTIMES["openvino"]

    def convert(self, graph: onnx.ModelProto, *, inputs: Floats, twin: Callable[[], Any]) -> dict[str, bytes]:
        """Convert the graph; see `Format.convert`."""
        model = core().read_model(graph.SerializeToString())
        import openvino

        with tempfile.TemporaryDirectory() as name:
            openvino.save_model(model, Path(name) / self.files[0], compress_to_fp16=False)
            return {file: (Path(name) / file).read_bytes() for file in self.files}

    def open(self, files: Content, *, threads: int) -> Session:
        """Open the files; see `Format.open`."""
        topology, weights = files.values()
        return compiled(core().read_model(topology, weights), threads=threads)
