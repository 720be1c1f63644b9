"""ExecuTorch: the plain torch twin, exported and lowered to XNNPACK kernels.

What XNNPACK has no kernel for runs in ExecuTorch's portable ones, which are slower.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx

from brickyard.core.errors import ExportError, MissingExtraError
from brickyard.devices.runtimes import Runtime, Session
from brickyard.devices.runtimes.base import Port, check_threads, chosen
from brickyard.factory.formats.base import Floats, Format


class ExecuTorch(Runtime):
    """ExecuTorch, 32-bit numbers. Its number of threads is one for the whole process."""

    name, library, short, extra = "executorch", "executorch", "executorch", "executorch"

    def open(self, content: bytes, *, threads: int, twin: Callable[[], Any] | None = None) -> Session:
        """Open a `.pte` file's content; see `Runtime.open`."""
        check_threads(threads)
        _require()
        with _library_talk_off():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime as Library

        portable_lib._unsafe_reset_threadpool(threads)
        return _Session(Library.get().load_program(content))


class ExecuTorchFormat(Format):
    """`model.pte`."""

    name, files, runs_in = "executorch", ("model.pte",), ()

    def __init__(self) -> None:
        self._runtime = ExecuTorch()

    @property
    def runtime(self) -> Runtime:
        """ExecuTorch, which is no device: a limit on latency needs a table of another machine's times."""
        return self._runtime

    def convert(self, graph: onnx.ModelProto, *, inputs: Floats, twin: Callable[[], Any]) -> dict[str, bytes]:
        """Export the twin and lower it; see `Format.convert`."""
        if len(graph.graph.output) > 1:
            raise ExportError(
                "the format executorch is for models of one output, which detectors are not; take another "
                "format"
            )
        _require()
        import torch

        with _library_talk_off(), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.export(_lowerable(twin()), (torch.from_numpy(inputs[:1]),))
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return {self.files[0]: bytes(lowered.to_executorch().buffer)}


class _Session:
    def __init__(self, program: Any) -> None:
        import torch

        self._torch, self._program = torch, program  # a method does not keep its program alive
        self._method = program.load_method("forward")
        self._outputs = [Port("scores")]
        self._input = Port("image", self._method.metadata.input_tensor_meta(0).sizes())

    def get_inputs(self) -> Sequence[Port]:
        """Return the input."""
        return [self._input]

    def get_outputs(self) -> Sequence[Port]:
        """Return the output."""
        return self._outputs

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Run once."""
        image = self._torch.from_numpy(np.ascontiguousarray(inputs[self._input.name]))
        arrays = [scores.numpy().copy() for scores in self._method.execute([image])]
        return chosen(outputs, self._outputs, arrays)


@contextmanager
def _library_talk_off() -> Iterator[None]:
    """Ignore what torch and ExecuTorch have to say about themselves."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        yield


def _require() -> None:
    if find_spec("torch") is None:
        raise MissingExtraError("torch", extra="train")
    if find_spec("executorch") is None:
        raise MissingExtraError("executorch", extra="executorch")


def _lowerable(module: Any) -> Any:
    """Put what the exporter knows in place of maximum pooling to one number; changes the module."""
    from torch import nn

    class Largest(nn.Module):
        """The largest value of each channel `[N, C, height, width]`, as `[N, C, 1, 1]`."""

        def forward(self, x: Any) -> Any:
            """Compute it."""
            return x.amax((2, 3), keepdim=True)

    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.AdaptiveMaxPool2d) and child.output_size in (1, (1, 1)):
                setattr(part, name, Largest())
    return module
