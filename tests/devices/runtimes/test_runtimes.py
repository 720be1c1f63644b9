"""Runtimes compute what the graph says, each in its way, and say what they lack."""

import builtins
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from brickyard.core.errors import DeviceError, MissingExtraError
from brickyard.devices.runtimes import RUNTIMES, openvino, runtime_behind, runtime_named
from brickyard.devices.runtimes.base import random_inputs
from brickyard.devices.runtimes.ort_int8 import quantized

torch = pytest.importorskip("torch")

FP32 = [
    pytest.param("openvino", marks=pytest.mark.skipif(find_spec("openvino") is None, reason="an extra")),
    "torch",
]


@pytest.fixture(scope="module", params=["residual_cnn_pico", "mobile_cnn_pico"])
def blueprint(request):
    from brickyard.export.whole import export_blueprint
    from brickyard.networks import build

    torch.manual_seed(0)
    return export_blueprint(build(request.param).eval(), samples=1)


def models(blueprint):
    """The largest, a random and the smallest subnet, and a block alone."""
    import random

    space = blueprint.space
    for config in (space.largest(), space.sample(random.Random(0)), space.smallest()):
        yield blueprint.cut(config).SerializeToString()
    yield blueprint.region_model(blueprint.blocks[0], 1).SerializeToString()


def scores(name, content):
    session = RUNTIMES[name].open(content, threads=1)
    inputs = random_inputs(session)
    assert [list(entry.shape) for entry in session.get_inputs()] == [list(a.shape) for a in inputs.values()]
    first, again = (np.array(session.run(None, inputs)[0]) for _ in range(2))
    assert np.array_equal(first, again)
    return first


