"""Dense CNNs become modular: equal with everything on, cut exactly, and what cannot be split is named."""

import builtins

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brickyard.core.errors import MissingExtraError, ModularizeError
from brickyard.devices.measure import run_times
from brickyard.devices.runtimes.base import random_inputs
from brickyard.devices.runtimes.ort import ORT
from brickyard.export.whole import export_blueprint
from brickyard.modularize import modularize_cnn
from brickyard.testing import check_network

SHAPE = (3, 16, 16)


class Block(nn.Module):
    """A residual block as user code writes it: attributes, functions between them, no sequences."""

    def __init__(self, channels: int, inner: int, *, groups: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module, channels: int = 8, classes: int = 5):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(blocks)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def trained(net: nn.Module) -> nn.Module:
    """Give weights and normalisation statistics that are not those of a fresh network."""
    torch.manual_seed(3)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, *SHAPE) + 0.5)
    return net.eval()


@pytest.fixture
def net():
    return trained(Net(Block(8, 12), Block(8, 10)))


def test_groups_inside_blocks_become_bricks_and_weights_stay(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = modularize_cnn(net, input_shape=SHAPE)
    assert [(part.decision, part.groups, part.group_channels) for part in made.split] == [
        ("blocks.0.conv1", 3, 4),
        ("blocks.1.conv1", 5, 2),  # 10 channels: 2 is the largest divisor up to 4
    ]
    assert set(made.split[0].layers) >= {"blocks.0.conv1", "blocks.0.bn1", "blocks.0.conv2"}
    picture = torch.randn(4, *SHAPE)
    with torch.no_grad():
        assert torch.allclose(made.network(picture), net(picture), atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    kept = made.network.root.state_dict()
    for name, value in before.items():  # those of other places in the same block, but no other numbers
        if name in kept:
            assert torch.equal(value.flatten().sort().values, kept[name].flatten().sort().values)
    assert set(before) - set(kept) == {
        f"blocks.{block}.{norm}.num_batches_tracked" for block in (0, 1) for norm in ("bn1", "bn2")
    }


def test_important_channels_come_first(net):
    with torch.no_grad():
        weak = torch.tensor([0, 3, 4, 7, 8, 11])
        net.blocks[0].bn1.weight[weak] *= 0.01
        net.blocks[1].conv2.weight[:, [1, 2, 9]] *= 0.001
    made = modularize_cnn(net, input_shape=SHAPE, group_channels=2)
    blocks = made.network.root.blocks
    assert blocks[0].bn1.weight.abs()[:6].min() > blocks[0].bn1.weight.abs()[6:].max()
    columns = blocks[1].conv2.weight.flatten(2).norm(dim=2).norm(dim=0)
    assert columns[:7].min() > columns[7:].max()
    half = made.network.space.largest().replace({"blocks.0.conv1": (0, 1, 2)})
    last = made.network.space.largest().replace({"blocks.0.conv1": (3, 4, 5)})
    picture = torch.randn(16, *SHAPE)
    with torch.no_grad():
        whole, first, rest = (
            made.network.extract(config)(picture) for config in (made.network.space.largest(), half, last)
        )
    assert (whole - first).norm() < 0.2 * (whole - rest).norm()


def test_the_residual_stream_stays_whole_with_its_reason(net):
    made = modularize_cnn(net, input_shape=SHAPE)
    [stream] = made.whole
    assert set(stream.layers) == {"stem", "blocks.0.conv2", "blocks.1.conv2"}
    assert stream.channels == 8
    assert "3 layers make the same channels" in stream.reason


def test_the_whole_contract_is_kept(net):
    check_network(modularize_cnn(net, input_shape=SHAPE).network, samples=4)


def test_normalisation_outside_of_sequences_is_folded(net):
    made = modularize_cnn(net, input_shape=SHAPE)
    assert set(made.network.norm_pairs) == {
        (f"blocks.{block}.conv{place}", f"blocks.{block}.bn{place}") for block in (0, 1) for place in (1, 2)
    }
    blueprint = export_blueprint(made.network)
    assert not any(node.op_type == "BatchNormalization" for node in blueprint.graph.graph.node)
    assert blueprint.parity_error < 1e-5


def test_groups_that_join_the_residual_stream_stay_whole(net):
    made = modularize_cnn(trained(Net(Block(8, 12), Block(8, 8, groups=2))), input_shape=SHAPE)
    assert [part.decision for part in made.split] == ["blocks.0.conv1"]
    assert ("blocks.1.conv1",) in [part.layers for part in made.whole]
    assert any("blocks.1.conv2 has 2 groups, which join" in part.reason for part in made.whole)
    check_network(made.network, samples=2)


class Bottleneck(nn.Module):
    """A block of RegNet: a grouped convolution between two pointwise ones, with squeeze-and-excitation."""

    def __init__(self, channels: int, inner: int, *, groups: int, squeezed: bool):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, 2 * inner, 3, padding=1, groups=groups, bias=False)
        self.squeeze = nn.Conv2d(2 * inner, 4, 1) if squeezed else None
        self.excite = nn.Conv2d(4, 2 * inner, 1) if squeezed else None
        self.conv3 = nn.Conv2d(2 * inner, channels, 1)

    def forward(self, x):
        inside = F.relu(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.squeeze is not None:
            scale = self.excite(F.relu(self.squeeze(inside.mean((2, 3), keepdim=True))))
            inside = inside * scale.sigmoid()
        return x + self.conv3(inside)


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize(("group_channels", "bricks"), [(2, 6), (4, 3), (6, 2), (100, 1)])
def test_grouped_convolutions_are_cut_by_whole_groups(squeezed, group_channels, bricks):
    block = Bottleneck(8, 12, groups=6, squeezed=squeezed)
    made = modularize_cnn(trained(Net(block)), input_shape=SHAPE, group_channels=group_channels)
    first = made.split[0]
    assert (first.decision, first.groups, first.group_channels) == ("blocks.0.conv1", bricks, 12 // bricks)
    readers = {"blocks.0.conv1", "blocks.0.bn1", "blocks.0.conv2", "blocks.0.conv3"}
    assert set(first.layers) >= readers | ({"blocks.0.squeeze", "blocks.0.excite"} if squeezed else set())
    check_network(made.network, samples=3)
    plain = made.network.extract(made.network.space.smallest())
    assert plain.get_submodule("blocks.0.conv2").groups == 6 // bricks
    blueprint = export_blueprint(made.network, samples=4)
    assert blueprint.parity_error < 1e-5
    assert_blocks_run(blueprint)


def assert_blocks_run(blueprint):
    """Every block alone, as a device profile times it, is a model with the bricks' weights that runs."""
    for block in blueprint.blocks:
        model = blueprint.region_model(block, 1)
        session = ORT.open(model.SerializeToString(), threads=1)
        assert run_times(session, random_inputs(session), 1)
        cut = {name for name, cuts in blueprint.cuts.items() if block in {cut.decision for cut in cuts}}
        assert cut <= {tensor.name for tensor in model.graph.initializer}


class Downsample(Block):
    """A block of a CIFAR ResNet whose shortcut skips pixels and pads channels, by functions alone."""

    def __init__(self):
        super().__init__(8, 12)
        self.conv1.stride = (2, 2)
        self.conv2, self.bn2 = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x):
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def test_shortcuts_without_parameters():
    net = Net(Block(8, 12), Downsample(), Block(16, 12))
    net.fc = nn.Linear(16, 5)
    made = modularize_cnn(trained(net), input_shape=SHAPE)
    assert [part.decision for part in made.split] == [f"blocks.{block}.conv1" for block in range(3)]
    check_network(made.network, samples=3)
    assert_blocks_run(export_blueprint(made.network))


def test_what_works_across_channels_stays_whole():
    class Normed(Block):
        def __init__(self):
            super().__init__(8, 12)
            self.bn1 = nn.GroupNorm(3, 12)

    made = modularize_cnn(trained(Net(Block(8, 12), Normed())), input_shape=SHAPE)
    assert [part.decision for part in made.split] == ["blocks.0.conv1"]
    assert any("blocks.1.bn1 (GroupNorm)" in part.reason for part in made.whole)


def test_a_function_across_channels_is_found_by_computing():
    class Softmaxed(Block):
        def forward(self, x):
            return F.relu(x + self.bn2(self.conv2(self.bn1(self.conv1(x)).softmax(1))))

    with pytest.raises(ModularizeError, match=r"'blocks\.0\.conv1' compute something else when they are cut"):
        modularize_cnn(trained(Net(Softmaxed(8, 12))), input_shape=SHAPE)


def test_nothing_to_split_is_refused_with_the_reasons():
    with pytest.raises(ModularizeError, match=r"nothing .* can be split .*stem.*residual stream"):
        modularize_cnn(trained(Net(Block(8, 8, groups=2), Block(8, 8, groups=4))), input_shape=SHAPE)


def test_outputs_that_are_no_tensor_are_refused():
    class Record(Net):
        def forward(self, x):
            return {"scores": super().forward(x)}

    with pytest.raises(ModularizeError, match="gives a dict; wrap it"):
        modularize_cnn(Record(Block(8, 12)), input_shape=SHAPE)


def test_pictures_that_do_not_fit_are_refused(net):
    with pytest.raises(ModularizeError, match=r"does not run on an input of shape \[1, 1, 16, 16\]"):
        modularize_cnn(net, input_shape=(1, 16, 16))


def test_group_channels_out_of_range_are_refused(net):
    with pytest.raises(ModularizeError, match="group_channels = 0 is not allowed"):
        modularize_cnn(net, input_shape=SHAPE, group_channels=0)


def test_without_the_library_the_command_to_install_it_is_named(net, monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **named):
        if name == "torch_pruning":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'brickyard\[modularize\]'"):
        modularize_cnn(net, input_shape=SHAPE)


def test_the_original_on_another_mode_is_left_in_it(net):
    modularize_cnn(net.train(), input_shape=SHAPE)
    assert net.training


FAMILIES = {
    "ResNetConfig": {"hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "basic", "embedding_size": 16},
    "MobileNetV2Config": {"depth_multiplier": 0.35, "min_depth": 8, "image_size": 32},
    "ConvNextConfig": {"hidden_sizes": [16, 32], "depths": [1, 2], "num_stages": 2, "image_size": 32},
    "RegNetConfig": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_classifiers_of_transformers_are_split_and_cut(family):
    transformers = pytest.importorskip("transformers")
    from brickyard.modularize.source import Scores

    torch.manual_seed(0)
    config = getattr(transformers, family)(**FAMILIES[family], num_labels=4)
    module = Scores(transformers.AutoModelForImageClassification.from_config(config)).eval()
    made = modularize_cnn(module, input_shape=(3, 32, 32))
    assert made.error <= 1e-5
    largest, smallest = made.network.space.largest(), made.network.space.smallest()
    blueprint = export_blueprint(made.network, samples=2)
    assert 0 < blueprint.count(smallest).macs < blueprint.count(largest).macs
    assert_blocks_run(blueprint)
    if (
        family != "MobileNetV2Config"
    ):  # 26 decisions: the export has checked it, the whole contract takes long
        check_network(made.network, samples=2)
