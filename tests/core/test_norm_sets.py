"""Norm sets: which subnet uses which."""

import numpy as np
import pytest
import torch

from brickyard.bricks import ElasticBatchNorm2d
from brickyard.core.errors import ConfigError
from brickyard.core.norm_sets import NormSets
from brickyard.core.space import block_subsets
from brickyard.networks import build

SETS = NormSets((1.0, 0.6, 0.3), {"a": (0.2, 0.2), "b": (0.4,)}, 0.2)


@pytest.mark.parametrize(
    ("a", "b", "number"),
    [((0, 1), (0,), 0), ((0,), (0,), 1), ((), (0,), 1), ((0, 1), (), 1), ((0,), (), 2), ((), (), 3)],
)
def test_the_share_decides(a: tuple[int, ...], b: tuple[int, ...], number: int):
    assert SETS.of({"a": a, "b": b}) == number
    assert SETS.count == 4


def test_samples_are_counted_by_their_limits():
    limits = np.array([1, 1, 0.99, 0.6, 0.59, 0.1], dtype=np.float32)
    assert SETS.split(limits) == (2, 2, 1, 1)
    assert SETS.split(limits[:2]) == (2, 0, 0, 0)
    assert NormSets.from_json(SETS.to_json()) == SETS


@pytest.mark.parametrize("edges", [(), (0.5, 0.6), (0.5, 0.5), (1.1,), (0.0,)])
def test_edges_that_do_not_descend_are_refused(edges: tuple[float, ...]):
    with pytest.raises(ConfigError, match="allowed: one or more descending shares"):
        NormSets(edges, {}, 1.0)


def test_a_network_normalises_each_sample_by_its_size():
    network = build("residual_cnn_pico", head_kind="classes").eval()
    shares = {
        block.name: (0.9 / len(block_subsets(network.space)) / block.count,) * block.count
        for block in block_subsets(network.space)
    }
    before = {name: tensor.shape for name, tensor in network.state_dict().items()}
    pictures = torch.randn(6, *network.input_shape)
    expected = network(pictures)
    network.add_norm_sets(NormSets((1.0, 0.5), shares, 0.1))
    assert torch.equal(network(pictures), expected), "all sets are the one there was"
    norms = [norm for norm in network.modules() if isinstance(norm, ElasticBatchNorm2d)]
    assert {norm.weight.shape[0] for norm in norms} == {3}
    assert all(tensor.shape[-1:] == before[name][-1:] for name, tensor in network.state_dict().items())
    for norm in norms:
        norm.bias.data[1] += 1.0
        norm.bias.data[2] += 2.0
    limits = np.array([1, 1, 0.7, 0.5, 0.2, 0.2], dtype=np.float32)
    with network.sized(limits):
        found = network(pictures)
    apart = (found - expected).abs().amax(1) > 1e-3
    assert apart.tolist() == [False, False, True, True, True, True]
    with network.configured(network.space.smallest()):
        assert {norm.norm_set for norm in norms} == {2}
    assert {norm.norm_set for norm in norms} == {0}


def test_each_set_learns_from_its_own_samples():
    network = build("residual_cnn_pico", head_kind="classes").train()
    network.add_norm_sets(NormSets((1.0, 0.5), {}, 1.0))
    norm = next(norm for norm in network.modules() if isinstance(norm, ElasticBatchNorm2d))
    before = norm.running_mean.clone()
    with network.sized(np.array([1, 1, 1, 0.3], dtype=np.float32)):
        network(torch.randn(4, *network.input_shape)).sum().backward()
    changed = [not torch.equal(old, new) for old, new in zip(before, norm.running_mean, strict=True)]
    assert changed == [True, False, True]
    assert norm.weight.grad is not None
    assert (norm.weight.grad.abs().sum(1) > 0).tolist() == [True, False, True]


def test_sets_of_another_network_and_a_second_time_are_refused():
    network = build("residual_cnn_pico")
    with pytest.raises(ConfigError, match="the norm sets name 'nowhere'"):
        network.add_norm_sets(NormSets((0.5,), {"nowhere": (0.5,)}, 0.5))
    assert network.norm_sets is None
    network.add_norm_sets(NormSets((0.5,), {}, 1.0))
    with pytest.raises(ConfigError, match="has norm sets already"):
        network.add_norm_sets(NormSets((0.5,), {}, 1.0))
