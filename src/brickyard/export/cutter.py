"""Cuts a subnet out of the exported whole network: slices initializers and leaves nodes out.

The slicing is that of `brickyard.core.cut`, by which bricks compute and extract, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from brickyard.core.cut import Cut
from brickyard.core.norm_sets import NormSets
from brickyard.export.parts import Activation, Leftover, Stage
from brickyard.export.topology import Topology

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Cutter:
    """A graph with all that cutting it needs, parsed once.

    Attributes:
        model: The whole network.
        cuts: How each initializer is cut.
        leftovers: Branches that can become constants.
        stages: Sequences of which blocks can be left out.
        activations: Tensors, by name.
        norm_sets: Which subnet uses which norm set, None if there is one for all.
        norms: With several sets, what multiplies the rows of a weight, and biases, `[sets, channels out]` by
            initializer.
    """

    model: onnx.ModelProto
    cuts: Mapping[str, tuple[Cut, ...]]
    leftovers: tuple[Leftover, ...]
    stages: tuple[Stage, ...]
    activations: Mapping[str, Activation]
    norm_sets: NormSets | None = None
    norms: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @cached_property
    def weights(self) -> dict[str, Array]:
        """The initializers in the order of the file."""
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    @cached_property
    def topology(self) -> Topology:
        """The wiring."""
        graph = self.model.graph
        outputs = tuple(entry.name for entry in graph.output)
        return Topology(list(graph.node), graph.input[0].name, outputs, self.cuts)

    @cached_property
    def branches(self) -> list[tuple[Leftover, frozenset[int], str]]:
        """Leftovers with their nodes and the tensor that the constant replaces."""
        found = []
        for left in self.leftovers:
            nodes = self.topology.inside(left.prefix)
            found.append((left, frozenset(nodes), self.topology.results(nodes)[0]))
        return found

    @cached_property
    def blocks(self) -> list[tuple[Stage, list[frozenset[int]], list[str]]]:
        """Stages with the nodes and the output of each block."""
        found = []
        for stage in self.stages:
            nodes = [
                frozenset(self.topology.inside(f"{stage.prefix}.{block}")) for block in range(stage.count)
            ]
            found.append((stage, nodes, [self.topology.results(block)[0] for block in nodes]))
        return found

    def slice(self, name: str, config: Mapping[str, Any], norm_set: int = 0) -> Array:
        """Return the part of an initializer that a config keeps; a view where it is contiguous."""
        array = self.weights[name]
        if name in self.norms:
            row = self.norms[name][norm_set]
            array = row if array.ndim == 1 else array * row.reshape(-1, *[1] * (array.ndim - 1))
        for cut in self.cuts.get(name, ()):
            value = config[cut.decision]
            if cut.length(value) == cut.full:
                continue
            indices = cut.indices(value)
            if len(indices) and int(indices[-1]) - int(indices[0]) + 1 == len(indices):
                array = array[(slice(None),) * cut.axis + (slice(int(indices[0]), int(indices[-1]) + 1),)]
            else:
                array = array.take(indices, axis=cut.axis)
        return array

    def plan(self, config: Mapping[str, Any]) -> tuple[set[int], dict[str, str], list[Leftover]]:
        """Find what a config takes away.

        Args:
            config: A legal config.

        Returns:
            Numbers of the nodes that go, what to read instead of tensors that are gone, and the constants
            that come.
        """
        gone: set[int] = set()
        instead: dict[str, str] = {}
        for stage, nodes, outputs in self.blocks:
            depth = config[stage.decision]
            for block in nodes[depth:]:
                gone |= block
            if depth < stage.count:
                instead[outputs[-1]] = outputs[depth - 1]
        constants = []
        for left, branch, tensor in self.branches:
            if not config[left.decision] and not branch & gone:
                gone |= branch
                instead[tensor] = left.name
                constants.append(left)
        return gone, instead, constants

    def cut(
        self,
        config: Mapping[str, Any],
        *,
        only: frozenset[int] | None = None,
        norm_set: int | None = None,
    ) -> onnx.ModelProto:
        """Cut a subnet out.

        Args:
            config: A legal config.
            only: Numbers of the nodes to keep at most; their sources and results become inputs and outputs.
            norm_set: Number of the norm set; that of the config if None.

        Returns:
            A model whose initializers are those that the nodes read.
        """
        gone, instead, constants = self.plan(config)
        if norm_set is None:
            norm_set = 0 if self.norm_sets is None else self.norm_sets.of(config)

        def resolve(name: str) -> str:
            while name in instead:
                name = instead[name]
            return name

        model = onnx.ModelProto()
        model.ir_version, model.producer_name = self.model.ir_version, self.model.producer_name
        model.opset_import.extend(self.model.opset_import)
        graph = model.graph
        graph.name = self.model.graph.name
        used: dict[str, None] = {}
        for number, node in enumerate(self.topology.nodes):
            if number in gone or (only is not None and number not in only):
                continue
            graph.node.append(node)
            copy = graph.node[-1]
            for place, name in enumerate(node.input):
                if name in instead:
                    copy.input[place] = resolve(name)
                if name in self.weights:
                    used[name] = None
            if node.op_type == "Conv":
                self._fix_convolution(copy, config)
        for name in used:
            graph.initializer.append(to_proto(name, self.slice(name, config, norm_set)))
        read = {name for node in graph.node for name in node.input}
        for last in self.topology.outputs if only is None else ():
            if last in instead:
                graph.node.append(helper.make_node("Identity", [resolve(last)], [last], name=last))
                read.add(resolve(last))
        for left in constants:
            if left.name in read:
                graph.initializer.append(to_proto(left.name, left.of(norm_set)))
        if only is None:
            inputs, outputs = [self.model.graph.input[0].name], list(self.topology.outputs)
        else:
            inputs, outputs = self.topology.sources(only), self.topology.results(only)
        graph.input.extend(self._info(name, config) for name in inputs)
        graph.output.extend(self._info(name, config) for name in outputs)
        return model

    def _info(self, name: str, config: Mapping[str, Any]) -> onnx.ValueInfoProto:
        if name in self.activations:
            shape: tuple[int, ...] | None = self.activations[name].cut_shape(config)
        else:  # while the activations themselves are being found
            image = self.model.graph.input[0]
            shape = (
                tuple(size.dim_value for size in image.type.tensor_type.shape.dim)
                if name == image.name
                else None
            )
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    def _fix_convolution(self, node: onnx.NodeProto, config: Mapping[str, Any]) -> None:
        """Set what follows from the cuts of the weight: groups, kernel and pads."""
        full = self.weights[node.input[1]].shape
        for cut in self.cuts.get(node.input[1], ()):
            length = cut.length(config[cut.decision])
            if length == cut.full or cut.axis == 1:
                continue
            for attribute in node.attribute:
                if cut.axis == 0 and attribute.name == "group" and attribute.i > 1:
                    attribute.i = attribute.i * length // cut.full
                elif cut.axis >= 2 and attribute.name == "kernel_shape":
                    attribute.ints[cut.axis - 2] = length
                elif cut.axis >= 2 and attribute.name == "pads":
                    less, spatial = cut.full - length, len(full) - 2
                    attribute.ints[cut.axis - 2] -= less // 2
                    attribute.ints[cut.axis - 2 + spatial] -= less - less // 2


def to_proto(name: str, array: Array) -> onnx.TensorProto:
    """Turn an array into an initializer."""
    tensor = onnx.TensorProto(
        name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype)
    )
    tensor.raw_data = np.ascontiguousarray(array).tobytes()
    return tensor
