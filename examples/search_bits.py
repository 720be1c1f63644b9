"""Searches the bits of each layer of an ONNX model: python search_bits.py [MODEL.onnx INPUTS.npy].

Without arguments the model is a tiny network with random weights. The error here is how far the scores are
from those of the model; measure your task instead. The most exact file below half the size goes to
quantised.onnx.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from brickyard.search import run
from brickyard.search.adapters.quantisation import QuantisedModel


def tiny(rng):
    """Return three layers of 64 units."""
    nodes, name = [], "x"
    for place in range(3):
        nodes.append(helper.make_node("MatMul", [name, f"w{place}"], [f"m{place}"], f"layer{place}"))
        nodes.append(helper.make_node("Relu", [f"m{place}"], [f"r{place}"], f"relu{place}"))
        name = f"r{place}"
    weights = [rng.standard_normal((64, 64)).astype(np.float32) / 8 for _ in range(3)]
    tensors = [numpy_helper.from_array(values, f"w{place}") for place, values in enumerate(weights)]
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, [1, 64]) for port in ("x", name)]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


rng = np.random.default_rng(0)
if len(sys.argv) == 3:
    model, inputs = onnx.load(sys.argv[1]), np.load(sys.argv[2])
else:
    model, inputs = tiny(rng), rng.standard_normal((32, 64)).astype(np.float32)
name = model.graph.input[0].name


def scores(session):
    """Return the first output of every input."""
    return np.concatenate([session.run(None, {name: inputs[i : i + 1]})[0] for i in range(len(inputs))])


truth = scores(onnxruntime.InferenceSession(model.SerializeToString()))


def evaluate(session):
    """Compare with the scores in 32 bits."""
    return {"error": float(np.abs(scores(session) - truth).mean())}


network = QuantisedModel(model, calibration={name: inputs}, evaluate=evaluate)
objectives = ["error", "latency_ms", "file_bytes"]
result = run(network, objectives=objectives, evaluations=min(20, network.space.size))
for point in result.front:
    numbers = point.metrics
    bits = [*point.config.values()]
    print(
        f"error {numbers['error']:.4f}, {numbers['latency_ms']:.4f} ms, {numbers['file_bytes']:.0f} B: {bits}"
    )
largest = network.evaluate(network.space.largest())["file_bytes"]
small = [point for point in result.front if point.metrics["file_bytes"] < largest / 2]
best = min(small, key=lambda point: point.metrics["error"])
network.save(best.config, Path("quantised.onnx"))
print(f"quantised.onnx: {dict(best.config)}")
