"""What a build starts from: costs of bricks, and norm sets that fit."""

import pytest
import torch
from torch import nn

from brickyard.bricks import ElasticBatchNorm2d, ElasticConv2d
from brickyard.core.brick import Width
from brickyard.core.decision import Subset
from brickyard.core.errors import ConfigError, ExportError
from brickyard.core.network import Network
from brickyard.export.whole import export_blueprint
from brickyard.factory.build import BuildSettings
from brickyard.factory.start import add_norm_sets, brick_costs
from brickyard.networks import build


def test_sets_count_shares_as_the_blueprint_counts_macs():
    network = build("residual_cnn_pico").eval()
    blueprint = export_blueprint(network)
    costs, fixed = brick_costs(blueprint)
    add_norm_sets(network, (1.0, 0.5), costs, fixed)
    sets, space = network.norm_sets, network.space
    assert sets is not None
    for config in (space.largest(), space.smallest()):
        words = {name: value for name, value in config.items() if name in sets.shares}
        counted = blueprint.count(space.largest().replace(words)).macs / blueprint.count(space.largest()).macs
        assert sets.share(config) == pytest.approx(counted, abs=1e-5)


def test_edges_that_do_not_descend_are_refused_before_anything_is_trained():
    with pytest.raises(ConfigError, match=r"edges of the norm sets are \[0\.5, 0\.6\]"):
        BuildSettings(norm_sets=(0.5, 0.6))


def test_networks_that_normalise_elsewhere_are_refused_and_left_as_they_are():
    width = Width(Subset("width", 2), 4, 2)
    root = nn.Sequential(
        ElasticConv2d(3, 4, 3, width_out=width), nn.ReLU(), ElasticBatchNorm2d(4, width=width)
    )
    network = Network(root, input_shape=(3, 5, 5)).eval()
    with pytest.raises(ExportError, match="2 follows no convolution that it alone reads"):
        add_norm_sets(network, (0.5,), torch.tensor([0.5, 0.5]).numpy(), 0.0)
    assert network.norm_sets is None
    assert root[2].weight.shape == (4,)
