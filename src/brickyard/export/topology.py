"""The shape of an exported graph: which nodes a decision spans, what each tensor costs. Needs numpy and onnx alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from brickyard.core.cut import Cut
from brickyard.core.errors import ExportError

Array = npt.NDArray[np.float32]
WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True)
class Region:
    """Nodes that vanish together, leaving one tensor that the rest of the graph reads.

    Attributes:
        nodes: Indices of the nodes, in order.
        source: The activation the region reads.
        output: The activation the rest reads.
        tensors: Initializers that only the region reads.
        prefix: Dotted path that the initializers share.
        bias: Initializer that is left of the output when nothing flows in, None for zero.
    """

    nodes: tuple[int, ...]
    source: str
    output: str
    tensors: frozenset[str]
    prefix: str
    bias: str | None


class Topology:
    """A parsed graph.

    Args:
        model: A graph of batch 1 whose initializers bear the names of parameters.
        cuts: How initializers are cut.
    """

    def __init__(self, model: onnx.ModelProto, cuts: Mapping[str, tuple[Cut, ...]]) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.cuts = dict(cuts)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in [*inferred.value_info, *inferred.input, *inferred.output]
        }
        self.producer = {name: index for index, node in enumerate(self.nodes) for name in node.output}
        self.readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(index)

    def weight(self, index: int) -> str | None:
        """Return the weight's name of a convolution or linear node, None for other nodes."""
        node = self.nodes[index]
        return node.input[1] if node.op_type in WEIGHTED and node.input[1] in self.arrays else None

    def positions(self, index: int) -> int:
        """Return how many times each weight of a node is multiplied."""
        shape = self.shapes[self.nodes[index].output[0]]
        return math.prod(shape[2:])

    def _reach(self, start: Iterable[int], *, forward: bool) -> set[int]:
        found, stack = set(start), list(start)
        while stack:
            node = self.nodes[stack.pop()]
            if forward:
                following = [reader for name in node.output for reader in self.readers.get(name, ())]
            else:
                following = [self.producer[name] for name in node.input if name in self.producer]
            stack += [index for index in following if index not in found]
            found.update(following)
        return found

    def region(self, members: Iterable[int]) -> Region:
        """Return the region of all nodes that lie on a path between given nodes.

        Args:
            members: Indices of nodes.

        Returns:
            The region.

        Raises:
            ExportError: It reads or leaves more than one activation.
        """
        chosen = set(members)
        nodes = sorted(self._reach(chosen, forward=True) & self._reach(chosen, forward=False))
        inside = {name for index in nodes for name in self.nodes[index].output}
        sources = {
            name
            for index in nodes
            for name in self.nodes[index].input
            if name and name not in inside and name not in self.arrays
        }
        outputs = {name for name in inside if any(reader not in nodes for reader in self.readers.get(name, ()))}
        if len(sources) != 1 or len(outputs) != 1:
            raise ExportError(
                f"a block reads {sorted(sources)} and leaves {sorted(outputs)}; a block that can vanish must read one "
                "activation and leave one"
            )
        tensors = frozenset(
            name
            for index in nodes
            for name in self.nodes[index].input
            if name in self.arrays and set(self.readers[name]) <= set(nodes)
        )
        named = sorted(name for name in tensors if name in self.cuts)
        prefix = commonprefix(named).rpartition(".")[0]
        last = self.nodes[nodes[-1]]
        bias = last.input[2] if last.op_type == "Conv" and len(last.input) > 2 else None
        return Region(tuple(nodes), sources.pop(), outputs.pop(), tensors, prefix, bias)

    def cut_by(self, decision: str, axis: int) -> list[int]:
        """Return the nodes whose weight is cut by a decision on an axis."""
        return [
            index
            for index in range(len(self.nodes))
            if (name := self.weight(index)) is not None
            and any(cut.decision == decision and cut.axis == axis for cut in self.cuts.get(name, ()))
        ]

    def with_prefix(self, prefix: str) -> list[int]:
        """Return the nodes that read an initializer below a dotted path."""
        return [
            index
            for index, node in enumerate(self.nodes)
            if any(name.startswith(prefix) for name in node.input if name in self.arrays)
        ]

    def channel_cut(self, output: str) -> Cut | None:
        """Return how the channels of an activation are cut: as the rows of the weight that made it."""
        index = self.producer.get(output)
        while index is not None:
            name = self.weight(index)
            if name is not None:
                return next((cut for cut in self.cuts.get(name, ()) if cut.axis == 0), None)
            index = next((self.producer[source] for source in self.nodes[index].input if source in self.producer), None)
        return None
