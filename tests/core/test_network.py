"""Networks: configuring is all or nothing, extraction is one walk that keeps sharing."""

import copy

import pytest
import torch
from torch import nn

from brickyard.bricks import ElasticConv2d, ElasticLinear
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import ConfigError, ExtractError
from brickyard.core.network import Network
from brickyard.core.plain import Constant, Residual
from brickyard.testing import check_network, check_sharing_kept


class Twice(nn.Module):
    """Applies one layer twice, adds a parameter and a buffer of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = layer
        self.second = layer
        self.shift = nn.Parameter(torch.ones(4))
        self.register_buffer("factor", torch.tensor(2.0))
        self.sizes = [4]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) * self.factor + self.shift


def tied() -> Network:
    """A shared layer, and two layers that share a weight cut in the same way."""
    width = Width(Subset("inner", 3), 6, 2)
    up, again = (ElasticLinear(4, 6, width_out=width) for _ in range(2))
    again.weight = up.weight
    body = nn.Sequential(up, nn.ReLU(), ElasticLinear(6, 4, width_in=width))
    other = nn.Sequential(again, nn.Tanh(), ElasticLinear(6, 4, width_in=width))
    root = nn.Sequential(Twice(ElasticLinear(4, 4)), Residual(body, nn.Identity(), nn.ReLU()), other)
    return Network(root, input_shape=(4,))


def test_a_network_of_ones_own_keeps_the_contract():
    network = tied()
    network.space["inner"].minimum = 1  # type: ignore[attr-defined]
    check_network(network, samples=4, cut_graph=False)


def test_sharing_is_kept():
    network = tied()
    plain = network.extract({"inner": (0, 2)})
    twice, _, other = plain
    assert twice.first is twice.second
    assert other[0].weight is plain[1].body[0].weight
    assert other[0].weight.shape == (4, 4)
    check_sharing_kept(network)


def test_sharing_check_notices_untied_weights(monkeypatch: pytest.MonkeyPatch):
    network = tied()
    monkeypatch.setattr(Network, "extract", lambda self, config: untied(copy.deepcopy(self.root)))
    with pytest.raises(AssertionError, match="unties"):
        check_sharing_kept(network, samples=0)


def untied(root: nn.Module) -> nn.Module:
    root[2][0].weight = nn.Parameter(root[2][0].weight.detach().clone())  # type: ignore[index]
    return root


def test_nothing_that_can_change_is_shared():
    network = tied()
    plain = network.extract()
    plain[0].sizes.append(5)
    plain[0].register_forward_hook(lambda *_: pytest.fail("a hook of the extracted module"))
    with torch.no_grad():
        plain[0].shift.zero_()
        plain[0].factor.zero_()
    root = network.root
    network(torch.zeros(1, 4))
    assert root[0].sizes == [4]  # type: ignore[index]
    assert root[0].shift.tolist() == [1, 1, 1, 1]  # type: ignore[index]
    assert float(root[0].factor) == 2  # type: ignore[index]


def test_extraction_keeps_modes_and_what_is_trained():
    network = tied().eval()
    network.root[0].first.weight.requires_grad_(False)  # type: ignore[index]
    network.root[1].train()  # type: ignore[index]
    plain = network.extract()
    assert [module.training for module in plain] == [False, True, False]
    assert not plain[0].first.weight.requires_grad
    assert plain[1].body[0].weight.requires_grad
    assert plain[1].body[0].weight.grad_fn is None


def test_a_branch_without_bricks_is_a_constant():
    network = tied()
    plain = network.extract({"inner": ()})
    assert isinstance(plain[1].body, Constant)
    assert isinstance(plain[2], Constant)
    assert torch.equal(plain[1].body.value, network.root[1].body[2].bias[None])  # type: ignore[index]
    assert torch.equal(plain[1].body(torch.ones(3, 4)), plain[1].body.value)


def test_a_lone_layer_without_channels_cannot_be_extracted():
    network = Network(ElasticLinear(4, 4, width_out=Width(Subset("out", 4), 4)), input_shape=(4,))
    with pytest.raises(
        ExtractError, match=r"weight is left without channels .* give its decision a minimum of 1"
    ):
        network.extract({"out": ()})


def test_configure_is_all_or_nothing():
    width, depth = Subset("width", 2), Choice("depth", (1, 2))
    layer = ElasticConv2d(3, 4, 3, width_out=Width(width, 4, 2))
    other = ElasticConv2d(4, 2, 1, width_out=Width(depth, 2))
    network = Network(nn.Sequential(layer, other), input_shape=(3, 8, 8))
    with pytest.raises(ConfigError, match=r"depth = 3 is not allowed; allowed: one of \[1, 2\]"):
        network.configure({"width": (0,), "depth": 3})
    assert network.space.active() == network.space.largest()


def test_configured_restores_after_an_error():
    network = tied()

    def fail() -> None:
        with network.configured({"inner": (1,)}):
            assert network.space["inner"].value == (1,)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert network.space["inner"].value == (0, 1, 2)


def test_gates_are_checked_and_taken_away():
    network = tied()
    with network.gated({"inner": torch.zeros(2, 3)}):
        assert network.space["inner"].gates is not None  # type: ignore[attr-defined]
    assert network.space["inner"].gates is None  # type: ignore[attr-defined]
    for name, gates in (
        ("inner", torch.zeros(2, 4)),
        ("inner", torch.zeros(3)),
        ("outer", torch.zeros(2, 3)),
    ):
        with (
            pytest.raises(ConfigError, match=r"expected \[batch, count\] of a Subset"),
            network.gated({name: gates}),
        ):
            pass


def test_a_copy_has_decisions_of_its_own():
    network = tied()
    other = copy.deepcopy(network)
    other.configure(other.space.smallest())
    assert network.space.active() == network.space.largest()
    assert other.root[1].body[0].width_out.decision is other.space["inner"]  # type: ignore[index]


def test_cuts_are_named_as_in_the_state_dict():
    network = tied()
    cuts = {name: [cut.axis for cut in axes] for name, axes in network.cuts().items() if axes}
    assert cuts["1.body.0.weight"] == cuts["1.body.0.bias"] == [0]
    assert cuts["1.body.2.weight"] == [1]
    assert set(cuts) <= set(network.root.state_dict())
