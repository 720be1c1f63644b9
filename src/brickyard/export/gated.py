"""The whole network as a graph with gates: a second reading of a config, to check cut graphs against.

Nothing is sliced here: an input `gates` of zeros and ones multiplies the activations that a closed brick
would have given, where a weight reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from brickyard.core.cut import Cut
from brickyard.core.decision import Subset


def gated_graph(
    model: onnx.ModelProto, *, cuts: Mapping[str, Sequence[Cut]], blocks: Sequence[Subset]
) -> onnx.ModelProto:
    """Add gates to a model.

    Args:
        model: A model that keeps all bricks of the blocks.
        cuts: How its initializers can be cut.
        blocks: The subsets that get gates, in the order of the input.

    Returns:
        A model with a second input `gates`, float32 `[bricks of all blocks]`.
    """
    gated = onnx.ModelProto()
    gated.CopyFrom(model)
    graph = gated.graph
    del graph.node[:]
    starts = dict(
        zip((block.name for block in blocks), np.cumsum([0, *(b.count for b in blocks)]), strict=False)
    )
    total = sum(block.count for block in blocks)
    graph.input.append(helper.make_tensor_value_info("gates", onnx.TensorProto.FLOAT, [total]))
    made: dict[tuple[str, str], str] = {}
    for node in model.graph.node:
        columns = [
            cut
            for name in node.input
            for cut in cuts.get(name, ())
            if cut.axis == 1 and cut.decision in starts
        ]
        graph.node.append(node)
        if not columns:
            continue
        cut, source = columns[0], node.input[0]
        key = (source, cut.decision)
        if key not in made:
            made[key] = f"{source}.gated"
            last = graph.node.pop()
            _append_gate(graph, source, cut, start=int(starts[cut.decision]), spatial=node.op_type == "Conv")
            graph.node.append(last)
        graph.node[-1].input[0] = made[key]
    return gated


def _append_gate(graph: onnx.GraphProto, source: str, cut: Cut, *, start: int, spatial: bool) -> None:
    name = f"{source}.gate"
    indices = start + np.arange(cut.full) // cut.unit
    shape = np.array([1, cut.full, 1, 1] if spatial else [1, cut.full])
    graph.initializer.append(numpy_helper.from_array(indices.astype(np.int64), f"{name}.indices"))
    graph.initializer.append(numpy_helper.from_array(shape.astype(np.int64), f"{name}.shape"))
    graph.node.append(helper.make_node("Gather", ["gates", f"{name}.indices"], [f"{name}.channels"]))
    graph.node.append(helper.make_node("Reshape", [f"{name}.channels", f"{name}.shape"], [name]))
    graph.node.append(helper.make_node("Mul", [source, name], [f"{source}.gated"]))
