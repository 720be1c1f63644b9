"""The families of vision networks: shapes, spaces, sizes."""

import inspect
import random

import pytest
import torch
from torch.nn import functional as F

from brickyard.bricks import extract_calibrated
from brickyard.core.decision import Choice
from brickyard.core.errors import ConfigError
from brickyard.networks import NETWORKS, build
from brickyard.networks.detection import DETECTORS
from brickyard.networks.vision import ofa_resnet

CLASSIFIERS = [
    name
    for name in NETWORKS
    if name not in DETECTORS and "head_kind" in inspect.signature(NETWORKS[name]).parameters
]


def parameters(name: str, **arguments: object) -> int:
    return sum(parameter.numel() for parameter in build(name, **arguments).extract().parameters())


@pytest.mark.parametrize("name", CLASSIFIERS)
@torch.no_grad()
def test_scores_have_the_shape_of_the_head(name: str):
    network = build(name, head_kind="classes", num_outputs=7).eval()
    x = torch.zeros(2, *network.input_shape)
    assert network(x).shape == (2, 7)
    some = network.space.largest().replace({"classes": (2, 5, 6)})
    assert torch.allclose(network.extract(some)(x), network(x)[:, [2, 5, 6]], atol=1e-5)
    assert build(name, head_kind="presence").eval()(x).shape == (2, 2)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name.endswith("pico")])
def test_pictures_of_other_sizes_and_grey(name: str):
    network = build(name, in_channels=1, image_size=28, head_kind="presence")
    assert network.input_shape == (1, 28, 28)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 2)
    arguments = {"in_channels": 1, "image_size": 28, "head_kind": "presence"}
    assert (network.builder, network.arguments) == (name, arguments)


def test_sizes():
    assert parameters("residual_cnn_pico") < 10_000
    assert parameters("mobile_cnn_pico") < 10_000
    # arXiv 1512.03385 gives 0.27 M for ResNet-20; projections in two shortcuts add 2.7 k.
    assert parameters("resnet20") == pytest.approx(0.27e6, rel=0.03)


def test_space_of_the_residual_family():
    space = build("resnet20").space
    assert [d.name for d in space][:-1] == [
        f"stage{stage}.block{block}" for stage in range(3) for block in range(3)
    ]
    assert [d.size for d in space][:-1] == [2**4] * 3 + [2**8] * 3 + [2**16] * 3
    assert space["classes"].size == 2**10 - 1


def test_space_of_the_mobile_family():
    space = build("mobile_cnn_pico", head_kind="classes").space
    assert space["stage0.depth"].largest() == 2
    assert space["stage1.block0.kernel"].to_json()["values"] == [3, 5]
    assert space["stage0.block0"].smallest() == (0,)
    assert space["stage0.block1"].smallest() == ()


def values(name: str) -> dict[str, list[int]]:
    return {d.name: d.to_json()["values"] for d in build(name).space if isinstance(d, Choice)}


def test_space_of_the_mobile_supernet():
    choices = values("ofa_mobile_small")
    assert len(choices) == 3 * (1 + 3 * 2)
    assert choices["stage1.depth"] == [1, 2, 3]
    assert choices["stage2.block2.expand"] == [3, 4, 6]
    assert choices["stage0.block0.kernel"] == [3, 5, 7]
    assert [d.name for d in build("ofa_mobile_small").space if not isinstance(d, Choice)] == ["classes"]


def test_space_of_the_residual_supernet():
    choices = values("ofa_resnet_small")
    assert len(choices) == 3 * (1 + 1 + 3)
    assert choices["stage2.width"] == [32, 48, 64]
    assert choices["stage1.block2.inner"] == [16, 24, 32]


def test_the_largest_residual_supernet_is_resnet20():
    def shapes(name: str) -> list[tuple[int, ...]]:
        return [tuple(tensor.shape) for tensor in build(name).extract().state_dict().values()]

    assert shapes("ofa_resnet_small") == shapes("resnet20")


@torch.no_grad()
def test_a_small_residual_supernet_equals_a_network_of_that_size():
    """What is cut out computes what a network built that small does with the first weights of the large."""
    sizes = {"head_kind": "classes", "num_outputs": 3, "in_channels": 2, "image_size": 8}
    large = ofa_resnet(
        **sizes, widths=(8, 12), depths=(1, 2), expand_ratios=(0.5, 1.0), width_multipliers=(0.5, 1.0)
    )
    small = ofa_resnet(**sizes, widths=(4, 6), depths=(1,), expand_ratios=(1.0,), width_multipliers=(1.0,))
    for name, tensor in small.state_dict().items():
        whole = large.state_dict()[name]
        tensor.copy_(whole[tuple(slice(size) for size in tensor.shape)])
    x = torch.randn(2, 2, 8, 8)
    expected = small.eval()(x)
    config = large.space.smallest().replace({"classes": (0, 1, 2)})
    assert torch.allclose(large.eval().extract(config)(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["ofa_mobile_pico", "ofa_resnet_pico"])
def test_supernets_learn_with_all_sizes(name: str):
    """The class is the brightest quarter of the picture; subnets are trained by drawing one per step."""
    rng = random.Random(0)
    network = build(name, image_size=16)
    space, whole = network.space, {"classes": (0, 1, 2, 3)}

    def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(4, (count,))
        x = torch.rand(count, 3, 16, 16)
        for row, label in enumerate(labels.tolist()):
            top, left = 8 * (label // 2), 8 * (label % 2)
            x[row, label % 3, top : top + 8, left : left + 8] += 1.0
        return x, labels

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        x, labels = pictures(32)
        optimizer.zero_grad()
        for config in (space.largest(), space.smallest(), space.sample(rng)):
            with network.configured(config.replace(whole)):
                F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    x, labels = pictures(200)
    for config in (space.largest(), space.smallest(), space.sample(rng)):
        plain = extract_calibrated(network, [pictures(64)[0] for _ in range(4)], config.replace(whole))
        assert float((plain(x).argmax(1) == labels).float().mean()) > 0.9, config


def test_presence_is_decided_by_the_best_place():
    network = build("residual_cnn_pico", head_kind="presence").eval()
    score = torch.nn.Identity()
    head = network.root.head  # type: ignore[union-attr]
    score_map = torch.full((1, 1, 4, 4), -3.0)
    score_map[0, 0, 1, 2] = 2.0
    tail = torch.nn.Sequential(score, head.pool, head.flatten, head.answer)
    assert tail(score_map).tolist() == [[-1.0, 1.0]]


def test_unknown_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"arguments \['colour'\] do not fit network 'resnet20'"):
        build("resnet20", colour="red")
    with pytest.raises(ConfigError, match=r"'resnet2' is not among the networks; nearest: \['resnet20'"):
        build("resnet2")
