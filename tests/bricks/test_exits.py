"""Exits: layers behind them do not run, each head is that of its exit."""

import pytest
import torch
from torch import nn

from brickyard.bricks import ExitHead, ExitLayers
from brickyard.core.decision import Choice
from brickyard.core.network import Network


class Stack(nn.Module):
    def __init__(self, layers: nn.Module, head: nn.Module):
        super().__init__()
        self.layers, self.head = layers, head

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def build(*, shared: bool = False, out_features: int = 3) -> tuple[Network, list[nn.Linear]]:
    exit = Choice("exit_layer", (1, 3))
    layers = [nn.Linear(4, 4) for _ in range(4)]
    head = ExitHead(4, out_features, exit=exit, shared=shared, seed=1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += torch.randn(parameter.shape)
    return Network(Stack(ExitLayers(layers, exit=exit), head), input_shape=(4,)), layers


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("exit", [1, 3])
def test_the_first_layers_and_the_head_of_the_exit(exit: int, shared: bool):
    network, layers = build(shared=shared)
    head = network.root.head
    network.configure({"exit_layer": exit})
    x = torch.randn(2, 4)
    stream = nn.Sequential(*layers[:exit])(x)
    place = (1, 3).index(exit)
    if shared:
        expected = (stream + head.layer_embedding[place]) @ head.weight.T + head.bias
    else:
        expected = stream @ head.weight[place].T + head.bias[place]
    torch.testing.assert_close(network(x), expected)
    assert torch.equal(head.project(stream, exit), network(x))
    plain = network.extract()
    assert torch.equal(plain(x), network(x))
    assert [type(part) for part in plain.children()] == [nn.ModuleList, nn.Linear]
    assert sum(p.numel() for p in plain.parameters()) == 20 * exit + 15


def test_the_list_reads_like_one_of_the_layers_in_front():
    network, layers = build()
    found = network.root.layers
    assert (len(found), found[-1]) == (3, layers[2])
    network.configure({"exit_layer": 1})
    assert (len(found), found[-1], list(found)) == (1, layers[0], layers[:1])
    assert list(found[0:9]) == layers[:1]
    with pytest.raises(IndexError):
        found[1]
    assert len(list(found.parameters())) == 8
    assert [name for name, _ in found.named_children()] == ["0", "1", "2", "3"]


def test_gradients_reach_the_exit_alone():
    network, layers = build()
    network.configure({"exit_layer": 1})
    network(torch.randn(2, 4)).sum().backward()
    assert [layer.weight.grad is not None for layer in layers] == [True, False, False, False]
    assert network.root.head.weight.grad[1].abs().sum() == 0
    assert network.root.head.weight.grad[0].abs().sum() > 0


def test_a_fresh_head():
    exit = Choice("exit_layer", (1, 2))
    x = torch.randn(2, 6)
    assert torch.equal(ExitHead(6, 6, exit=exit, shared=False)(x), x)
    narrow = ExitHead(6, 2, exit=exit, shared=False)
    torch.testing.assert_close(narrow.weight[0] @ narrow.weight[0].T, torch.eye(2))
    assert torch.equal(narrow.weight[0], narrow.weight[1])
    shared = ExitHead(6, 6, exit=exit, shared=True)
    assert not torch.equal(shared.project(x, 1), shared.project(x, 2))
    same, other = (ExitHead(6, 2, exit=exit, shared=True, seed=seed) for seed in (0, 1))
    assert not torch.equal(same.weight, other.weight)
