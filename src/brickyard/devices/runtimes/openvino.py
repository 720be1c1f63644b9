"""OpenVINO on the processor, tuned for the latency of single pictures, 32-bit numbers.

By itself OpenVINO computes with 16-bit bfloat on processors that have it; here it is told not to. It is also
told not to pin its threads to cores, since others may work there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from brickyard.core.errors import MissingExtraError
from brickyard.devices.runtimes.base import Port, Runtime, Session, check_threads, chosen

_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}


class OpenVino(Runtime):
    """OpenVINO, 32-bit numbers."""

    name, library, short, extra = "openvino", "openvino", "openvino", "openvino"

    def open(self, content: bytes, *, threads: int, twin: Callable[[], Any] | None = None) -> Session:
        """Open an ONNX model; see `Runtime.open`."""
        return compiled(core().read_model(content), threads=threads)


@cache
def core() -> Any:
    """Return the library's core object; one is enough for a process.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", extra="openvino") from None
    return openvino.Core()


def compiled(model: Any, *, threads: int) -> Session:
    """Compile a model that the core has read.

    Args:
        model: The model.
        threads: Threads that one run may use.

    Returns:
        The session.

    Raises:
        DeviceError: `threads` is below 1.
    """
    check_threads(threads)
    return _Session(core().compile_model(model, "CPU", {**_SETTINGS, "INFERENCE_NUM_THREADS": threads}))


class _Session:
    def __init__(self, model: Any) -> None:
        self._request = model.create_infer_request()
        self._inputs = [Port(entry.get_any_name(), entry.shape) for entry in model.inputs]
        self._outputs = [Port(entry.get_any_name()) for entry in model.outputs]

    def get_inputs(self) -> Sequence[Port]:
        """Return the inputs."""
        return self._inputs

    def get_outputs(self) -> Sequence[Port]:
        """Return the outputs."""
        return self._outputs

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Run once."""
        arrays = list(self._request.infer(inputs, share_inputs=True).values())
        return chosen(outputs, self._outputs, arrays)
