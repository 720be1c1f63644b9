"""ONNX Runtime with 8-bit integers: models are quantised statically.

The graph keeps its nodes; pairs of QuantizeLinear and DequantizeLinear around them say what is an integer.
Weights are signed, with a scale for each output channel; activations are unsigned, with the range that
calibration inputs reach. On processors of the x86 family that lack VNNI instructions such products can
saturate; the accuracy check of a made model shows whether it matters.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from brickyard.devices.runtimes.base import random_inputs
from brickyard.devices.runtimes.ort import ORT, OnnxRuntime

Floats = npt.NDArray[np.float32]


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime, 8-bit integers."""

    name = "ort-int8"

    def __init__(self) -> None:
        super().__init__("int8")

    def prepared(self, content: bytes) -> bytes:
        """Quantise a model on one random input, which is enough for its time."""
        inputs = random_inputs(ORT.open(content, threads=1))
        return quantized(onnx.load_model_from_string(content), *inputs.values())


ORT_INT8 = OnnxRuntimeInt8()


def quantized(model: onnx.ModelProto, inputs: Floats) -> bytes:
    """Quantise a model to 8-bit integers.

    Args:
        model: A float32 model with one input; left as it is.
        inputs: Calibration inputs `[N, ...]`, which the ranges of activations are taken from (least and
            largest value).

    Returns:
        The quantised model, serialized; its input and output stay float32.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the library writes into what it is given
    with tempfile.TemporaryDirectory() as name, _quiet():
        before, after = Path(name) / "before.onnx", Path(name) / "after.onnx"
        quant_pre_process(copy, before, skip_symbolic_shape=True)
        quantize_static(
            onnx.load(before),
            after,
            _Reader(model.graph.input[0].name, inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        content = onnx.load(after)
    content.producer_name, content.producer_version = model.producer_name, model.producer_version
    return bytes(content.SerializeToString(deterministic=True))


class _Reader:
    """Hands out calibration inputs one by one, and None behind the last, as the library wants them."""

    def __init__(self, name: str, inputs: Floats) -> None:
        self._left = iter([{name: inputs[place : place + 1]} for place in range(len(inputs))])

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next input."""
        return next(self._left, None)

    def __iter__(self) -> Iterator[dict[str, Floats]]:
        return self._left

    def __next__(self) -> dict[str, Floats]:
        return next(self._left)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's advice on preprocessing, which is followed here, out of the user's terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
