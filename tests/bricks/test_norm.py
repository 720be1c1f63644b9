"""Elastic batch normalisation and folding."""

import pytest
import torch
from torch import nn

from brickyard.bricks import ElasticBatchNorm2d, fold_norms_
from brickyard.core.brick import Width
from brickyard.core.decision import Subset
from brickyard.core.network import Network
from brickyard.networks import build
from brickyard.testing import prepared


def norm_of(kept: tuple[int, ...]) -> tuple[ElasticBatchNorm2d, nn.BatchNorm2d]:
    """An elastic normalisation and torch's own of the channels that are kept."""
    norm = ElasticBatchNorm2d(6, width=Width(Subset("width", 3), 6, 2))
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.uniform_(0.5, 1.5)
    norm.width.decision.value = kept  # type: ignore[union-attr]
    rows = [2 * group + unit for group in kept for unit in range(2)]
    plain = nn.BatchNorm2d(len(rows))
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(plain, name).copy_(getattr(norm, name)[rows])
    return norm, plain


@pytest.mark.parametrize("kept", [(0, 1, 2), (0, 2), (1,)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_torch_on_the_channels_kept(kept: tuple[int, ...], training: bool):
    norm, plain = norm_of(kept)
    before = norm.running_mean.clone()
    norm.train(training)
    plain.train(training)
    x = torch.randn(4, 2 * len(kept), 5, 5)
    assert torch.allclose(norm(x), plain(x), atol=1e-6)
    rows = [2 * group + unit for group in kept for unit in range(2)]
    rest = [row for row in range(6) if row not in rows]
    assert torch.allclose(norm.running_mean[rows], plain.running_mean)
    assert torch.allclose(norm.running_var[rows], plain.running_var)
    assert torch.equal(norm.running_mean[rest], before[rest])


def test_extracts_to_torch_with_its_settings():
    norm = ElasticBatchNorm2d(4, width=Width(Subset("width", 4), 4), eps=1e-3, momentum=0.05)
    plain = Network(norm, input_shape=(4, 5, 5)).extract({"width": (2,)})
    assert type(plain) is nn.BatchNorm2d
    assert (plain.num_features, plain.eps, plain.momentum) == (1, 1e-3, 0.05)


def test_no_channels_pass_through():
    norm, _ = norm_of(())
    x = torch.randn(2, 0, 5, 5)
    assert norm(x).shape == x.shape


@pytest.mark.parametrize("name", ["residual_cnn_pico", "mobile_cnn_pico"])
@torch.no_grad()
def test_folding_changes_no_score_and_commutes_with_cutting(name: str):
    network = prepared(build(name, head_kind="classes", num_outputs=3))
    x = torch.randn(2, *network.input_shape)
    config = network.space.decode(([0.6, 0.4, 0.7] * network.space.width)[: network.space.width])
    whole, cut = network(x), network.extract(config)
    expected = cut(x)
    fold_norms_(cut)
    fold_norms_(network)
    assert not any(isinstance(module, ElasticBatchNorm2d) for module in network.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in cut.modules())
    assert torch.allclose(network(x), whole, atol=1e-5)
    assert torch.allclose(cut(x), expected, atol=1e-5)
    assert torch.allclose(network.extract(config)(x), expected, atol=1e-5)
