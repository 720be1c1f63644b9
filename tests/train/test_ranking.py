"""Bricks of a trained network, ranked by what its loss tells of them."""

import numpy as np
import pytest
import torch

from brickyard.core.space import block_subsets
from brickyard.networks import build
from brickyard.train.joint import Batch
from brickyard.train.ranking import fisher_ranking


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("residual_cnn_pico", head_kind="classes", num_outputs=3).eval()


def batches(step, rng):
    pictures = torch.from_numpy(rng.standard_normal((16, 3, 16, 16)).astype(np.float32))
    return Batch(pictures, rng.integers(0, 3, (16, 1, 1)).astype(np.int16))


def rank(network, costs, seed=0):
    return fisher_ranking(network, costs, batches=batches, seed=seed)


def brick_of(network, block, brick):
    """Position of a brick among those of all blocks."""
    subsets = block_subsets(network.space)
    place = [subset.name for subset in subsets].index(block)
    return sum(subset.count for subset in subsets[:place]) + brick


def test_a_brick_that_does_nothing_goes_first_and_one_that_decides_last(network):
    subsets = block_subsets(network.space)
    costs = np.full(sum(subset.count for subset in subsets), 0.05, dtype=np.float32)
    names = dict(network.root.named_modules())
    first = names["stages.1.0.body.conv2"]  # columns of its second convolution: 4 to a brick
    with torch.no_grad():
        first.weight[:, 4:8] = 0.0
        first.weight[:, 8:12] *= 30.0
    ranking = rank(network, costs)
    assert sorted(ranking.tolist()) == pytest.approx(np.linspace(0.2, 1.0, len(costs)).tolist())
    assert ranking[brick_of(network, "stage1.block0", 1)] == pytest.approx(0.2)
    block = [ranking[brick_of(network, "stage1.block0", brick)] for brick in range(4)]
    assert block[2] == max(block)


def test_what_is_dear_for_its_worth_goes_first(network):
    count = sum(subset.count for subset in block_subsets(network.space))
    even = rank(network, np.full(count, 0.05, dtype=np.float32))
    dear = np.full(count, 0.05, dtype=np.float32)
    best = int(even.argmax())
    dear[best] = 50.0
    assert rank(network, dear)[best] < even[best]


def test_the_network_is_left_as_it_is_and_the_seed_decides(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count = sum(subset.count for subset in block_subsets(network.space))
    costs = np.full(count, 0.05, dtype=np.float32)
    assert np.array_equal(rank(network, costs), rank(network, costs))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
