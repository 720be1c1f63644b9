"""The two families of vision networks: shapes, spaces, sizes."""

import pytest
import torch

from brickyard.core.errors import ConfigError
from brickyard.networks import NETWORKS, build
from brickyard.networks.detection import DETECTORS


def parameters(name: str, **arguments: object) -> int:
    return sum(parameter.numel() for parameter in build(name, **arguments).extract().parameters())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in DETECTORS])
@torch.no_grad()
def test_scores_have_the_shape_of_the_head(name: str):
    network = build(name, head_kind="classes", num_outputs=7).eval()
    x = torch.zeros(2, *network.input_shape)
    assert network(x).shape == (2, 7)
    some = network.space.largest().replace({"classes": (2, 5, 6)})
    assert torch.allclose(network.extract(some)(x), network(x)[:, [2, 5, 6]], atol=1e-5)
    assert build(name, head_kind="presence").eval()(x).shape == (2, 2)


@pytest.mark.parametrize("name", ["residual_cnn_pico", "mobile_cnn_pico"])
def test_pictures_of_other_sizes_and_grey(name: str):
    network = build(name, in_channels=1, image_size=24)
    assert network.input_shape == (1, 24, 24)
    assert network(torch.zeros(2, 1, 24, 24)).shape == (2, 2)
    assert (network.builder, network.arguments) == (name, {"in_channels": 1, "image_size": 24})


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
