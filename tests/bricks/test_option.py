"""Alternatives: one of several modules stands in a place."""

import pytest
import torch
from torch import nn

from brickyard.bricks import Alternatives
from brickyard.core.decision import Option
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network


def network() -> Network:
    modules = {"plain": nn.Identity(), "linear": nn.Linear(4, 4)}
    place = Alternatives(modules, option=Option("adapter", ("plain", "linear")))
    return Network(nn.Sequential(nn.ReLU(), place), input_shape=(4,))


def test_the_active_one_is_used_and_extracted():
    net, x = network(), torch.randn(2, 4)
    linear = net.root[1].alternatives["linear"]  # type: ignore[index]
    assert torch.equal(net(x), x.relu())
    with net.configured({"adapter": "linear"}):
        assert torch.equal(net(x), linear(x.relu()))
        plain = net.extract()
    assert [type(module) for module in plain] == [nn.ReLU, nn.Linear]  # type: ignore[arg-type]
    assert torch.equal(plain(x), linear(x.relu()))
    assert not list(net.extract({"adapter": "plain"}).parameters())


def test_other_names_are_refused():
    with pytest.raises(
        ConfigError, match=r"adapter = 'lora' is not allowed; allowed: one of \['plain', 'linear'\]"
    ):
        network().configure({"adapter": "lora"})
