"""Elastic convolution against torch's own with sliced weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from brickyard.bricks import ElasticConv2d
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.network import Network

groups = st.sets(st.integers(0, 3)).map(lambda kept: tuple(sorted(kept)))


@settings(max_examples=30, deadline=None)
@given(
    rows=groups, columns=groups, kernel=st.sampled_from([3, 5]), stride=st.integers(1, 2), bias=st.booleans()
)
def test_equals_a_convolution_with_sliced_weights(rows, columns, kernel, stride, bias):
    width_out, width_in = Width(Subset("out", 4), 8, 2), Width(Subset("in", 4), 12, 3)
    conv = ElasticConv2d(
        12,
        8,
        5,
        stride=stride,
        bias=bias,
        width_in=width_in,
        width_out=width_out,
        kernel=Choice("kernel", (3, 5)),
    )
    for decision, value in zip(conv.decisions(), (rows, columns, kernel), strict=True):
        decision.value = value
    out = [2 * group + unit for group in rows for unit in range(2)]
    into = [3 * group + unit for group in columns for unit in range(3)]
    margin = (5 - kernel) // 2
    weight = conv.weight[out][:, into, margin : 5 - margin, margin : 5 - margin]
    x = torch.randn(2, len(into), 7, 6)
    found = conv(x)
    if out and into:
        expected = F.conv2d(x, weight, conv.bias[out] if bias else None, stride, kernel // 2)
        assert torch.allclose(found, expected, atol=1e-5)
    else:
        assert found.shape == (2, len(out), -(-7 // stride), -(-6 // stride))
        assert not found.any()


def test_depthwise_equals_a_grouped_convolution():
    width = Width(Subset("width", 4), 8, 2)
    conv = ElasticConv2d(8, 8, 3, stride=2, groups=8, width_in=width, width_out=width)
    width.decision.value = (0, 3)
    x = torch.randn(1, 4, 9, 9)
    expected = F.conv2d(x, conv.weight[[0, 1, 6, 7]], None, 2, 1, groups=4)
    assert torch.allclose(conv(x), expected, atol=1e-6)


@pytest.mark.parametrize("depthwise", [False, True])
def test_extracts_to_a_plain_convolution(depthwise: bool):
    width = Width(Subset("width", 4), 8, 2)
    conv = ElasticConv2d(
        8,
        8,
        3,
        stride=2,
        bias=True,
        groups=8 if depthwise else 1,
        width_in=width if depthwise else None,
        width_out=width,
    )
    assert conv.bias is not None
    nn.init.normal_(conv.bias)
    network = Network(conv, input_shape=(8, 9, 9))
    network.configure({"width": (1, 2)})
    plain = network.extract()
    assert type(plain) is nn.Conv2d
    expected = nn.Conv2d(4 if depthwise else 8, 4, 3, 2, 1, groups=4 if depthwise else 1)
    assert repr(plain) == repr(expected)
    x = torch.randn(2, 4 if depthwise else 8, 9, 9)
    assert torch.allclose(plain(x), conv(x), atol=1e-6)


def test_without_input_channels_the_bias_is_left():
    conv = ElasticConv2d(4, 3, 3, stride=2, bias=True, width_in=Width(Subset("in", 2), 4, 2))
    assert conv.bias is not None
    nn.init.normal_(conv.bias)
    conv.width_in.decision.value = ()  # type: ignore[union-attr]
    y = conv(torch.randn(2, 0, 5, 5))
    assert torch.equal(y, conv.bias.reshape(1, 3, 1, 1).expand(2, 3, 3, 3))


def test_a_prefix_keeps_the_first_channels():
    width = Width(Choice("channels", (1, 2, 4)), 8, 2)
    conv = ElasticConv2d(3, 8, 1, width_out=width)
    width.decision.value = 2
    x = torch.randn(1, 3, 4, 4)
    assert torch.allclose(conv(x), F.conv2d(x, conv.weight[:4]))


def test_gates_of_the_input_multiply_it():
    width = Width(Subset("in", 2), 4, 2)
    conv = ElasticConv2d(4, 3, 3, width_in=width)
    x = torch.randn(2, 4, 5, 5)
    width.decision.gates = torch.tensor([[1.0, 0.0], [0.25, 1.0]])  # type: ignore[union-attr]
    scaled = x * torch.tensor([[1.0, 1, 0, 0], [0.25, 0.25, 1, 1]])[:, :, None, None]
    assert torch.allclose(conv(x), F.conv2d(scaled, conv.weight, padding=1), atol=1e-6)