@pytest.mark.parametrize("name", FP32)
def test_scores_are_those_of_onnx_runtime(blueprint, name):
    for content in models(blueprint):
        expected = scores("ort", content)
        assert np.abs(scores(name, content) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_outputs_stay_when_the_model_runs_again(blueprint):
    content = blueprint.cut(blueprint.space.largest()).SerializeToString()
    for name, runtime in RUNTIMES.items():
        if runtime.extra and find_spec(runtime.library) is None:
            continue
        session = runtime.open(content, threads=1)
        first = session.run(None, random_inputs(session, seed=1))[0]
        kept = np.array(first)
        session.run(None, random_inputs(session, seed=2))
        assert np.array_equal(first, kept), name


def test_quantised_models_are_near_and_smaller(blueprint):
    content = blueprint.cut(blueprint.space.largest()).SerializeToString()
    made = RUNTIMES["ort-int8"].prepared(content)
    expected = scores("ort", content)
    assert np.abs(scores("ort-int8", made) - expected).max() <= 0.1 * np.abs(expected).max()
    model = onnx.load_model_from_string(made)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [node for node in model.graph.node if node.op_type == "Conv"]
    makers = {node.output[0]: node for node in model.graph.node}
    for node in weights:
        dequantize = makers[node.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        assert values[dequantize.input[0]].dtype == np.int8
        assert len(values[dequantize.input[1]]) == len(values[dequantize.input[0]]), "a scale per channel"
    assert {node.op_type for node in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}


def test_quantising_leaves_the_model_alone_and_repeats(blueprint, rng):
    model = blueprint.cut(blueprint.space.largest())
    before = model.SerializeToString(deterministic=True)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    inputs = rng.standard_normal((3, *shape[1:])).astype(np.float32)
    assert quantized(model, inputs) == quantized(model, inputs)
    assert model.SerializeToString(deterministic=True) == before
    assert quantized(model, 2 * inputs) != quantized(model, inputs), "ranges come from the inputs"


def test_quantising_loads_no_torch():
    script = (
        "import sys\n"
        "import numpy as np\n"
        "from onnx import TensorProto, helper\n"
        "from brickyard.devices.runtimes.ort_int8 import quantized\n"
        "ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ('image', 'scores')]\n"
        "node = helper.make_node('Relu', ['image'], ['scores'])\n"
        "graph = helper.make_graph([node], 'g', ends[:1], ends[1:])\n"
        "model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)\n"
        "quantized(model, np.ones((1, 2), np.float32))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def graph_of(*nodes, **initializers):
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 6, 6]) for name in ("image", "scores")
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in initializers.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("node", "initializers"),
    [
        (helper.make_node("Clip", ["image", "low", "high"], ["scores"]), {"low": -0.5, "high": 0.5}),
        (helper.make_node("Pad", ["image", "pads"], ["scores"]), {"pads": [0, 0, 1, 2, 0, 0, 3, 4]}),
        (helper.make_node("Mul", ["image", "factor"], ["scores"]), {"factor": [[[2.0]], [[3.0]]]}),
        (helper.make_node("Sigmoid", ["image"], ["scores"]), {}),
        (
            helper.make_node("MaxPool", ["image"], ["scores"], kernel_shape=[2, 2], strides=[2, 2]),
            {},
        ),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_torch_knows_the_nodes_of_own_networks(node, initializers):
    arrays = {
        name: np.array(value, dtype=np.int64 if name == "pads" else np.float32)
        for name, value in initializers.items()
    }
    content = graph_of(node, **arrays)
    assert np.allclose(scores("torch", content), scores("ort", content), atol=1e-6)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Erf", ["image"], ["scores"]), "has no layer for 'Erf', a node of this network"),
        (
            helper.make_node("MaxPool", ["image"], ["scores"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
            "pads both sides alike, and a node 'MaxPool'",
        ),
        (helper.make_node("HardSigmoid", ["image"], ["scores"], alpha=0.2), "slope 1/6 only"),
    ],
)
def test_torch_refuses_what_it_would_compute_otherwise(node, message):
    with pytest.raises(DeviceError, match=message):
        RUNTIMES["torch"].open(graph_of(node), threads=1)


def test_torch_runs_the_twin_where_there_is_one():
    content = graph_of(helper.make_node("Relu", ["image"], ["scores"]))
    session = RUNTIMES["torch"].open(content, threads=1, twin=torch.nn.Tanh)
    inputs = random_inputs(session)
    assert np.allclose(session.run(None, inputs)[0], np.tanh(inputs["image"]), atol=1e-6)


def test_names_and_records():
    assert list(RUNTIMES) == ["ort", "ort-int8", "openvino", "torch"]
    for name, runtime in RUNTIMES.items():
        assert runtime_named(name) is runtime
        assert runtime_behind(f"{runtime.library} 0.1", runtime.precision) is runtime
    assert runtime_behind("unknown", "fp32") is None
    assert runtime_behind("openvino 1", "int8") is None
    with pytest.raises(DeviceError, match="runtime 'tpu' is unknown; known: ort, ort-int8, openvino, torch"):
        runtime_named("tpu")


def test_threads_are_checked():
    content = graph_of(helper.make_node("Relu", ["image"], ["scores"]))
    for name, runtime in RUNTIMES.items():
        if not runtime.extra or find_spec(runtime.library):
            with pytest.raises(DeviceError, match="threads = 0 is not allowed; allowed: 1 or more"):
                RUNTIMES[name].open(content, threads=0)


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_a_missing_library_is_told_with_what_installs_it(monkeypatch, name):
    real = builtins.__import__

    def absent(wanted, *arguments, **named):
        if wanted == name:
            raise ImportError
        return real(wanted, *arguments, **named)

    openvino.core.cache_clear()
    monkeypatch.setattr(builtins, "__import__", absent)
    extra = RUNTIMES[name].extra
    with pytest.raises(
        MissingExtraError, match=rf"{name} is not installed.*pip install 'brickyard\[{extra}\]'"
    ):
        RUNTIMES[name].open(graph_of(helper.make_node("Relu", ["image"], ["scores"])), threads=1)


def test_versions_of_libraries_that_are_not_there(monkeypatch):
    monkeypatch.setattr(type(RUNTIMES["openvino"]), "library", "no-such-library")
    with pytest.raises(MissingExtraError, match=r"pip install 'brickyard\[openvino\]'"):
        RUNTIMES["openvino"].version()
