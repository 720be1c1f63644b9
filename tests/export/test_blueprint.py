"""Blueprints: what is cut out of the exported whole network is what torch extracts."""

import copy
import dataclasses
import inspect
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from brickyard.bricks import Alternatives, ElasticBatchNorm2d, ElasticConv2d, ElasticLinear, fold_norms_
from brickyard.core.brick import Width
from brickyard.core.config import Config
from brickyard.core.decision import Choice, Option, Subset
from brickyard.core.errors import ArtifactError, ConfigError, ExportError
from brickyard.core.network import Network
from brickyard.core.norm_sets import NormSets
from brickyard.core.space import block_subsets
from brickyard.export.blueprint import Blueprint
from brickyard.export.whole import export_blueprint, export_plain
from brickyard.networks import NETWORKS, build
from brickyard.testing.checks import prepared, sampled_configs

PICO = [
    name
    for name in NETWORKS
    if name.endswith("pico") and "head_kind" in inspect.signature(NETWORKS[name]).parameters
]
CASES = [
    *((name, kind) for name in PICO for kind in ("presence", "classes")),
    ("residual_cnn_small", "presence"),
    *((name, "norm sets") for name in PICO if block_subsets(build(name).space)),
]


@dataclasses.dataclass
class Case:
    network: Network
    blueprint: Blueprint
    configs: list[Config]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    name, kind = request.param
    if kind == "norm sets":
        network = with_norm_sets(prepared(build(name, head_kind="classes")))
    else:
        network = prepared(build(name, head_kind=kind))
    return Case(network, export_blueprint(network), sampled_configs(network.space, samples=10))


