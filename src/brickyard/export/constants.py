"""Computes what a graph computes from constants alone once, so that shapes can be inferred behind it.

The exporter writes the padding of a layer, for example, as a chain of a dozen nodes. Weights are no constants
here: they are cut later.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def fold_constants_(model: onnx.ModelProto) -> None:
    """Replace nodes that read neither the input nor a weight by their results, in place.

    Args:
        model: The model; initializers stay.
    """
    graph = model.graph
    varying = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    fixed: list[onnx.NodeProto] = []
    rest: list[onnx.NodeProto] = []
    for node in graph.node:
        if any(name in varying for name in node.input):
            varying.update(node.output)
            rest.append(node)
        else:
            fixed.append(node)
    read = {name for node in rest for name in node.input} | {info.name for info in graph.output}
    wanted = [name for node in fixed for name in node.output if name in read]
    computed = {
        name for node in fixed if node.op_type != "Constant" for name in node.output if name in wanted
    }
    if not computed:
        return
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(fixed)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    values = dict(zip(wanted, ReferenceEvaluator(part).run(None, {}), strict=True))
    makers = {name: node for node in fixed for name in node.output}
    nodes = []
    for name in wanted:
        kept = onnx.NodeProto()
        if name in computed:
            value = numpy_helper.from_array(values[name])
            kept.CopyFrom(helper.make_node("Constant", [], [name], name=makers[name].name, value=value))
        else:
            kept.CopyFrom(makers[name])
        nodes.append(kept)
    nodes += [onnx.NodeProto.FromString(node.SerializeToString()) for node in rest]
    del graph.node[:]
    graph.node.extend(nodes)
