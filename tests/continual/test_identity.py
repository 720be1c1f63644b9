"""The task of inputs is found by the entropy of scores, or its gradient."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from brickyard.continual import Learner, masked
from brickyard.continual.identity import METHODS, entropy_gradients, infer_task
from brickyard.core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def digits():
    """A network that learned digits in five orders, with superfluous outputs; inputs of each."""
    from brickyard.continual import LearnSettings

    bundle = load_digits()
    inputs, labels = torch.tensor(bundle.data / 16).float(), torch.tensor(bundle.target)
    module = nn.Sequential(nn.Linear(64, 128, bias=False), nn.ReLU(), nn.Linear(128, 40, bias=False))
    network = masked(module, input_shape=(64,), density=0.3)
    settings = LearnSettings(arm="supsup", mask_epochs=4, weight_epochs=0, mask_rate=2e-3, batch_size=32)
    generator, seen = torch.Generator().manual_seed(0), {}
    for number in range(5):
        order = torch.randperm(64, generator=generator)
        data = TensorDataset(inputs[:800][:, order], labels[:800])
        Learner(network, settings=settings).learn(f"order {number}", data, num_classes=40)
        seen[f"order {number}"] = inputs[800:1000][:, order]
    return network, seen


@pytest.mark.parametrize("method", METHODS)
def test_the_task_is_found(digits, method):
    network, seen = digits
    right = [infer_task(network, inputs, method=method) == name for name, inputs in seen.items()]
    assert sum(right) >= 4


def test_gradients_are_those_of_the_mixture(digits):
    network, _ = digits
    inputs = torch.rand(32, 64, dtype=torch.float64)  # pixels of few values put many units exactly at 0
    network.network.double()
    try:
        gradients = entropy_gradients(network, inputs, [0, 1, 3])
        for number in range(5):
            ends = []
            for step in (-1e-7, 1e-7):
                shares = torch.tensor([1 / 3, 1 / 3, 0, 1 / 3, 0], dtype=torch.float64)
                shares[number] += step
                network.tasks.mixture = shares
                probabilities = network.network(inputs).softmax(1)
                ends.append(float(-(probabilities * probabilities.log()).sum(1).mean()))
            slope = (ends[1] - ends[0]) / 2e-7
            assert float(gradients[number]) == pytest.approx(slope if number in (0, 1, 3) else 0, abs=1e-5)
    finally:
        network.tasks.mixture = None
        network.network.float()


def test_inferring_changes_nothing(digits):
    network, seen = digits
    before = network.scores("order 2", seen["order 2"])
    state = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    infer_task(network, seen["order 0"])
    assert network.tasks.mixture is None
    assert not network.network.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.network.state_dict().items())
    assert torch.equal(network.scores("order 2", seen["order 2"]), before)


def test_biases_normalisation_and_own_heads_are_mixed(blobs, quick):
    module = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    network = masked(module, input_shape=(16,), density=0.3, heads="own")
    learner = Learner(network, settings=quick(mask_epochs=4, weight_epochs=4))
    for number in range(2):
        learner.learn(f"task {number}", blobs(number), num_classes=4)
    inputs = blobs(1).tensors[0]
    assert infer_task(network, inputs, method="each") == "task 1"
    gradients = entropy_gradients(network, inputs, [0, 1])
    assert gradients.shape == (2,)
    assert (gradients != 0).all()
    network.tasks.mixture = torch.tensor([0.0, 1.0])
    mixed = network.network(inputs)
    network.tasks.mixture = None
    assert torch.allclose(mixed, network.scores("task 1", inputs), atol=1e-5)


def test_what_cannot_be_inferred_is_refused(mlp, blobs, quick):
    network = mlp()
    with pytest.raises(ConfigError, match="tasks have no classes; inferring needs tasks of equally many"):
        infer_task(network, torch.zeros(1, 16))
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1))
    learner.learn("first", blobs(), num_classes=4)
    with pytest.raises(ConfigError, match="method = 'guess' is not allowed; allowed: one-shot, binary, each"):
        infer_task(network, torch.zeros(1, 16), method="guess")
    for method in METHODS:
        with pytest.raises(
            DataError, match=r"inputs of shape \(0, 16\) came; the task follows from at least"
        ):
            infer_task(network, torch.zeros(0, 16), method=method)
    inputs, labels = blobs().tensors
    learner.learn("second", TensorDataset(inputs, labels % 3), num_classes=3)
    with pytest.raises(ConfigError, match=r"tasks have \[3, 4\] classes"):
        infer_task(network, torch.zeros(1, 16))
