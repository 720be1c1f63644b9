"""Elastic linear layer against torch's own with sliced weights."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from brickyard.bricks import ElasticLinear
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.network import Network


@settings(max_examples=20, deadline=None)
@given(rows=st.sets(st.integers(0, 4)), columns=st.integers(0, 3), bias=st.booleans())
def test_equals_a_linear_layer_with_sliced_weights(rows, columns, bias):
    width_out, width_in = Width(Subset("out", 5), 5), Width(Choice("in", (0, 1, 2, 3)), 6, 2)
    linear = ElasticLinear(6, 5, bias=bias, width_in=width_in, width_out=width_out)
    width_out.decision.value, width_in.decision.value = tuple(sorted(rows)), columns
    kept = sorted(rows)
    x = torch.randn(2, 3, 2 * columns)
    expected = F.linear(x, linear.weight[kept, : 2 * columns], linear.bias[kept] if bias else None)
    assert torch.allclose(linear(x), expected, atol=1e-6)


def test_classes_leave_the_head():
    linear = ElasticLinear(6, 5, width_out=Width(Subset("classes", 5, minimum=1), 5))
    network = Network(linear, input_shape=(6,))
    plain = network.extract({"classes": (1, 4)})
    assert type(plain) is nn.Linear
    assert repr(plain) == repr(nn.Linear(6, 2))
    x = torch.randn(3, 6)
    assert torch.allclose(plain(x), linear(x)[:, [1, 4]])


def test_gates_of_the_input_multiply_it():
    width = Width(Subset("in", 2), 4, 2)
    linear = ElasticLinear(4, 3, width_in=width)
    x = torch.randn(2, 4)
    width.decision.gates = torch.tensor([[0.0, 1.0], [1.0, 0.5]])  # type: ignore[union-attr]
    scaled = x * torch.tensor([[0.0, 0, 1, 1], [1, 1, 0.5, 0.5]])
    assert torch.allclose(linear(x), F.linear(scaled, linear.weight, linear.bias))
