"""What a subnet costs, from tables alone: microseconds per config, no graph is built.

Counted are the multiply-accumulate operations of convolutions and linear layers, one per weight and output
position; nothing for biases, activations, pooling, additions and products of activations. Parameters are all
numbers that the file stores, the constants of empty blocks among them. The peak of memory is weights plus the
largest sum of float32 activations that live at one time when nodes run in the order of the file; elementwise
nodes write over an input that nobody reads any more. Not in it: the workspace of the runtime, copies of
weights that it packs for itself, rounding of its arena, and its code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from brickyard.core.cut import Cut
from brickyard.core.decision import Subset
from brickyard.core.space import Space
from brickyard.export.cutter import Cutter, to_proto
from brickyard.export.topology import Guard, Topology

Integers = npt.NDArray[np.int64]

_FLOAT = 4
_ELEMENTWISE = {
    *(
        "Relu",
        "HardSwish",
        "HardSigmoid",
        "Sigmoid",
        "Tanh",
        "Clip",
        "Gelu",
        "Erf",
        "Identity",
        "Softplus",
        "Flatten",
        "Reshape",
    ),
    *("Add", "Mul", "Sub", "Div"),
}
_MULTIPLIES = {"Conv", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Counts:
    """Costs of one subnet.

    Attributes:
        parameters: Numbers stored in the file, exact.
        macs: Multiply-accumulate operations per picture, exact.
        file_bytes: Size of the file; an upper bound, at most 8 bytes per stored tensor too large.
        peak_memory_bytes: Weights and live activations at the worst moment.
    """

    parameters: int
    macs: int
    file_bytes: int
    peak_memory_bytes: int


class _Sizes:
    """Sizes that are products of decided lengths, many at once."""

    def __init__(
        self, slots: Mapping[str, int], shapes: Sequence[tuple[Sequence[int], Sequence[Cut]]]
    ) -> None:
        self.factor = np.ones(len(shapes), dtype=np.int64)
        width = max((len(cuts) for _, cuts in shapes), default=0) or 1
        self.index = np.full((len(shapes), width), len(slots), dtype=np.int64)
        for row, (shape, cuts) in enumerate(shapes):
            full = int(np.prod(shape, dtype=np.int64))
            for place, cut in enumerate(cuts):
                full = full // cut.full * (cut.unit if cut.kind != "center" else 1)
                self.index[row, place] = slots[cut.decision]
            self.factor[row] = full

    def of(self, counts: Integers) -> Integers:
        """Return all sizes for the counts of a config, to which a 1 is appended."""
        sizes: Integers = self.factor * counts[self.index].prod(1)
        return sizes


class _Guards:
    """Conditions under which things stay, many at once."""

    def __init__(self, slots: Mapping[str, int], guards: Sequence[Sequence[Guard]]) -> None:
        width = max((len(held) for held in guards), default=0) or 1
        self.index = np.full((len(guards), width), len(slots), dtype=np.int64)
        self.least = np.ones((len(guards), width), dtype=np.int64)
        for row, held in enumerate(guards):
            for place, (decision, least) in enumerate(held):
                self.index[row, place], self.least[row, place] = slots[decision], least

    def of(self, counts: Integers) -> npt.NDArray[np.bool_]:
        """Tell what stays."""
        stays = (counts[self.index] >= self.least).all(axis=1)
        return np.asarray(stays, dtype=np.bool_)


class Counter:
    """Counts the costs of subnets of one exported network.

    Args:
        cutter: The parsed network.
        space: Its decisions.
    """

    def __init__(self, cutter: Cutter, space: Space) -> None:
        self._space = space
        self._read = [(decision.name, isinstance(decision, Subset)) for decision in space]
        self._slots = slots = {decision.name: slot for slot, decision in enumerate(space)}
        topology, activations = cutter.topology, cutter.activations
        nodes = topology.nodes

        def guards(name: str) -> list[Guard]:
            return topology.guards(name, cutter.leftovers, cutter.stages)

        names = [name for name in cutter.weights if name in topology.consumers]
        self._weights = _Sizes(
            slots, [(cutter.weights[name].shape, cutter.cuts.get(name, ())) for name in names]
        )
        self._weights_stay = _Guards(
            slots, [guards(nodes[topology.consumers[name][0]].name) for name in names]
        )
        positions = dict.fromkeys(names, 0)
        for node in nodes:
            weight = _weight_of(node, topology)
            if weight in positions:
                shape = activations[node.output[0]].shape
                positions[weight] += int(np.prod(shape[2:] if node.op_type == "Conv" else shape[:-1]))
        self._positions = np.array([positions[name] for name in names], dtype=np.int64)

        left = [(leftover.of(0).shape, ()) for leftover in cutter.leftovers]
        self._constants = _Sizes(slots, left)
        self._constants_stay = _Guards(slots, [guards(leftover.name) for leftover in cutter.leftovers])
        self._constants_empty = np.array(
            [slots[leftover.decision] for leftover in cutter.leftovers], dtype=np.int64
        )

        self._set_activations(cutter, guards)
        self._set_file(cutter, names)

    def _set_activations(self, cutter: Cutter, guards: Any) -> None:
        topology, slots = cutter.topology, self._slots
        nodes = topology.nodes
        self._steps_stay = _Guards(slots, [guards(node.name) for node in nodes])
        stage_ends = {outputs[-1] for _, _, outputs in cutter.blocks}
        names = [cutter.model.graph.input[0].name, *topology.producer]
        held: list[list[Guard]] = []
        for name in names:
            made = guards(nodes[topology.producer[name]].name) if name in topology.producer else []
            staged = {stage.decision for stage in cutter.stages}
            held.append([guard for guard in made if name not in stage_ends or guard[0] not in staged])
        self._flows_stay = _Guards(slots, held)
        self._flows = _Sizes(
            slots, [(cutter.activations[name].shape, cutter.activations[name].cuts) for name in names]
        )
        first = {name: topology.producer.get(name, 0) for name in names}
        last = {name: max(topology.consumers.get(name, [first[name]])) for name in names}
        last.update(dict.fromkeys(topology.outputs, len(nodes) - 1))
        for number, node in enumerate(nodes):
            size = np.prod(cutter.activations[node.output[0]].shape)
            ending = [
                name for name in node.input if last.get(name) == number and name not in topology.outputs
            ]
            fitting = [name for name in ending if np.prod(cutter.activations[name].shape) == size]
            if node.op_type in _ELEMENTWISE and fitting:
                last[fitting[0]] -= 1
        self._live = np.zeros((len(nodes), len(names)), dtype=np.int64)
        for column, name in enumerate(names):
            self._live[first[name] : last[name] + 1, column] = 1

    def _set_file(self, cutter: Cutter, names: Sequence[str]) -> None:
        graph = cutter.model.graph
        whole = cutter.cut(self._space.largest())
        tensors = {tensor.name: tensor for tensor in whole.graph.initializer}
        headers = [_entry(tensors[name].ByteSize() - len(tensors[name].raw_data)) for name in names]
        self._headers = np.array(headers, dtype=np.int64)
        self._node_bytes = np.array([_entry(node.ByteSize()) for node in graph.node], dtype=np.int64)
        raw = sum(len(tensor.raw_data) for tensor in tensors.values())
        self._rest = whole.ByteSize() - raw - int(self._headers.sum()) - int(self._node_bytes.sum())
        readers = cutter.topology.consumers
        for _, _, outputs in cutter.blocks:
            longest = max(len(name.encode()) for name in outputs)
            self._rest += (longest - len(outputs[-1].encode())) * len(readers.get(outputs[-1], ()))
        extra = []
        for leftover, _, tensor in cutter.branches:
            longer = (len(leftover.name.encode()) - len(tensor.encode())) * len(readers.get(tensor, ()))
            identity = 20 + 3 * len(tensor.encode()) + len(leftover.name.encode())
            proto = to_proto(leftover.name, leftover.of(0))
            header = _entry(proto.ByteSize()) - len(proto.raw_data)
            extra.append(header + longer + (identity if tensor in cutter.topology.outputs else 0))
        self._constant_headers = np.array(extra, dtype=np.int64)

    def lengths(self, config: Mapping[str, Any]) -> Integers:
        """Return what a config keeps of each decision, in their order, and a 1 behind."""
        counts = [len(config[name]) if is_subset else config[name] for name, is_subset in self._read]
        return np.array([*counts, 1], dtype=np.int64)

    def count(self, lengths: Integers) -> Counts:
        """Count a subnet.

        Args:
            lengths: What `lengths` returned for its config; which bricks are on does not matter, only how
                many.

        Returns:
            Its costs.
        """
        stay = self._weights_stay.of(lengths)
        sizes = self._weights.of(lengths) * stay
        macs = int(sizes @ self._positions)
        total, file_bytes = int(sizes.sum()), int((stay * self._headers).sum()) + self._rest
        if len(self._constants_empty):
            come = (lengths[self._constants_empty] == 0) & self._constants_stay.of(lengths)
            total += int((self._constants.factor * come).sum())
            file_bytes += int((self._constant_headers * come).sum())
        steps = self._steps_stay.of(lengths)
        file_bytes += int((steps * self._node_bytes).sum()) + _FLOAT * total
        live = self._live @ (self._flows.of(lengths) * self._flows_stay.of(lengths))
        peak = _FLOAT * (total + int((live * steps).max()))
        return Counts(parameters=total, macs=macs, file_bytes=file_bytes, peak_memory_bytes=peak)

    def macs_per_group(self, decision: str) -> npt.NDArray[np.float64]:
        """Return what each brick of a subset adds in MACs while all other decisions are at their largest.

        Args:
            decision: Name of the subset.

        Returns:
            MACs `[count]`, equal for all bricks of the subset.
        """
        subset = self._space[decision]
        assert isinstance(subset, Subset)
        lengths = self.lengths(self._space.largest())
        whole = self.count(lengths).macs
        lengths[self._slots[decision]] -= 1
        return np.full(subset.count, float(whole - self.count(lengths).macs))


def _weight_of(node: onnx.NodeProto, topology: Topology) -> str:
    """Return the initializer that a node multiplies by, which may be transposed on the way; empty if none."""
    if node.op_type not in _MULTIPLIES:
        return ""
    name = str(node.input[1])
    maker = topology.producer.get(name)
    if maker is not None and topology.nodes[maker].op_type == "Transpose":
        name = str(topology.nodes[maker].input[0])
    return name


def _entry(size: int) -> int:
    """Return the bytes that an entry of this size takes in a file: key, length and content."""
    return 1 + _varint(size) + size


def _varint(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def block_names(cuts: Mapping[str, Iterable[Cut]], space: Space) -> tuple[str, ...]:
    """Return the subsets that cut some weight's columns, in the order of the space: the blocks."""
    columns = {cut.decision for held in cuts.values() for cut in held if cut.axis >= 1}
    return tuple(part.name for part in space if isinstance(part, Subset) and part.name in columns)