def with_norm_sets(network: Network) -> Network:
    """Give a network three norm sets that differ; the first is that of everything on alone."""
    blocks = block_subsets(network.space)
    part = 0.9 / sum(block.count for block in blocks)
    shares = {block.name: (part,) * block.count for block in blocks}
    network.add_norm_sets(NormSets((1.0, 0.6), shares, 0.1))
    for norm in network.modules():
        if isinstance(norm, ElasticBatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.data += 0.5 * torch.rand_like(tensor)
    return network


@pytest.fixture(scope="module")
def small() -> Blueprint:
    return export_blueprint(prepared(build("mobile_cnn_pico")))


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    return joined(outputs(model, **inputs))


def outputs(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(None, inputs)
    return found


def joined(outputs: list[np.ndarray]) -> np.ndarray:
    """The one output, or all of several in a row."""
    return outputs[0] if len(outputs) == 1 else np.concatenate([output.ravel() for output in outputs])


def computed(network: Network, config: Config, image: torch.Tensor) -> np.ndarray:
    given = network.extract(config)(image)
    return joined([tensor.numpy() for tensor in ((given,) if isinstance(given, torch.Tensor) else given)])


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def close(actual: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(actual - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max()))


@torch.no_grad()
def test_cut_equals_torch(case: Case):
    image = torch.randn(1, *case.network.input_shape)
    for config in case.configs:
        model = case.blueprint.cut(config)
        onnx.checker.check_model(model, full_check=True)
        actual, expected = run(model, image=image.numpy()), computed(case.network, config, image)
        assert actual.shape == expected.shape
        assert close(actual, expected), config
    assert case.blueprint.parity_error <= 1e-5


def test_initializers_are_the_state_dict_of_the_folded_twin(case: Case):
    folded = copy.deepcopy(case.network)
    fold_norms_(folded.root)
    sets = case.network.norm_sets
    for config in case.configs:
        cut = weights(case.blueprint.cut(config))
        plain = (folded if sets is None else case.network).extract(config)
        fold_norms_(plain, case.network.norm_pairs)
        twin = plain.state_dict()
        assert set(cut) == set(twin)
        same = np.array_equal if sets is None else close
        assert all(same(cut[name], tensor.numpy()) for name, tensor in twin.items()), config


def test_gates_compute_what_cutting_does(case: Case):
    if not case.blueprint.blocks:
        pytest.skip("a supernet of choices alone has nothing to gate")
    image = np.random.randn(1, *case.network.input_shape).astype(np.float32)
    choices = [decision.name for decision in case.blueprint.space if isinstance(decision, Choice)]
    for config in case.configs:
        space, blocks = case.blueprint.space, case.blueprint.blocks
        gates = np.concatenate([space[name].encode(config[name]) for name in blocks])
        sets = case.network.norm_sets
        reference = case.blueprint.gated(
            {name: config[name] for name in choices}, norm_set=0 if sets is None else sets.of(config)
        )
        onnx.checker.check_model(reference, full_check=True)
        parts = outputs(reference, image=image, gates=gates.astype(np.float32))
        if "classes" in config:  # cuts the first output alone
            parts[0] = parts[0][:, list(config["classes"])]
        expected = joined(parts)
        assert close(run(case.blueprint.cut(config), image=image), expected), config


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        info.name: tuple(size.dim_value for size in info.type.tensor_type.shape.dim)
        for info in [*graph.input, *graph.value_info, *graph.output]
    }


def slow_macs(model: onnx.ModelProto) -> int:
    """Sum over the nodes of the cut graph: outputs times the inputs that each is summed over."""
    sizes, total = shapes(model), 0
    for node in model.graph.node:
        if node.op_type in {"Conv", "Gemm"}:
            weight = weights(model)[node.input[1]]
            total += int(np.prod(sizes[node.output[0]])) * int(np.prod(weight.shape[1:]))
    return total


def slow_peak(model: onnx.ModelProto) -> int:
    """Walk over the cut graph; a tensor is freed behind its last reader, elementwise nodes work in place."""
    sizes, peak = shapes(model), 0
    computing = {"Conv", "Gemm", "GlobalAveragePool", "MaxPool"}
    held = weights(model)
    alive = {model.graph.input[0].name}
    nodes = list(model.graph.node)
    for number, node in enumerate(nodes):
        later = {name for other in nodes[number + 1 :] for name in other.input} | {model.graph.output[0].name}
        alive |= set(node.output)
        dead = [name for name in node.input if name in alive and name not in later]
        same = [name for name in dead if np.prod(sizes[name]) == np.prod(sizes[node.output[0]])]
        if node.op_type not in computing and same:
            alive.remove(same[0])
        peak = max(peak, sum(int(np.prod(sizes[name])) for name in alive))
        alive = {name for name in alive if name in later}
    return 4 * (peak + sum(array.size for array in held.values()))


def test_counts_equal_those_of_the_cut_graph(case: Case):
    for config in case.configs:
        model, counts = case.blueprint.cut(config), case.blueprint.count(config)
        size = len(model.SerializeToString())
        assert counts.parameters == sum(array.size for array in weights(model).values()), config
        assert counts.macs == slow_macs(model), config
        assert counts.peak_memory_bytes == slow_peak(model), config
        assert case.blueprint.file_bytes(config) == size
        assert size <= counts.file_bytes <= size + 8 * len(model.graph.initializer), config


def test_macs_per_group_add_up(case: Case):
    space, blueprint = case.blueprint.space, case.blueprint
    whole = blueprint.count(space.largest()).macs
    for block in (space[name] for name in blueprint.blocks):
        costs = blueprint.macs_per_group(block.name)
        assert costs.shape == (block.count,)
        kept = block.largest()[1:]
        assert whole - blueprint.count(space.largest().replace({block.name: kept})).macs == costs[0]


def test_saving_and_loading_keeps_everything(case: Case, tmp_path):
    case.blueprint.save(tmp_path)
    loaded = Blueprint.load(tmp_path)
    assert loaded.sha256 == case.blueprint.sha256
    assert loaded.parity_error == case.blueprint.parity_error
    for config in case.configs:
        assert loaded.cut(config) == case.blueprint.cut(config)
        assert loaded.count(config) == case.blueprint.count(config)


def test_hash_tells_structures_apart_not_weights():
    first, second = (export_blueprint(build("residual_cnn_pico"), samples=0) for _ in range(2))
    other = export_blueprint(build("residual_cnn_pico", num_outputs=5), samples=0)
    assert not np.array_equal(
        weights(first.graph)["stem.conv.weight"], weights(second.graph)["stem.conv.weight"]
    )
    assert first.sha256 == second.sha256 != other.sha256


def test_region_is_a_model_of_its_own(small: Blueprint):
    kernel = small.kernel_of("stage1.block1")
    assert kernel.name == "stage1.block1.kernel"
    assert small.depth_of("stage1.block1") == ("stage1.depth", 1)
    assert small.depth_of("stage1.block0") is small.depth_of("head.words") is None
    assert small.kernel_of("head.words") is None
    for size in kernel.values:
        model = small.region_model("stage1.block1", 2, {kernel.name: size})
        onnx.checker.check_model(model, full_check=True)
        (image,) = model.graph.input
        shape = tuple(size.dim_value for size in image.type.tensor_type.shape.dim)
        assert run(model, **{image.name: np.zeros(shape, np.float32)}).shape == shape
        depthwise = next(array for name, array in weights(model).items() if name.endswith("depthwise.weight"))
        assert depthwise.shape == (8, 1, size, size)
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("GlobalAveragePool") == 1
        assert "Add" not in kinds


def test_bad_requests_are_refused(small: Blueprint):
    with pytest.raises(ConfigError, match="is not allowed; allowed: one of"):
        small.cut(small.space.largest().replace({"stage0.block0.kernel": 4}))
    with pytest.raises(ConfigError, match=r"count = 9 for 'stage0.block0' is not allowed; allowed: 1 to 4"):
        small.region_model("stage0.block0", 9)
    with pytest.raises(ConfigError, match=r"'stage0.depth' is no block; known"):
        small.region_model("stage0.depth", 1)
    with pytest.raises(ConfigError, match=r"'stage0.depth' is not a subset of this network; known"):
        small.macs_per_group("stage0.depth")
    with pytest.raises(ConfigError, match=r"'stage0.block0' is decided by gates"):
        small.gated({"stage0.block0": (0,)})


def test_damaged_folders_are_refused(small: Blueprint, tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        Blueprint.load(tmp_path)
    small.save(tmp_path)
    record = json.loads((tmp_path / "blueprint.json").read_text())
    for change, message in (
        ({"format_version": 99}, "has format version 99; this brickyard reads 1"),
        ({"more": 1}, "has entries .*; expected"),
        ({"stages": [{"decision": "d"}]}, "is malformed"),
    ):
        (tmp_path / "blueprint.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(ArtifactError, match=message):
            Blueprint.load(tmp_path)
    small.save(tmp_path)
    (tmp_path / "whole.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="is no ONNX file"):
        Blueprint.load(tmp_path)
    (tmp_path / "whole.onnx").unlink()
    with pytest.raises(ArtifactError, match="the folder is incomplete"):
        Blueprint.load(tmp_path)


def test_prefix_widths_and_linear_layers_are_cut():
    """A width that is a choice cuts prefixes of one layer's outputs and the next one's inputs."""
    hidden, subset = Choice("hidden", (2, 4, 6)), Subset("units", 3)
    inner = Width(subset, 6, unit=2)
    root = nn.Sequential(
        ElasticConv2d(1, 6, 3, bias=True, width_out=Width(hidden, 6)),
        nn.ReLU(),
        ElasticConv2d(6, 4, 1, bias=True, width_in=Width(hidden, 6)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Sequential(ElasticLinear(4, 6, width_out=inner), nn.ReLU(), ElasticLinear(6, 2, width_in=inner)),
    )
    network = Network(root, input_shape=(1, 5, 5)).eval()
    blueprint = export_blueprint(network)
    image = torch.randn(1, 1, 5, 5)
    for config in ({"hidden": 2, "units": (1,)}, {"hidden": 4, "units": (0, 2)}, {"hidden": 6, "units": ()}):
        cut = blueprint.cut(config)
        assert set(weights(cut)) == set(network.extract(config).state_dict())
        assert close(run(cut, image=image.numpy()), network.extract(config)(image).detach().numpy())
        assert blueprint.count(config).macs == slow_macs(cut)
        assert blueprint.count(config).parameters == sum(array.size for array in weights(cut).values())


def test_alternatives_are_refused():
    option = Option("kind", ("a", "b"))
    root = nn.Sequential(
        Alternatives({"a": nn.Conv2d(1, 1, 1), "b": nn.Conv2d(1, 1, 3, padding=1)}, option=option)
    )
    with pytest.raises(ExportError, match="'kind' chooses between alternative modules"):
        export_blueprint(Network(root, input_shape=(1, 4, 4)))


def test_plain_export_keeps_names_even_of_equal_tensors(tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    for layer in (module[0], module[3]):
        nn.init.zeros_(layer.bias)
    model = export_plain(module, (1, 4, 4), tmp_path / "plain.onnx")
    assert set(weights(model)) == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert [node.name for node in model.graph.node] == ["0", "2", "3"]
    assert onnx.load(tmp_path / "plain.onnx") == model
    image = torch.randn(1, 1, 4, 4)
    assert close(run(model, image=image.numpy()), module.eval()(image).detach().numpy())


def test_plain_export_refuses_what_the_graph_would_rename():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.Conv2d(1, 1, 1), nn.Linear(1, 1)

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(ExportError, match=r"lost or renamed tensors \['unused.bias', 'unused.weight'\]"):
        export_plain(Loose(), (1, 4, 4))


def test_a_wrong_cut_is_noticed(monkeypatch):
    """The check against torch fails loudly when the records of cuts do not fit the network."""
    network = prepared(build("residual_cnn_pico"))
    truth = Network.cuts

    def wrong(self):
        cuts = truth(self)
        name = "stages.1.0.body.conv1.weight"
        cuts[name] = (dataclasses.replace(cuts[name][0], kind="prefix"),)
        return cuts

    monkeypatch.setattr(Network, "cuts", wrong)
    with pytest.raises((ExportError, TypeError)):
        export_blueprint(network)


def test_subnets_of_different_size_use_their_own_norm_set(tmp_path):
    network = with_norm_sets(prepared(build("residual_cnn_pico")))
    blueprint = export_blueprint(network)
    space, sets = network.space, network.norm_sets
    assert sets is not None
    whole, least = space.largest(), space.smallest()
    block = block_subsets(space)[0]
    below = whole.replace({block.name: tuple(range(1, block.count))})
    assert [sets.of(config) for config in (whole, below, least)] == [0, 1, 2]
    blueprint.save(tmp_path)
    loaded = Blueprint.load(tmp_path)
    assert loaded.norm_sets == sets
    for config in (whole, below, least):
        assert loaded.cut(config) == blueprint.cut(config)
        others = [blueprint.cutter.cut(config, norm_set=number) for number in range(3)]
        assert [model == blueprint.cut(config) for model in others] == [
            number == sets.of(config) for number in range(3)
        ]
    (tmp_path / "norms.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"norms\.safetensors does not exist"):
        Blueprint.load(tmp_path)


def test_norm_sets_behind_no_convolution_are_refused():
    root = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 9, 1)), ElasticBatchNorm2d(4))
    network = Network(root, input_shape=(4, 3, 3)).eval()
    network.add_norm_sets(NormSets((0.5,), {}, 1.0))
    with pytest.raises(ExportError, match="2 follows no convolution that it alone reads"):
        export_blueprint(network)


def test_networks_that_read_tokens_are_refused():
    with pytest.raises(ExportError, match=r"reads token ids, .* export it with torch\.onnx\.export"):
        export_blueprint(build("text_encoder_pico"))
