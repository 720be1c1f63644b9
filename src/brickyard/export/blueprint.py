"""The exported whole network and how any subnet is cut from it, with numpy and onnx alone.

The cut follows the same records (`Cut`) that the bricks' own slicing follows, so there is one slicing with three users:
forward, extraction, and this. Normalisations are folded before the export, so none is left in the graph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from brickyard.core.cut import Cut
from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import ArtifactError, ExportError
from brickyard.core.files import read_json, write_bytes, write_json
from brickyard.core.space import Space
from brickyard.export.topology import Array, Region, Topology

_FORMAT_VERSION = 1
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Skip:
    """A block that is bypassed when a depth is small.

    Attributes:
        prefix: Dotted path of the block, with a trailing dot.
        decision: Name of the depth.
        index: Place of the block; it is bypassed when the depth is at most this.
    """

    prefix: str
    decision: str
    index: int


@dataclass(frozen=True)
class Counts:
    """What a subnet costs, apart from time.

    Attributes:
        parameters: Numbers stored in the file; exact.
        macs: Multiply-accumulates of convolutions and linear layers for one picture; exact. Biases, activations,
            pooling and additions are not counted.
        file_bytes: Upper bound of the file's size: the whole file's bytes that are not weights, plus the weights. The
            file itself is a little smaller, since fewer nodes are named.
        peak_memory_bytes: Weights plus live activations at the worst moment, float32. The runtime's own workspace and the
            rounding of its arena are not counted, nor does it count on operations in place.
    """

    parameters: int
    macs: int
    file_bytes: int
    peak_memory_bytes: int


@dataclass(frozen=True, eq=False)
class Blueprint:
    """The whole network as one graph.

    Attributes:
        graph: Graph of batch 1; norms folded, everything on, initializers named as parameters.
        space: What can be decided.
        cuts: How each initializer is cut.
        skips: Blocks that depths bypass.
        parity_error: Largest difference to torch over the subnets sampled when it was exported.
    """

    graph: onnx.ModelProto
    space: Space
    cuts: Mapping[str, tuple[Cut, ...]]
    skips: tuple[Skip, ...] = ()
    parity_error: float = 0.0

    def save(self, folder: Path) -> None:
        """Write `whole.onnx` and `blueprint.json`."""
        write_bytes(folder / "whole.onnx", self.graph.SerializeToString())
        write_json(
            folder / "blueprint.json",
            {
                "format_version": _FORMAT_VERSION,
                "sha256": self.sha256,
                "space": self.space.to_json(),
                "cuts": {name: [cut.to_json() for cut in cuts] for name, cuts in self.cuts.items() if cuts},
                "skips": [[skip.prefix, skip.decision, skip.index] for skip in self.skips],
                "parity_error": self.parity_error,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Blueprint:
        """Read what `save` wrote.

        Raises:
            ArtifactError: A file is missing, or of another version, or the graph is not the one described.
        """
        record = read_json(folder / "blueprint.json")
        if record.get("format_version") != _FORMAT_VERSION:
            raise ArtifactError(f"{folder / 'blueprint.json'} has another format version; make the factory again")
        path = folder / "whole.onnx"
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; copy or make the factory again")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise ArtifactError(f"{path} differs from what blueprint.json describes; copy or make the factory again")
        return cls(
            onnx.load_from_string(content),
            Space.from_json(record["space"]),
            {name: tuple(Cut.from_json(cut) for cut in cuts) for name, cuts in record["cuts"].items()},
            tuple(Skip(*skip) for skip in record["skips"]),
            float(record["parity_error"]),
        )

    @cached_property
    def sha256(self) -> str:
        """Hash of the serialized whole graph."""
        return hashlib.sha256(self.graph.SerializeToString()).hexdigest()

    @cached_property
    def _topology(self) -> Topology:
        return Topology(self.graph, self.cuts)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Names of the subsets that span a region: those that cut columns too."""
        return tuple(d.name for d in self.space if isinstance(d, Subset) and self._topology.cut_by(d.name, 1))

    @cached_property
    def _regions(self) -> dict[str, Region]:
        topology = self._topology
        return {
            name: topology.region([*topology.cut_by(name, 0), *topology.cut_by(name, 1)]) for name in self.blocks
        }

    @cached_property
    def _skip_regions(self) -> dict[Skip, Region]:
        return {skip: self._topology.region(self._topology.with_prefix(skip.prefix)) for skip in self.skips}

    def _bypassed(self, config: Mapping[str, Any]) -> list[Region]:
        return [region for skip, region in self._skip_regions.items() if config[skip.decision] <= skip.index]

    def _emptied(self, config: Mapping[str, Any]) -> list[Region]:
        return [region for name, region in self._regions.items() if not config[name]]

    def _slice(self, name: str, config: Mapping[str, Any]) -> Array:
        array = self._topology.arrays[name]
        for cut in self.cuts.get(name, ()):
            value = config[cut.decision]
            if cut.length(value) < cut.full:
                array = np.take(array, cut.indices(value), axis=cut.axis)
        return array

    def cut(self, config: Mapping[str, Any]) -> onnx.ModelProto:
        """Cut a subnet out.

        Args:
            config: One value for each decision.

        Returns:
            A standalone graph whose initializers equal the state dict of the extracted plain network, norms folded.

        Raises:
            ConfigError: The config is not legal.
        """
        checked = self.space.check(config)
        topology = self._topology
        gone: set[int] = set()
        alias: dict[str, str] = {}
        constants: dict[str, Array] = {}
        for region in self._bypassed(checked):
            gone.update(region.nodes)
            (reader,) = topology.readers[region.output]
            add = topology.nodes[reader]
            alias[add.output[0]] = next(name for name in add.input if name != region.output)
            gone.add(reader)
        for region in self._emptied(checked):
            if not gone.issuperset(region.nodes):
                gone.update(region.nodes)
                name = f"{region.prefix}.value"
                channels = topology.shapes[region.output][1]
                bias = None if region.bias is None else topology.arrays[region.bias]
                value = np.zeros(channels, np.float32) if bias is None else bias
                constants[name] = value.reshape(1, -1, *[1] * (len(topology.shapes[region.output]) - 2))
                alias[region.output] = name
        nodes, used = [], dict(constants)
        for index, node in enumerate(topology.nodes):
            if index in gone:
                continue
            renamed = [_follow(alias, name) for name in node.input]
            weight = topology.weight(index)
            for name in node.input:
                if name in topology.arrays and name not in used:
                    used[name] = self._slice(name, checked)
            changed = weight is not None and used[weight].shape != topology.arrays[weight].shape
            if changed or renamed != list(node.input):
                node = _copied(node, renamed, used[weight] if changed and weight is not None else None)
            nodes.append(node)
        return self._model(nodes, used, inputs=list(self.graph.graph.input), config=checked)

    def _model(
        self, nodes: list[onnx.NodeProto], arrays: Mapping[str, Array], *, inputs: list[Any], config: Mapping[str, Any]
    ) -> onnx.ModelProto:
        output = onnx.ValueInfoProto()
        output.CopyFrom(self.graph.graph.output[0])
        if "classes" in config and "classes" in self.space:
            output.type.tensor_type.shape.dim[1].dim_value = len(config["classes"])
        tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
        graph = helper.make_graph(nodes, "subnet", inputs, [output], tensors)
        return self._finished(graph)

    def _finished(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        model = onnx.ModelProto(
            ir_version=self.graph.ir_version, producer_name="brickyard", opset_import=self.graph.opset_import
        )
        model.graph.CopyFrom(graph)
        return model

    @cached_property
    def _tensor_table(self) -> list[tuple[str, int, int, tuple[Cut, ...], int]]:
        """Of each initializer: name, entries, entries that are never cut, cuts, MACs per entry."""
        topology = self._topology
        positions = {
            name: topology.positions(index)
            for index in range(len(topology.nodes))
            if (name := topology.weight(index)) is not None
        }
        table = []
        for name, array in topology.arrays.items():
            if array.dtype == np.float32:
                cuts = self.cuts.get(name, ())
                rest = array.size // math.prod(cut.full for cut in cuts)
                table.append((name, array.size, rest, cuts, positions.get(name, 0)))
        return table

    @cached_property
    def _whole_bytes(self) -> tuple[int, int]:
        """Bytes of the whole file, and of them those that are weights."""
        weights = sum(size for _, size, *_ in self._tensor_table) * _FLOAT_BYTES
        return self.cut(self.space.largest()).ByteSize(), weights

    @cached_property
    def _liveness(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[Cut | None], list[set[str]]]:
        """Of the activations: which live at each node, entries, how channels are cut, regions they lie in."""
        topology = self._topology
        names = [topology.model.graph.input[0].name, *topology.producer]
        last = {name: max(topology.readers.get(name, [len(topology.nodes)])) for name in names}
        first = {name: topology.producer.get(name, -1) for name in names}
        live = np.array([[first[n] <= i <= last[n] for n in names] for i in range(len(topology.nodes))], np.float64)
        sizes = np.array([math.prod(topology.shapes[name]) for name in names], np.float64)
        inside = [
            {
                decision
                for decision, region in self._regions.items()
                if topology.producer.get(name, -1) in region.nodes and name != region.output
            }
            for name in names
        ]
        return live, sizes, [topology.channel_cut(name) for name in names], inside

    def count(self, config: Mapping[str, Any]) -> Counts:
        """Count what a subnet costs, without cutting it.

        Args:
            config: One legal value for each decision.

        Returns:
            The counts.
        """
        absent: set[str] = set()
        constants = 0
        bypassed = self._bypassed(config)
        for region in bypassed:
            absent |= region.tensors
        for region in self._emptied(config):
            if not absent.issuperset(region.tensors):
                absent |= region.tensors
                constants += self._topology.shapes[region.output][1]
        parameters, macs = constants, 0
        lengths: dict[Cut, int] = {}
        for name, size, rest, cuts, positions in self._tensor_table:
            if name in absent:
                continue
            if cuts:
                size = rest
                for cut in cuts:
                    length = lengths.get(cut)
                    if length is None:
                        length = lengths[cut] = cut.length(config[cut.decision])
                    size *= length
            parameters += size
            macs += size * positions
        whole, weights = self._whole_bytes
        live, sizes, cut_of, _ = self._liveness
        shares = np.array(
            [1.0 if cut is None else cut.length(config[cut.decision]) / cut.full for cut in cut_of], np.float64
        )
        peak = parameters + int(round(float((live @ (sizes * shares)).max())))
        return Counts(parameters, macs, whole - weights + parameters * _FLOAT_BYTES, peak * _FLOAT_BYTES)

    def macs_per_group(self, name: str) -> npt.NDArray[np.float64]:
        """Return the MACs that each group of a subset costs in the whole network, `[count]`."""
        decision = self.space[name]
        assert isinstance(decision, Subset)
        largest = self.space.largest()
        fewer = {**largest, name: tuple(range(decision.count - 1))}
        step = self.count(largest).macs - self.count(fewer).macs
        return np.full(decision.count, step, dtype=np.float64)

    def gated(self, choices: Mapping[str, Any] | None = None) -> onnx.ModelProto:
        """Return the whole network with a second input that multiplies activations by gates instead of slicing them.

        It reads the network in another way than `cut`, so comparing the two checks a cut.

        Args:
            choices: Values of the decisions that are no subsets; the largest if None.

        Returns:
            A graph with the inputs image and `gates` `[bricks]`, the subsets but the classes in the order of the space.
        """
        config = self.space.largest().replace(choices or {})
        model = self.cut(config)
        subsets = [d for d in self.space if isinstance(d, Subset) and d.name != "classes"]
        starts = dict(zip([s.name for s in subsets], np.cumsum([0, *(s.count for s in subsets)]), strict=False))
        total = sum(subset.count for subset in subsets)
        nodes: list[onnx.NodeProto] = []
        arrays: dict[str, npt.NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        for node in model.graph.node:
            weight = node.input[1] if node.op_type in ("Conv", "Gemm") else ""
            for cut in self.cuts.get(weight, ()):
                if cut.axis == 1 and cut.decision in starts:
                    rank = len(self._topology.shapes[self._topology.nodes[0].output[0]]) if node.op_type == "Conv" else 2
                    key = f"gate.{cut.decision}.{len(nodes)}"
                    indices = starts[cut.decision] + np.arange(cut.full) // cut.unit
                    arrays[f"{key}.indices"] = indices.astype(np.int64)
                    arrays[f"{key}.shape"] = np.array([1, cut.full, *[1] * (rank - 2)], dtype=np.int64)
                    nodes += [
                        helper.make_node("Gather", ["gates", f"{key}.indices"], [f"{key}.picked"]),
                        helper.make_node("Reshape", [f"{key}.picked", f"{key}.shape"], [f"{key}.shaped"]),
                        helper.make_node("Mul", [node.input[0], f"{key}.shaped"], [f"{key}.product"]),
                    ]
                    node = _copied(node, [f"{key}.product", *node.input[1:]], None)
            nodes.append(node)
        gates = helper.make_tensor_value_info("gates", TensorProto.FLOAT, [total])
        tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        inputs = [*model.graph.input, gates]
        return self._finished(helper.make_graph(nodes, "gated", inputs, list(model.graph.output), tensors))

    def region_model(self, name: str, count: int, choices: Mapping[str, Any] | None = None) -> onnx.ModelProto:
        """Return one block alone, as a graph that can be timed.

        Args:
            name: Subset of the block.
            count: Groups that are on, at least 1.
            choices: Values of other decisions, for example the block's kernel.

        Returns:
            A graph from the block's input to its output, without the shortcut.

        Raises:
            ExportError: The subset spans no block, or `count` is out of range.
        """
        if name not in self._regions:
            raise ExportError(f"{name!r} spans no block; blocks: {', '.join(self.blocks)}")
        decision = self.space[name]
        assert isinstance(decision, Subset)
        if not 1 <= count <= decision.count:
            raise ExportError(f"count = {count} must lie between 1 and {decision.count}")
        config = self.space.largest().replace({**(choices or {}), name: tuple(range(count))})
        model = self.cut(config)
        region, shapes = self._regions[name], self._topology.shapes
        inside = {output for index in region.nodes for output in self._topology.nodes[index].output}
        nodes = [node for node in model.graph.node if node.output[0] in inside]
        read = {entry for node in nodes for entry in node.input}
        tensors = [tensor for tensor in model.graph.initializer if tensor.name in read]
        source, output = (
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shapes[tensor])
            for tensor in (region.source, region.output)
        )
        return self._finished(helper.make_graph(nodes, name, [source], [output], tensors))

    def kernel_of(self, name: str) -> Choice | None:
        """Return the kernel size that is chosen inside a block, None if it is fixed."""
        for tensor in self._regions[name].tensors:
            for cut in self.cuts.get(tensor, ()):
                if cut.kind == "center":
                    decision = self.space[cut.decision]
                    assert isinstance(decision, Choice)
                    return decision
        return None

    def depth_of(self, name: str) -> tuple[str, int] | None:
        """Return the depth that can bypass a block and the block's place, None if none can."""
        for skip in self.skips:
            if any(tensor.startswith(skip.prefix) for tensor in self._regions[name].tensors):
                return skip.decision, skip.index
        return None


def _follow(alias: Mapping[str, str], name: str) -> str:
    while name in alias:
        name = alias[name]
    return name


def _copied(node: onnx.NodeProto, inputs: list[str], weight: Array | None) -> onnx.NodeProto:
    """Copy a node with other inputs and, where the weight is cut, with the attributes that follow from it."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    copied.ClearField("input")
    copied.input.extend(inputs)
    if weight is not None and node.op_type == "Conv":
        for attribute in copied.attribute:
            if attribute.name == "group" and attribute.i > 1:
                attribute.i = weight.shape[0]
            elif attribute.name == "kernel_shape":
                shrunk = [old - new for old, new in zip(attribute.ints, weight.shape[2:], strict=True)]
                attribute.ints[:] = weight.shape[2:]
                for other in copied.attribute:
                    if other.name == "pads":
                        other.ints[:] = [pad - cut // 2 for pad, cut in zip(other.ints, [*shrunk, *shrunk], strict=True)]
    return copied

