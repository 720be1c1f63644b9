"""Elastic depth: the first blocks stay."""

import pytest
import torch
from torch import nn

from brickyard.bricks import ElasticDepth
from brickyard.core.decision import Choice
from brickyard.core.network import Network


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_first_blocks_stay(depth: int):
    blocks = [nn.Linear(4, 4) for _ in range(3)]
    network = Network(ElasticDepth(blocks, depth=Choice("depth", (0, 1, 2, 3))), input_shape=(4,))
    network.configure({"depth": depth})
    x = torch.randn(2, 4)
    expected = nn.Sequential(*blocks[:depth])(x)
    assert torch.equal(network(x), expected)
    plain = network.extract()
    assert type(plain) is nn.Sequential
    assert len(plain) == depth
    assert torch.equal(plain(x), expected)


def test_blocks_behind_the_depth_are_gone_from_the_file():
    network = Network(
        ElasticDepth([nn.Linear(4, 4) for _ in range(3)], depth=Choice("depth", (1, 3))), input_shape=(4,)
    )
    assert sum(p.numel() for p in network.extract({"depth": 1}).parameters()) == 20


def test_frozen_norms_inside_stay_frozen():
    blocks = [nn.BatchNorm2d(2) for _ in range(2)]
    network = Network(ElasticDepth(blocks, depth=Choice("depth", (1, 2))), input_shape=(2, 3, 3))
    blocks[0].eval()
    assert [module.training for module in network.extract()] == [False, True]  # type: ignore[union-attr]
