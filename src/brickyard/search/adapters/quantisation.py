"""Bits of each layer of an ONNX model, run by ONNX Runtime on the processor.

A layer is a `Conv`, `ConvTranspose`, `MatMul`, or `Gemm` without factors and transposed input, whose weights
no other node reads. It has 32, 8 or 4 bits:

- 8: static quantisation. Pairs of QuantizeLinear and DequantizeLinear stand around the layer; weights are
  signed with a scale for each output channel, activations unsigned with the range that calibration inputs
  reach. What lies between layers (activations, pooling, sums) is in 8 bits where every layer that leads to it
  is.
- 4: weights alone, signed; the products are in 32 bits. In a `MatMul` each output channel has a scale for
  every 32 inputs; the runtime makes one node of it (MatMulNBits). A `Gemm` becomes a `MatMul`. In a
  convolution each output channel has one scale; the runtime restores the weights in every run, so the file is
  smaller and the layer slower.

Ranges are calibrated once, not for each config.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.errors import ConfigError
from brickyard.core.files import write_bytes
from brickyard.core.space import Space
from brickyard.search.adapters.base import numbers_of

Array = npt.NDArray[Any]

_CONVOLUTIONS = {"Conv": 0, "ConvTranspose": 1}  # axis of output channels in the weights
_KINDS = (*_CONVOLUTIONS, "Gemm", "MatMul")
_BITS = (4, 8, 32)
_BLOCK = 32  # inputs that share a scale of 4-bit weights
_OPSET, _IR_VERSION = 21, 10  # the first with 4-bit integers
_BURSTS = 4


class QuantisedModel:
    """A float32 ONNX model as a super-network whose subnets differ in the bits of layers.

    Args:
        model: The model; its batch size must be free or 1. Left as it is.
        calibration: Inputs by name, each `[N, ...]`; their N rows, one by one, give the ranges of
            activations, and are what the latency is measured with.
        evaluate: Measures a session of ONNX Runtime: gives numbers by name, such as an accuracy.
        bits: What each layer may have, of 4, 8 and 32.
        threads: Threads of a session.
        runs: Runs of one burst of the latency; the latency is the median of the quietest of four bursts.

    Raises:
        ConfigError: There is no layer that can be quantised, bits are not of 4, 8 and 32, or the calibration
            does not fit the inputs.

    Example:
        >>> network = QuantisedModel(onnx.load(path), calibration={"x": images}, evaluate=accuracy)
        >>> result = run(network, objectives=["accuracy", "latency_ms"], limits={"file_bytes": 1e6})
        >>> network.save(result.front[0].config, Path("quantised.onnx"))
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        calibration: Mapping[str, Array],
        evaluate: Callable[[onnxruntime.InferenceSession], Mapping[str, float]],
        bits: Sequence[int] = _BITS,
        threads: int = 1,
        runs: int = 20,
    ) -> None:
        if not set(bits) <= set(_BITS) or threads < 1 or runs < 1:
            raise ConfigError(
                f"bits = {list(bits)}, threads = {threads}, runs = {runs}; bits are of {list(_BITS)}, the "
                "others at least 1",
                path="bits",
                value=bits,
                allowed=list(_BITS),
            )
        self._inputs = _rows(model, calibration)
        self._evaluate, self.threads, self.runs = evaluate, threads, runs
        self.model = _prepared(model, newest=4 in bits)
        self.layers = {_label(node): node.name for node in _layers(self.model)}
        if not self.layers:
            kinds = sorted({node.op_type for node in self.model.graph.node})
            raise ConfigError(
                f"no node can be quantised: no {', '.join(_KINDS)} has weights of its own in the model; its "
                f"nodes are {kinds}",
                path="model",
            )
        self.space = Space(Choice(label, sorted(bits)) for label in self.layers)
        self._between = _between(self.model, set(self.layers.values()))
        self._ranges = _calibrated(self.model, self._inputs) if 8 in bits else None

    def evaluate(self, config: Config) -> dict[str, float]:
        """Quantise, and measure `latency_ms` of one row, `file_bytes`, and what the given function measures.

        Raises:
            ConfigError: The config is not legal.
        """
        content = self.extract(config)
        session = self._open(content)
        own = {"latency_ms": self._latency_ms(session), "file_bytes": float(len(content))}
        return {**own, **numbers_of(self._evaluate(session), "evaluate")}

    def extract(self, config: Config) -> bytes:
        """Return the quantised model, serialized; its inputs and outputs stay what they are.

        Raises:
            ConfigError: The config is not legal.
        """
        checked = self.space.check(config)
        bits = {self.layers[label]: checked[label] for label in self.layers}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        eight = {name for name, count in bits.items() if count == 8}
        if eight:
            eight |= {name for name, before in self._between.items() if before and before <= eight}
            model = _eight_bits(model, self._ranges, eight)
        four = {name for name, count in bits.items() if count == 4}
        if four:
            _four_bits_(model.graph, four)
        return bytes(model.SerializeToString(deterministic=True))

    def save(self, config: Config, path: Path) -> None:
        """Write the quantised model, whole or not at all.

        Args:
            config: A config of the space.
            path: Where the ONNX file shall be; its folder must exist.

        Raises:
            ConfigError: The config is not legal.
        """
        write_bytes(path, self.extract(config))

    def _open(self, content: bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def _latency_ms(self, session: onnxruntime.InferenceSession) -> float:
        for row in self._inputs[:3]:
            session.run(None, row)
        medians = []
        for _ in range(_BURSTS):
            times = []
            for number in range(self.runs):
                started = time.perf_counter_ns()
                session.run(None, self._inputs[number % len(self._inputs)])
                times.append(time.perf_counter_ns() - started)
            medians.append(float(np.median(times)))
        return min(medians) / 1e6


def _rows(model: onnx.ModelProto, calibration: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Return calibration inputs row by row, each with a batch of 1."""
    weights = {tensor.name for tensor in model.graph.initializer}
    wanted = [entry.name for entry in model.graph.input if entry.name not in weights]
    lengths = {len(array) for array in calibration.values()}
    if sorted(wanted) != sorted(calibration) or len(lengths) != 1 or lengths == {0}:
        shapes = {name: list(array.shape) for name, array in calibration.items()}
        raise ConfigError(
            f"calibration has {shapes}; the model takes {wanted}: give one or more rows for each, as "
            "many for one as for another",
            path="calibration",
        )
    return [
        {name: array[place : place + 1] for name, array in calibration.items()}
        for place in range(lengths.pop())
    ]


def _prepared(model: onnx.ModelProto, *, newest: bool) -> onnx.ModelProto:
    """Fold constants and normalisation, infer shapes, name every node; raise the opset if 4 bits need it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    copied = onnx.ModelProto()
    copied.CopyFrom(model)  # the library writes into what it is given
    default = next(entry for entry in copied.opset_import if entry.domain in ("", "ai.onnx"))
    if newest and default.version < _OPSET:
        copied = onnx.version_converter.convert_version(copied, _OPSET)
    if newest:
        copied.ir_version = max(copied.ir_version, _IR_VERSION)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(
            copied, before
        )  # given a model, the library keeps weights apart, and may not find them again
        quant_pre_process(before, after, skip_symbolic_shape=True)
        found = onnx.load(after)
    _rename_new_(found.graph, {tensor.name for tensor in copied.graph.initializer})
    taken = {node.name for node in found.graph.node}
    for place, node in enumerate(found.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{place}"
            assert node.name not in taken
    return found


def _rename_new_(graph: onnx.GraphProto, known: set[str]) -> None:
    """Rename constants that preparation made: the runtime gives others of its own the same names."""
    names = [tensor.name for tensor in graph.initializer if tensor.name not in known]
    renamed = {name: f"{name}_prepared" for name in names}
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = [name for node in model.graph.node for name in node.input]
    return [
        node
        for node in model.graph.node
        if (node.op_type in _KINDS and node.input[1] in weights)
        and weights[node.input[1]].data_type == TensorProto.FLOAT
        and (node.op_type in _CONVOLUTIONS or len(weights[node.input[1]].dims) == 2)
        and (node.op_type != "Gemm" or _is_plain(node, weights))
        and readers.count(node.input[1]) == 1
    ]


def _label(node: onnx.NodeProto) -> str:
    return str(node.name).strip("/")


def _between(model: onnx.ModelProto, layers: set[str]) -> dict[str, set[str]]:
    """Return for each node without weights that can be quantised the layers that lead to it."""
    kinds = set(_kinds()) - set(_KINDS)
    before: dict[str, set[str]] = {}  # of each tensor
    found: dict[str, set[str]] = {}
    for node in model.graph.node:
        leading = set().union(*(before.get(name, set()) for name in node.input))
        if node.op_type in kinds:
            found[node.name] = leading
        before.update(dict.fromkeys(node.output, {node.name} if node.name in layers else leading))
    return found


def _calibrated(model: onnx.ModelProto, rows: Sequence[Mapping[str, Array]]) -> Any:
    """Return the least and largest value of every activation."""
    from onnxruntime.quantization.calibrate import create_calibrator

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(path, _kinds(), str(Path(folder) / "augmented.onnx"))
        calibrator.collect_data(_Reader(rows))
        return calibrator.compute_data()


def _kinds() -> list[str]:
    """Return the kinds of nodes that static quantisation knows."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _eight_bits(model: onnx.ModelProto, ranges: Any, nodes: set[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantiser = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=sorted(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=_kinds(),
        extra_options={},
    )
    with _quiet():
        quantiser.quantize_model()
    found: onnx.ModelProto = quantiser.model.model
    return found


def _four_bits_(graph: onnx.GraphProto, names: set[str]) -> None:
    """Put the weights of layers into 4 bits, in place."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        name, restored = node.input[1], f"{node.input[1]}_restored"
        values = numpy_helper.to_array(weights[name])
        axis = _CONVOLUTIONS.get(node.op_type)
        if axis is None:
            turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
            whole, scales = _rounded_matrix(values.T if turned else values)
            place: dict[str, Any] = {"axis": 0, "block_size": _BLOCK}
            following = _as_matmul(node, restored)
        else:
            whole, scales = _rounded_kernels(values, axis)
            place, following = {"axis": axis}, [_reading(node, restored)]
        tensors = _packed(whole, f"{name}_4bit"), numpy_helper.from_array(scales, f"{name}_scales")
        graph.initializer.remove(weights[name])
        graph.initializer.extend(tensors)
        given = [tensor.name for tensor in tensors]
        nodes.append(
            helper.make_node("DequantizeLinear", given, [restored], f"{node.name}_restored", **place)
        )
        nodes += following
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _is_plain(node: onnx.NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Tell whether a Gemm only multiplies and adds a bias `[outputs]`."""
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    factors = {given.get("alpha", 1.0), given.get("beta", 1.0)}
    biases = [len(weights[name].dims) if name in weights else 0 for name in node.input[2:] if name]
    return factors == {1.0} and not given.get("transA") and biases in ([], [1])


def _as_matmul(node: onnx.NodeProto, weights: str) -> list[onnx.NodeProto]:
    """Return a MatMul, and an Add for a bias, that do what a MatMul or plain Gemm does."""
    bias = [name for name in node.input[2:] if name]
    product = f"{node.output[0]}_product" if bias else node.output[0]
    nodes = [helper.make_node("MatMul", [node.input[0], weights], [product], node.name)]
    if bias:
        nodes.append(helper.make_node("Add", [product, *bias], list(node.output), f"{node.name}_bias"))
    return nodes


def _reading(node: onnx.NodeProto, weights: str) -> onnx.NodeProto:
    """Return a copy of a node that reads other weights."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.input[1] = weights
    return copied


def _rounded_matrix(values: Array) -> tuple[Array, Array]:
    """Round weights `[inputs, outputs]` to -7 to 7 times scales `[inputs / 32, outputs]`."""
    starts = range(0, len(values), _BLOCK)
    scales = np.stack([np.abs(values[start : start + _BLOCK]).max(0) / 7 for start in starts])
    scales[scales == 0] = 1.0
    whole = np.rint(values / np.repeat(scales, _BLOCK, 0)[: len(values)])
    return whole.astype(np.int8), scales.astype(np.float32)


def _rounded_kernels(values: Array, axis: int) -> tuple[Array, Array]:
    """Round weights to -7 to 7 times a scale of each output channel, which `axis` counts."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    scales = np.abs(values).max(others, keepdims=True) / 7
    scales[scales == 0] = 1.0
    return np.rint(values / scales).astype(np.int8), scales.ravel().astype(np.float32)


def _packed(whole: Array, name: str) -> TensorProto:
    """Return integers of -8 to 7 as a tensor with two of them in a byte, the first in the lower half."""
    nibbles = whole.ravel().view(np.uint8) & 0xF
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    pairs = nibbles[::2] | (nibbles[1::2] << 4)
    return helper.make_tensor(name, TensorProto.INT4, whole.shape, pairs.tobytes(), raw=True)


class _Reader:
    """Hands out calibration inputs one by one, and None behind the last, as the library wants them."""

    def __init__(self, rows: Sequence[Mapping[str, Array]]) -> None:
        self._left = iter(rows)

    def get_next(self) -> Mapping[str, Array] | None:
        """Return the next input."""
        return next(self._left, None)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return self._left

    def __next__(self) -> Mapping[str, Array]:
        return next(self._left)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's advice out of the user's terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
