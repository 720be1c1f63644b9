"""Residual blocks: any subset of inner groups is legal, none leaves shortcut plus constant."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brickyard.bricks import residual_block
from brickyard.core.decision import Subset
from brickyard.core.network import Network
from brickyard.core.plain import Constant
from brickyard.testing import check_network, prepared


def block(in_channels: int = 4, out_channels: int = 4, stride: int = 1) -> Network:
    groups = Subset("groups", 3)
    root = residual_block(in_channels, out_channels, groups=groups, group_channels=2, stride=stride)
    return prepared(Network(root, input_shape=(in_channels, 8, 8)))


@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (6, 1), (6, 2)])
def test_keeps_the_contract(out_channels: int, stride: int):
    check_network(block(4, out_channels, stride), samples=4)


@torch.no_grad()
def test_a_subset_equals_the_sum_of_its_groups():
    net = block()
    body, x = net.root.body, torch.randn(2, 4, 8, 8)  # type: ignore[union-attr]
    inner = body.act1(body.norm1(body.conv1(x)))
    rows = [0, 1, 4, 5]
    expected = F.conv2d(inner[:, rows], body.conv2.weight[:, rows], padding=1)
    norm = body.norm2
    expected = F.batch_norm(
        expected, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    with net.configured({"groups": (0, 2)}):
        assert torch.allclose(net(x), (x + expected).relu(), atol=1e-5)


@torch.no_grad()
def test_an_empty_block_is_shortcut_plus_constant():
    net, x = block(4, 6, 2), torch.randn(2, 4, 8, 8)
    plain = net.extract({"groups": ()})
    assert isinstance(plain.body, Constant)
    norm = net.root.body.norm2  # type: ignore[union-attr]
    constant = norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(plain.body.value.flatten(), constant, atol=1e-6)
    expected = (net.root.shortcut(x) + constant.reshape(1, -1, 1, 1)).relu()  # type: ignore[operator, union-attr]
    assert torch.allclose(plain(x), expected, atol=1e-6)
    assert {type(module) for module in plain.shortcut} == {nn.Conv2d, nn.BatchNorm2d}


def test_gradients_reach_the_gates():
    net = block()
    gates = torch.ones(2, 3, requires_grad=True)
    with net.gated({"groups": gates}):
        net(torch.randn(2, 4, 8, 8)).sum().backward()
    assert gates.grad is not None
    assert gates.grad.abs().min() > 0
