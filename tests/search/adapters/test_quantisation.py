"""Bits per layer: every choice runs, agrees with the library's own quantisation, and is as small as said."""

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from brickyard.core.errors import ConfigError
from brickyard.devices.runtimes.ort_int8 import quantized
from brickyard.search import run
from brickyard.search.adapters.quantisation import QuantisedModel

LAYERS = ("conv0", "conv1", "fc0", "fc1")


def tensor(rng, name, *shape):
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / shape[1] ** 0.5, name)


@pytest.fixture
def model(rng) -> onnx.ModelProto:
    """Two convolutions with a shortcut, a Gemm and a MatMul, of opset 17."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", pads=[1] * 4),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "conv1", pads=[1] * 4, group=4),
        helper.make_node("Add", ["r0", "c1"], ["a"], "add"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["g"], "fc0", transB=1),
        helper.make_node("MatMul", ["g", "w3"], ["y"], "fc1"),
    ]
    weights = [tensor(rng, "w0", 8, 3, 3, 3), tensor(rng, "w1", 8, 2, 3, 3), tensor(rng, "w2", 70, 8)]
    weights += [numpy_helper.from_array(np.full(n, 0.5, np.float32), f"b{i}") for i, n in ((0, 8), (2, 70))]
    weights += [tensor(rng, "w3", 70, 5)]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "small", ports, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def images(rng):
    return rng.standard_normal((8, 3, 6, 6)).astype(np.float32)


def scores(content: bytes, images) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": image[None]})[0] for image in images])


@pytest.fixture
def network(model, images) -> QuantisedModel:
    truth = scores(model.SerializeToString(), images)

    def evaluate(session):
        found = np.concatenate([session.run(None, {"x": image[None]})[0] for image in images])
        return {"error": float(np.abs(found - truth).mean())}

    return QuantisedModel(model, calibration={"x": images}, evaluate=evaluate, runs=3)


def test_the_space_is_the_bits_of_each_layer(network):
    assert {decision.name: decision.values for decision in network.space} == dict.fromkeys(LAYERS, (4, 8, 32))


def test_32_bits_everywhere_is_the_model(network, model, images):
    found = scores(network.extract(network.space.largest()), images)
    np.testing.assert_allclose(found, scores(model.SerializeToString(), images), atol=1e-5)


def test_8_bits_everywhere_is_what_the_library_does(network, model, images):
    eight = network.space.check(dict.fromkeys(LAYERS, 8))
    found, other = network.extract(eight), quantized(model, images)
    np.testing.assert_allclose(scores(found, images), scores(other, images), atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("bits", [4, 8])
def test_one_layer_alone_changes_the_scores_a_little(network, images, layer, bits):
    whole = network.extract(network.space.largest())
    content = network.extract(network.space.largest().replace({layer: bits}))
    truth, found = scores(whole, images), scores(content, images)
    error = np.abs(found - truth).max() / np.abs(truth).max()
    assert 1e-5 < error < (0.3 if bits == 4 else 0.05)
    kinds = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    assert kinds.count("QuantizeLinear") == (2 if bits == 8 else 0)


@pytest.mark.parametrize("layer", LAYERS)
def test_4_bits_are_the_nearest_of_15_values(network, layer):
    whole = {w.name: numpy_helper.to_array(w) for w in network.model.graph.initializer}
    node = next(node for node in network.model.graph.node if node.name == layer)
    content = network.extract(network.space.largest().replace({layer: 4}))
    graph = onnx.load_model_from_string(content).graph
    [restore] = [n for n in graph.node if n.op_type == "DequantizeLinear"]
    single = helper.make_graph(
        [restore],
        "restore",
        [],
        [helper.make_tensor_value_info(restore.output[0], TensorProto.FLOAT, None)],
        [tensor for tensor in graph.initializer if tensor.name in restore.input],
    )
    opset = [helper.make_opsetid("", 21)]
    alone = helper.make_model(single, opset_imports=opset, ir_version=10).SerializeToString()
    [found] = onnxruntime.InferenceSession(alone, providers=["CPUExecutionProvider"]).run(None, {})
    weights = whole[node.input[1]]
    weights = weights.T if layer == "fc0" else weights
    groups = np.abs(weights).max((1, 2, 3), keepdims=True) if layer.startswith("conv") else None
    if groups is None:
        groups = np.repeat([np.abs(weights[i : i + 32]).max(0) for i in range(0, len(weights), 32)], 32, 0)[
            : len(weights)
        ]
    assert (np.abs(found - weights) <= groups / 14 + 1e-6).all()
    assert node.input[1] not in {tensor.name for tensor in graph.initializer}


def test_between_layers_bits_follow_the_layers(network):
    def kinds(**bits):
        model = onnx.load_model_from_string(network.extract(network.space.largest().replace(bits)))
        return {tuple(node.input) for node in model.graph.node if node.op_type == "DequantizeLinear"}

    pooled = lambda found: any(names[0].startswith("p_") for names in found)  # noqa: E731
    assert pooled(kinds(conv0=8, conv1=8))
    assert not pooled(kinds(conv1=8))
    assert not pooled(kinds(conv0=8, fc1=8))


def test_any_mixture_runs_and_the_model_given_stays_as_it_is(network, model, images):
    import random

    before, generator = model.SerializeToString(), random.Random(0)
    for _ in range(12):
        content = network.extract(network.space.sample(generator))
        assert np.isfinite(scores(content, images)).all()
    assert model.SerializeToString() == before


def test_evaluation_measures_time_and_size(network, tmp_path):
    config = network.space.largest().replace({"fc0": 4})
    metrics = network.evaluate(config)
    assert set(metrics) == {"latency_ms", "file_bytes", "error"}
    assert 0 < metrics["latency_ms"] < 50
    network.save(config, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size == metrics["file_bytes"]
    assert metrics["file_bytes"] < network.evaluate(network.space.largest())["file_bytes"] - 1000


def test_a_search_finds_small_files(network):
    result = run(network, objectives=["error", "file_bytes"], evaluations=10, sampler="random")
    sizes = [point.metrics["file_bytes"] for point in result.front]
    assert min(sizes) < max(sizes)
    assert result.front[-1].metrics.keys() >= {"latency_ms"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": [2, 8]}, r"bits = \[2, 8\], threads = 1, runs = 20; bits are of \[4, 8, 32\]"),
        ({"runs": 0}, r"runs = 0"),
        ({"calibration": {}}, r"calibration has {}; the model takes \['x'\]"),
        ({"calibration": {"z": np.zeros((1, 3, 6, 6), np.float32)}}, r"'z': \[1, 3, 6, 6\].* takes \['x'\]"),
        ({"calibration": {"x": np.zeros((0, 3, 6, 6), np.float32)}}, r"give one or more rows"),
    ],
)
def test_what_does_not_fit_is_refused(model, images, changes, message):
    arguments = {"calibration": {"x": images}, "evaluate": lambda session: {}, **changes}
    with pytest.raises(ConfigError, match=message):
        QuantisedModel(model, **arguments)


def test_a_model_without_layers_is_refused(images):
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 6, 6]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "none", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ConfigError, match=r"no node can be quantised: no Conv, .*its nodes are \['Relu'\]"):
        QuantisedModel(model, calibration={"x": images}, evaluate=lambda session: {})


@pytest.mark.filterwarnings("ignore")
def test_an_exported_encoder():
    """Its Gelu and sums become nodes whose constants the runtime names alike each time that it fuses."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=20, initializer_range=0.2, **sizes)
    encoder = transformers.BertModel(config, add_pooling_layer=False).eval()
    ids, buffer = torch.randint(0, 20, (4, 7)), io.BytesIO()
    given = {"opset_version": 20, "input_names": ["ids"], "dynamo": False}
    torch.onnx.export(FirstOutput(encoder).eval(), (ids[:1],), buffer, **given)
    model = onnx.load_model_from_string(buffer.getvalue())
    with torch.no_grad():
        truth = encoder(ids)[0].numpy()

    def evaluate(session):
        found = [session.run(None, {"ids": ids[i : i + 1].numpy()})[0] for i in range(4)]
        return {"error": float(np.abs(np.concatenate(found) - truth).mean())}

    network = QuantisedModel(model, calibration={"ids": ids.numpy()}, evaluate=evaluate, runs=1)
    assert len(network.space) == 6
    names = [decision.name for decision in network.space]
    found = [network.evaluate(dict.fromkeys(names, bits))["error"] for bits in (32, 8, 4)]
    assert found[0] < 1e-5 < found[1] < 0.1
    assert found[0] < found[2] < 0.3


class FirstOutput(torch.nn.Module):
    """An encoder whose output is a tensor."""

    def __init__(self, encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids):
        return self.encoder(ids)[0]


def test_only_bits_that_are_asked_for(model, images):
    network = QuantisedModel(
        model, calibration={"x": images}, evaluate=lambda session: {}, bits=[32, 8], runs=1
    )
    assert {decision.values for decision in network.space} == {(8, 32)}
    assert next(entry.version for entry in network.model.opset_import if not entry.domain) == 17
