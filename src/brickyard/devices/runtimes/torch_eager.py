"""Torch in eager mode: the plain torch twin of a model, called as it is.

Where there is no twin, as for a block alone, the graph becomes a module with a layer for each node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper, numpy_helper

from brickyard.core.errors import DeviceError, MissingExtraError
from brickyard.devices.runtimes.base import Port, Runtime, Session, check_threads, chosen

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchEager(Runtime):
    """Torch, 32-bit numbers, no compiler. Its number of threads is one for the whole process."""

    name, library, short, extra = "torch", "torch", "torch", "train"

    def open(self, content: bytes, *, threads: int, twin: Callable[[], Any] | None = None) -> Session:
        """Open a model; see `Runtime.open`. Torch is left with that number of threads."""
        check_threads(threads)
        try:
            import torch
        except ImportError:
            raise MissingExtraError("torch", extra="train") from None
        torch.set_num_threads(threads)
        graph = onnx.load_model_from_string(content).graph
        shape = [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]
        module = module_of(graph) if twin is None else twin()
        outputs = [Port(entry.name) for entry in graph.output]
        return ModuleSession(module, Port(graph.input[0].name, shape), outputs)


class ModuleSession:
    """A torch module as a session.

    Args:
        module: A module of one input, in evaluation mode.
        entry: Name and shape of the input.
        outputs: Names of the outputs, in the module's order.
    """

    def __init__(self, module: nn.Module, entry: Port, outputs: Sequence[Port]) -> None:
        import torch

        self._module, self._entry, self._outputs, self._torch = module, entry, outputs, torch

    def get_inputs(self) -> Sequence[Port]:
        """Return the input."""
        return [self._entry]

    def get_outputs(self) -> Sequence[Port]:
        """Return the outputs."""
        return self._outputs

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Run once."""
        with self._torch.inference_mode():
            found = self._module(self._torch.from_numpy(inputs[self._entry.name]))
        arrays = [array.numpy() for array in (found if isinstance(found, tuple) else (found,))]
        return chosen(outputs, self._outputs, arrays)


def module_of(graph: onnx.GraphProto) -> nn.Module:
    """Build the plain torch module that computes a graph.

    Args:
        graph: A graph of one input, float32, as `Blueprint.cut` makes them.

    Returns:
        The module, in evaluation mode: a layer for each node, called one after the other.

    Raises:
        DeviceError: A node is of a kind that is not known here.
    """
    import torch
    from torch import fx, nn

    layers = _layers()
    values = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    root, calls = nn.Module(), fx.Graph()
    flows: dict[str, Any] = {graph.input[0].name: calls.placeholder("image")}

    def argument(name: str) -> Any:
        if name not in flows:
            place = f"constant{len(flows)}"
            root.register_buffer(place, values[name])
            flows[name] = calls.get_attr(place)
        return flows[name]

    for number, node in enumerate(graph.node):
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "Constant":
            values[node.output[0]] = _tensor(given["value"])
        elif node.op_type in _BETWEEN:
            operation = getattr(torch, _BETWEEN[node.op_type])
            flows[node.output[0]] = calls.call_function(operation, tuple(map(argument, node.input)))
        elif node.op_type in layers:
            constants = [values.get(name) for name in node.input[1:]]
            layer = layers[node.op_type](given, *constants)
            root.add_module(f"layer{number}", layer)
            flows[node.output[0]] = calls.call_module(f"layer{number}", (argument(node.input[0]),))
        else:
            raise DeviceError(
                f"the runtime torch has no layer for {node.op_type!r}, a node of this network; take another "
                "runtime"
            )
    ends = tuple(flows[entry.name] for entry in graph.output)
    calls.output(ends[0] if len(ends) == 1 else ends)
    return fx.GraphModule(root, calls).eval()


_BETWEEN = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}


def _tensor(proto: onnx.TensorProto) -> torch.Tensor:
    import torch

    return torch.from_numpy(numpy_helper.to_array(proto).copy())


def _layers() -> dict[str, Callable[..., nn.Module]]:
    """Return what builds the layer of each kind of node, from its attributes and constant inputs."""
    from torch import nn

    return {
        "Conv": _conv,
        "Gemm": _linear,
        "MaxPool": lambda given: nn.MaxPool2d(
            given["kernel_shape"], given.get("strides", 1), _padding(given, "MaxPool")
        ),
        "GlobalAveragePool": lambda given: nn.AdaptiveAvgPool2d(1),
        "Flatten": lambda given: nn.Flatten(given.get("axis", 1)),
        "Identity": lambda given: nn.Identity(),
        "Relu": lambda given: nn.ReLU(),
        "Sigmoid": lambda given: nn.Sigmoid(),
        "Softplus": lambda given: nn.Softplus(),
        "HardSwish": lambda given: nn.Hardswish(),
        "HardSigmoid": _hard_sigmoid,
        "Clip": lambda given, low, high: nn.Hardtanh(float(low), float(high)),
        "Pad": _pad,
        "Resize": _resize,
    }


def _padding(given: Mapping[str, Any], kind: str) -> tuple[int, int]:
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right) or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise DeviceError(
            f"the runtime torch pads both sides alike, and a node {kind!r} of this network does not; take "
            "another runtime"
        )
    return int(top), int(left)


def _conv(given: Mapping[str, Any], weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    from torch import nn

    groups = given.get("group", 1)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=tuple(given.get("strides", (1, 1))),
        padding=_padding(given, "Conv"),
        dilation=tuple(given.get("dilations", (1, 1))),
        groups=groups,
        bias=bias is not None,
    )
    return _loaded(layer, weight, bias)


def _linear(given: Mapping[str, Any], weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    from torch import nn

    if not given.get("transB", 0):
        weight = weight.T.contiguous()
    return _loaded(nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), weight, bias)


def _loaded(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})
    return layer


def _hard_sigmoid(given: Mapping[str, Any]) -> nn.Module:
    from torch import nn

    if abs(given.get("alpha", 0.2) - 1 / 6) > 1e-6 or given.get("beta", 0.5) != 0.5:
        raise DeviceError("the runtime torch knows hard sigmoids of slope 1/6 only; take another runtime")
    return nn.Hardsigmoid()


def _pad(given: Mapping[str, Any], pads: torch.Tensor, value: torch.Tensor | None = None) -> nn.Module:
    from torch import nn

    sides = [int(side) for side in pads]
    half = len(sides) // 2
    if given.get("mode", b"constant") != b"constant" or any(sides[: half - 2] + sides[half : 2 * half - 2]):
        raise DeviceError("the runtime torch pads pictures with constants only; take another runtime")
    top, left, bottom, right = sides[half - 2], sides[half - 1], sides[-2], sides[-1]
    return nn.ConstantPad2d((left, right, top, bottom), 0.0 if value is None else float(value))


def _resize(
    given: Mapping[str, Any], roi: torch.Tensor | None = None, scales: torch.Tensor | None = None
) -> nn.Module:
    from torch import nn

    way = (given.get("mode"), given.get("coordinate_transformation_mode"), given.get("nearest_mode"))
    if scales is None or way != (b"nearest", b"asymmetric", b"floor"):
        raise DeviceError("the runtime torch resizes by repeating pixels only; take another runtime")
    return nn.Upsample(scale_factor=tuple(float(scale) for scale in scales[2:]))
