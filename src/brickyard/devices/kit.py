"""Kits: a device is measured where brickyard is not installed, with Python, numpy and onnxruntime alone.

A kit is a zip file with the models that a profile times, their plan, and the files of this package that time
and fit. Its models compute as long as the real ones but hold made-up weights: what is trained stays at home.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from brickyard.core.errors import DeviceError
from brickyard.core.files import write_bytes
from brickyard.devices.profile import Cuttable, models_of, plan_of
from brickyard.devices.runtimes.base import Runtime
from brickyard.devices.runtimes.ort import ORT, OnnxRuntime

_PACKAGE = Path(__file__).parents[1]
# The empty files make packages of the folders; nothing else of brickyard is in a kit.
_CODE = (
    "core/errors.py",
    *("devices/fit.py", "devices/measure.py", "devices/pulse.py", "devices/record.py"),
    *("devices/energy.py", "devices/kit_run.py"),
    *("devices/runtimes/base.py", "devices/runtimes/ort.py"),
)
_EMPTY = ("__init__.py", "core/__init__.py", "devices/__init__.py", "devices/runtimes/__init__.py")
_START = """from brickyard.devices.kit_run import main

if __name__ == "__main__":
    main()
"""
_README = """Measures this machine for {name}.

    python measure.py --threads 1 --out device.json

Needs Python 3.10 or newer, numpy and onnxruntime. Nothing else should run meanwhile.
A run that is stopped goes on when it is started again.
{use}
"""
_USE = """With --energy the processor's energy counter is read too, where the machine has one.
Take device.json back: brickyard make {name} --latency-ms X --device device.json"""


def write_kit(network: Cuttable, path: Path, *, seed: int, name: str, runtime: Runtime = ORT) -> int:
    """Write a kit.

    Args:
        network: The exported network.
        path: Zip file to write, whole or not at all.
        seed: Seed of the subnets.
        name: Name of the factory, for the kit's readme.
        runtime: What the models are prepared for; ONNX Runtime, in one of its precisions.

    Returns:
        Number of models in it.

    Raises:
        DeviceError: The runtime is not ONNX Runtime.
    """
    plan = plan_of(network, seed=seed)
    models = (model.SerializeToString() for model in models_of(network, plan))
    return pack_kit(path, plan, models, runtime=runtime, name=name, use=_USE.format(name=name))


def pack_kit(
    path: Path, plan: Mapping[str, Any], models: Iterable[bytes], *, runtime: Runtime, name: str, use: str
) -> int:
    """Write the models of a plan, with made-up weights, and what times them.

    Args:
        path: Zip file to write, whole or not at all.
        plan: What `brickyard.devices.kit_run` reads.
        models: The models in the plan's order, serialized.
        runtime: What the models are prepared for; ONNX Runtime, in one of its precisions.
        name: Name of what is measured, for the kit's readme.
        use: Last lines of the readme: what becomes of the file that the kit writes.

    Returns:
        Number of models in it.

    Raises:
        DeviceError: The runtime is not ONNX Runtime.
    """
    if not isinstance(runtime, OnnxRuntime):
        raise DeviceError(
            f"a kit measures with onnxruntime, not with {runtime.name}; take another runtime, or profile on "
            "the device itself"
        )
    files: dict[str, str] = {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(file: str, content: bytes | str) -> None:
            # A fixed date, so that equal kits are equal byte for byte.
            info = zipfile.ZipInfo(f"kit/{file}", (2020, 1, 1, 0, 0, 0))
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)

        for number, model in enumerate(models):
            hollow = _hollow(onnx.load_model_from_string(model))
            content = runtime.prepared(hollow.SerializeToString(deterministic=True))
            file = f"models/{number:04d}.onnx"
            files[file] = hashlib.sha256(content).hexdigest()
            add(file, content)
        record: dict[str, Any] = {
            "format_version": 1,
            **plan,
            "precision": runtime.precision,
            "models": files,
        }
        add("plan.json", json.dumps(record))
        for file in _CODE:
            add(f"brickyard/{file}", (_PACKAGE / file).read_text(encoding="utf-8"))
        for file in _EMPTY:
            add(f"brickyard/{file}", "")
        add("measure.py", _START)
        add("README.txt", _README.format(name=name, use=use))
    write_bytes(path, buffer.getvalue())
    return len(files)


def _hollow(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put made-up numbers of the same size in place of the weights; they also pack well."""
    hollow = onnx.ModelProto()
    hollow.CopyFrom(model)
    pattern = np.random.default_rng(0).standard_normal(251).astype(np.float32)
    for tensor in hollow.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            scale = np.float32(array.std() or 1.0)
            tensor.CopyFrom(numpy_helper.from_array(np.resize(pattern, array.shape) * scale, tensor.name))
    return hollow
