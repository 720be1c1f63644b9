"""How much memory a model really takes in ONNX Runtime, seen from outside: in a fresh process of its own.

The process imports numpy and onnxruntime alone, opens and runs a tiny model, and gives freed memory back;
what is resident then is the baseline. Then it opens the file and runs it ten times; the peak of its resident
set less the baseline is what the model takes: weights, the copies that the runtime makes of them while it
loads and packs, its arena, activations, workspace. Not in it: the code of Python, numpy and the runtime.

With addresses drawn anew for each process the allocator keeps or returns a freed block by chance, and the
peak of one file moved by up to 9 % between processes. So addresses are fixed where the system allows it;
peaks of one file are equal then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from brickyard.core.errors import DeviceError

_CHILD = Path(__file__).with_name("memory_run.py")
_SECONDS = 120.0


def measure_memory(content: bytes, *, threads: int) -> int:
    """Measure the peak of memory that a model takes in ONNX Runtime while it loads and runs.

    Args:
        content: The model, serialized, of static shapes.
        threads: Threads of the runtime.

    Returns:
        Bytes.

    Raises:
        DeviceError: This system does not tell the peak of a process, or the process failed.
    """
    if not sys.platform.startswith("linux"):
        raise DeviceError(
            f"memory is measured by what Linux tells of a process, and this is {sys.platform}; leave the "
            "limit on memory out, or make the model on Linux"
        )
    with tempfile.TemporaryDirectory(prefix="brickyard-") as folder:
        model, tiny = Path(folder) / "model.onnx", Path(folder) / "tiny.onnx"
        model.write_bytes(content)
        tiny.write_bytes(_tiny())
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(_CHILD), str(model), str(tiny), str(threads)],
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"the process that measures memory was not done after {_SECONDS:g} s; repeat it when the "
                "machine is idle, or leave the limit out"
            ) from None
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise DeviceError(f"the process that measures memory failed ({told[-1]}); leave the limit out")
    return int(json.loads(done.stdout)["peak_bytes"])


@cache
def _tiny() -> bytes:
    """Return a model that has next to no weights, but runs what models of pictures run."""
    pixels = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 2])
    weights = {"kernel": np.ones((4, 3, 3, 3), np.float32), "matrix": np.ones((4, 2), np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["flow"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["flow"], ["positive"]),
        helper.make_node("Add", ["flow", "positive"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix"], ["scores"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", [pixels], [scores], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
