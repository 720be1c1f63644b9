"""Modules with the interface of once-for-all: lists, cuts, statistics of each subnet, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brickyard.core.errors import ConfigError
from brickyard.search import run
from brickyard.search.adapters.ofa import OnceForAll

VALUES = {"ks": [[1, 3]] * 4, "e": [[0.5, 1.0]] * 4, "d": [[1, 2]] * 2}


class Block(nn.Module):
    """A residual 3 x 3 block of 8 inner channels; small kernels are the middle, small widths the front."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = (
            nn.Conv2d(4, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 4, 1),
        )
        self.kernel, self.width = 3, 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plain()(x) + x

    def plain(self) -> nn.Sequential:
        cut = slice(1, 2) if self.kernel == 1 else slice(0, 3)
        inner = nn.Conv2d(4, self.width, self.kernel, padding=self.kernel // 2)
        norm, outer = nn.BatchNorm2d(self.width), nn.Conv2d(self.width, 4, 1)
        inner.weight, inner.bias = (nn.Parameter(p[: self.width]) for p in self.inner.parameters())
        inner.weight = nn.Parameter(inner.weight[:, :, cut, cut])
        norm.load_state_dict({k: v[: self.width] if v.ndim else v for k, v in self.norm.state_dict().items()})
        outer.weight, outer.bias = nn.Parameter(self.outer.weight[:, : self.width]), self.outer.bias
        return nn.Sequential(inner, norm, nn.ReLU(), outer).train(self.training)


class Residual(nn.Module):
    """A plain block with its shortcut."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + x


class Net(nn.Module):
    """Two stages of up to two blocks; the classifier is shared with subnets, as careless code does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(4)), nn.Linear(4, 3)
        self.depth = [2, 2]

    def set_active_subnet(self, ks=None, e=None, d=None, **kwargs) -> None:
        for block, kernel, ratio in zip(self.blocks, ks, e, strict=True):
            block.kernel, block.width = kernel, int(8 * ratio)
        self.depth = list(d)

    def _active(self) -> list[Block]:
        return [*self.blocks[: self.depth[0]], *self.blocks[2 : 2 + self.depth[1]]]

    def get_active_subnet(self, preserve_weight=True) -> nn.Module:
        assert preserve_weight
        blocks = [Residual(block.plain()) for block in self._active()]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self._active():
            x = block(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture
def net(seed) -> Net:
    return Net().eval()


@pytest.fixture
def batches(seed) -> list[torch.Tensor]:
    return [torch.randn(8, 4, 5, 5) * 3 + 1 for _ in range(2)]


def measure(subnet: nn.Module) -> dict[str, float]:
    assert not subnet.training
    return {"parameters": sum(p.numel() for p in subnet.parameters()), "error": float(len(subnet))}


def test_lists_and_cuts_follow_the_config(net):
    network = OnceForAll(net, values=VALUES, evaluate=measure)
    config = network.space.largest().replace({"ks[1]": 1, "e[3]": 0.5, "d[0]": 1})
    assert network.lists(config) == {"ks": [3, 1, 3, 3], "e": [1.0, 1.0, 1.0, 0.5], "d": [1, 2]}
    x = torch.randn(2, 4, 5, 5)
    subnet = network.extract(config)
    torch.testing.assert_close(subnet(x), net(x))
    assert len(subnet) == 6
    with pytest.raises(ConfigError, match=r"e\[3\] = 1 is not allowed; allowed: one of \[0.5, 1.0\]"):
        network.extract({**config, "e[3]": 1})


def test_cuts_share_nothing_and_change_nothing(net, batches):
    before = copy.deepcopy(net.state_dict())
    network = OnceForAll(net, values=VALUES, evaluate=measure, calibration=batches)
    subnet = network.extract(network.space.largest())
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.zero_()
    torch.testing.assert_close(net.state_dict(), before)


def test_statistics_are_those_of_the_subnet_itself(net, batches):
    network = OnceForAll(net, values=VALUES, evaluate=measure, calibration=batches)
    small = network.extract(network.space.smallest())
    inner, norm = small[0].inner[0], small[0].inner[1]
    means = torch.stack([inner(batch).mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    plain = OnceForAll(net, values=VALUES, evaluate=measure).extract(network.space.smallest())
    torch.testing.assert_close(plain[0].inner[1].running_mean, torch.zeros(4))


def test_blocks_that_are_off_make_no_other_point(net):
    network = OnceForAll(net, values=VALUES, evaluate=measure, depth="d")
    one = network.space.largest().replace({"d[0]": 1, "ks[1]": 1, "e[1]": 0.5, "ks[0]": 1})
    assert network.canonical(one) == network.space.largest().replace({"d[0]": 1, "ks[0]": 1})
    assert network.canonical(network.space.smallest())["ks[2]"] == 1
    assert network.canonical(network.space.smallest())["ks[3]"] == 3
    result = run(network, objectives=["parameters"], evaluations=20, sampler="random")
    assert len({network.canonical(point.config) for point in result.points}) == 20
    best = min(result.points, key=lambda point: point.metrics["parameters"])
    assert result.front[0].metrics["parameters"] == best.metrics["parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module": nn.Linear(1, 1)}, r"Linear has no method set_active_subnet; .*search.Foreign"),
        ({"values": {**VALUES, "wid": [[1, 2]]}}, r"takes \['ks', 'e', 'd'\], but values has .*'wid'"),
        ({"values": {}}, r"but values has \[\]"),
        ({"values": {**VALUES, "d": [1, 2]}}, r"values\['d'\] = \[1, 2\]; give a list of allowed numbers"),
        ({"values": {**VALUES, "d": [[2, 1]]}}, r"d\[0\] needs ascending values"),
        ({"calibration": []}, r"calibration has no batches"),
        ({"depth": "depth"}, r"depth = 'depth' is not a key; keys: \['ks', 'e', 'd'\]"),
        (
            {"depth": "d", "values": {**VALUES, "ks": [[1, 3]] * 6}},
            r"'ks' has 6 entries for 2 stages of up to",
        ),
    ],
)
def test_what_does_not_fit_is_refused(net, changes, message):
    with pytest.raises(ConfigError, match=message):
        OnceForAll(**{"module": net, "values": VALUES, "evaluate": measure, **changes})


def test_an_evaluation_that_gives_no_names_is_refused(net):
    network = OnceForAll(net, values=VALUES, evaluate=lambda subnet: 0.5)
    with pytest.raises(ConfigError, match=r"evaluate returned 0.5"):
        network.evaluate(network.space.largest())
