"""ONNX Runtime on the processor, nodes one after the other. This file also runs inside a kit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import onnxruntime

from brickyard.devices.runtimes.base import Runtime, Session, check_threads


class OnnxRuntime(Runtime):
    """ONNX Runtime.

    Args:
        precision: Numbers that the models which it opens compute with; it opens all alike.
    """

    name, library, short = "ort", "onnxruntime", "ort"

    def __init__(self, precision: Literal["fp32", "int8"] = "fp32") -> None:
        self.precision = precision

    def version(self) -> str:
        """Return the version of the library."""
        return str(onnxruntime.__version__)

    def open(self, content: bytes, *, threads: int, twin: Callable[[], Any] | None = None) -> Session:
        """Open a model; see `Runtime.open`."""
        check_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # Workers would spin for tens of milliseconds after a run, and disturb what is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session: Session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return session


ORT = OnnxRuntime()
