"""A feed-forward network as bricks in the places of its layers keeps the contract of networks."""

import pytest
import torch
from torch import nn

from brickyard.bricks.experts import Bypass, ExpertGate, ExpertMatrix, Experts, ExpertSplit
from brickyard.core.decision import Subset
from brickyard.core.feed_forward import RoutedFeedForward
from brickyard.core.network import Network
from brickyard.testing import check_network


class Block(nn.Module):
    """Calls its layers one after the other, as code of others does."""

    def __init__(self, *, gated: bool):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.keys, self.values, self.act = nn.Linear(6, 14), nn.Linear(14, 6, bias=False), nn.GELU()
        self.gated = nn.Linear(6, 14) if gated else None
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        y = self.norm(x)
        hidden = self.act(self.keys(y))
        if self.gated is not None:
            hidden = hidden * self.gated(y)
        return x + self.values(self.dropout(hidden))


def with_experts(block: Block, name: str, *, mode: str, learned: bool = False) -> Block:
    sizes = {"neurons": 14, "expert_width": 3, "top_k": 2}
    split = ExpertSplit(Subset(name, 4, minimum=1), **sizes, gate="learned" if learned else "keys")
    split.mode = mode
    act, dropout = Bypass(block.act, split), Bypass(block.dropout, split)
    values = ExpertMatrix(block.values, split, reads=True)
    gated = None if block.gated is None else ExpertMatrix(block.gated, split)
    gate = ExpertGate(6, split.subset, gate_width=8, seed=1) if learned else None
    parts = {"gated": gated, "dropout": dropout, "gate": gate}
    block.keys = Experts(block.keys, act, values, split=split, **parts)
    block.act, block.dropout, block.values, block.gated = act, dropout, values, gated
    return block


def network(mode: str, *, gated: bool = False, learned: bool = False) -> Network:
    settings = {"mode": mode, "learned": learned}
    blocks = [with_experts(Block(gated=gated), f"block{index}", **settings) for index in range(2)]
    return Network(nn.Sequential(*blocks, nn.Linear(6, 3)), input_shape=(5, 6)).eval()


@pytest.mark.parametrize("mode", ["dense", "masked", "sparse"])
@pytest.mark.parametrize("gated", [False, True])
def test_the_whole_contract_is_kept(mode, gated):
    check_network(network(mode, gated=gated), samples=3, cut_graph=False)


@pytest.mark.parametrize("mode", ["dense", "masked", "sparse"])
def test_the_whole_contract_is_kept_with_learned_gates(mode):
    check_network(network(mode, learned=True), samples=3, cut_graph=False)


def test_narrow_layers_of_the_original_class_are_cut_out():
    net = network("dense")
    plain = net.extract({"block0": (1, 3), "block1": (0, 1, 2)})
    assert [type(part) for part in plain[0].children()] == [
        type(part) for part in Block(gated=False).children()
    ]
    assert (plain[0].keys.out_features, plain[0].values.in_features) == (8, 8)  # two neurons belong to none
    assert plain[1].keys.weight.shape == (11, 6)
    kept = [3, 4, 5, 9, 10, 11, 12, 13]
    assert torch.equal(plain[0].keys.weight, net.root[0].keys.weight[kept])
    assert torch.equal(plain[0].values.weight, net.root[0].values.weight[:, kept])


def test_tokens_choose_among_the_experts_that_are_cut_out():
    plain = network("masked").extract({"block0": (0, 1, 3), "block1": (0, 2)})
    assert isinstance(plain[0].keys, RoutedFeedForward)
    assert (plain[0].keys.routing.num_experts, plain[0].keys.routing.top_k) == (3, 2)
    assert isinstance(plain[1].keys, nn.Linear)  # no more than a token uses


def test_parameters_stay_the_objects_and_names_that_they_were():
    block = Block(gated=True)
    before = dict(block.named_parameters())
    after = dict(with_experts(block, "block", mode="masked").named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)


def test_frozen_weights_stay_frozen_in_what_is_cut_out():
    net = network("masked")
    net.root[0].values.weight.requires_grad_(False)
    plain = net.extract({"block0": (0, 1, 2), "block1": (0, 1)})
    assert not plain[0].keys.values.weight.requires_grad
    assert plain[0].keys.keys.weight.requires_grad


def test_dropout_follows_the_mode_of_the_model():
    net = network("dense").train()
    x = torch.randn(1, 5, 6)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
