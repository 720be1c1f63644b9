"""Inverted residual blocks: expansion and kernel are elastic, squeeze-and-excitation follows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brickyard.bricks import inverted_residual, squeeze_excite
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.network import Network
from brickyard.core.plain import Constant, Residual
from brickyard.testing import check_network, prepared


def block(out_channels: int = 4, stride: int = 1, squeezed: int = 0, minimum: int = 0) -> Network:
    root = inverted_residual(
        4,
        out_channels,
        groups=Subset("groups", 3, minimum=minimum),
        group_channels=2,
        kernel=Choice("kernel", (3, 5)),
        stride=stride,
        squeezed_channels=squeezed,
    )
    return prepared(Network(root, input_shape=(4, 8, 8)))


@pytest.mark.parametrize("squeezed", [0, 3])
def test_keeps_the_contract_with_a_shortcut(squeezed: int):
    net = block(squeezed=squeezed)
    assert isinstance(net.root, Residual)
    check_network(net, samples=4)


@pytest.mark.parametrize(("out_channels", "stride"), [(6, 1), (4, 2)])
def test_keeps_the_contract_without_one(out_channels: int, stride: int):
    net = block(out_channels, stride, squeezed=3, minimum=1)
    assert isinstance(net.root, nn.Sequential)
    check_network(net, samples=4)


@torch.no_grad()
def test_squeeze_excite_sees_only_the_channels_that_stay():
    width = Width(Subset("groups", 3), 6, 2)
    net = Network(squeeze_excite(width, squeezed_channels=3), input_shape=(6, 5, 5))
    factor, rows = net.root.factor, [0, 1, 4, 5]  # type: ignore[union-attr]
    x = torch.randn(2, 6, 5, 5)
    pooled = x[:, rows].mean((2, 3), keepdim=True)
    hidden = F.conv2d(pooled, factor.reduce.weight[:, rows], factor.reduce.bias).relu()
    expected = x[:, rows] * F.hardsigmoid(
        F.conv2d(hidden, factor.expand.weight[rows], factor.expand.bias[rows])
    )
    with net.configured({"groups": (0, 2)}):
        assert torch.allclose(net(x[:, rows]), expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("squeezed", [0, 3])
def test_an_empty_block_is_its_input_plus_a_constant(squeezed: int):
    net, x = block(squeezed=squeezed), torch.randn(2, 4, 8, 8)
    plain = net.extract({"groups": (), "kernel": 5})
    assert isinstance(plain.body, Constant)
    assert not list(plain.parameters())
    assert torch.allclose(plain(x) - x, plain.body.value.expand_as(x), atol=1e-6)


def test_smaller_kernel_is_the_middle_of_the_larger():
    net = block()
    weight = net.root.body.depthwise.weight  # type: ignore[union-attr]
    plain = net.extract({"groups": (1,), "kernel": 3})
    assert torch.equal(plain.body.depthwise.weight, weight[2:4, :, 1:4, 1:4])
    assert plain.body.depthwise.padding == (1, 1) or plain.body.depthwise.padding == 1
