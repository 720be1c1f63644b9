"""Related tasks are found by nearest neighbours, unrelated ones are not, and no stored mask is touched."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from brickyard.continual import Learner, masked
from brickyard.continual.transfer import _is_better, start_scores


def parity(*, seed: int, count: int = 600, flipped: bool = False) -> TensorDataset:
    """Whether two of many inputs have the same sign: random features and raw inputs hardly tell."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 12, generator=generator)
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return TensorDataset(inputs, 1 - labels if flipped else labels)


@pytest.fixture
def taught(quick):
    """A network that has learned the parity, and noise."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 32), nn.ReLU())
    network = masked(nn.Sequential(module, nn.Linear(32, 2)), input_shape=(12,), density=0.3)
    settings = quick(mask_epochs=15, weight_epochs=5, mask_rate=2e-2, transfer="best")
    learner = Learner(network, settings=settings)
    learner.learn("parity", parity(seed=0), num_classes=2)
    inputs, _ = parity(seed=1).tensors
    learner.settings = quick(mask_epochs=1, weight_epochs=1)
    learner.learn("noise", TensorDataset(inputs, torch.randint(0, 2, (600,))), num_classes=2)
    return learner


def test_a_related_task_is_started_from_and_left_as_it_is(taught, quick):
    network = taught.network
    masks = {path: layer.mask(0) for path, layer in network.layers.items()}
    answers = network.scores("parity", parity(seed=2).tensors[0])
    taught.settings = quick(mask_epochs=1, mask_rate=1e-9, weight_epochs=1, transfer="best")
    learned = taught.learn("flipped", parity(seed=3, flipped=True), num_classes=2)
    assert learned.suited.start == ("parity",)
    assert learned.suited.accuracies[0] > learned.suited.random_mask + 0.05
    assert learned.transfer_seconds > 0
    assert float(network.overlap()[0, 2]) == 1.0
    assert float(network.overlap()[1, 2]) < 0.6
    assert all(torch.equal(layer.mask(0), masks[path]) for path, layer in network.layers.items())
    assert torch.equal(network.scores("parity", parity(seed=2).tensors[0]), answers)


def test_normalisation_and_biases_start_from_the_related_task_and_heads_do_not(taught, quick):
    network = taught.network
    taught.settings = quick(mask_epochs=1, mask_rate=1e-9, weight_epochs=1, weight_rate=1e-9, transfer="best")
    learned = taught.learn("flipped", parity(seed=3, flipped=True), num_classes=2)
    assert learned.suited.nearest == "parity"
    same = {
        path: all(
            torch.allclose(tensor, part.task_state(0)[name])
            for name, tensor in part.task_state(2).items()
            if name in ("bias", "weight")
        )
        for path, part in network.parts.items()
    }
    assert same == {path: not part.is_head for path, part in network.parts.items()}


def test_an_unrelated_task_starts_at_random(taught, quick):
    taught.settings = quick(mask_epochs=1, mask_rate=1e-9, weight_epochs=1, transfer="best")
    inputs, labels = parity(seed=4).tensors
    other = TensorDataset(inputs.flip(1), labels)
    learned = taught.learn("other", other, num_classes=2)
    assert learned.suited.accepted == learned.suited.start == ()
    assert learned.suited.nearest is None
    assert float(taught.network.overlap()[0, 2]) < 0.6


def test_the_comparison_changes_neither_statistics_nor_modes(taught, quick):
    state = {name: tensor.clone() for name, tensor in taught.network.network.state_dict().items()}
    taught.settings = quick(mask_epochs=1, weight_epochs=1, transfer="average")
    taught.learn("third", parity(seed=5), num_classes=2)
    after = taught.network.network.state_dict()
    for name, tensor in state.items():
        assert name.endswith("pool") or torch.equal(after[name], tensor), name
    assert not taught.network.network.training


def test_scores_of_an_average_are_ordered_by_votes(taught):
    network = taught.network

    def fresh(pool: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(pool) - 0.5

    scores = start_scores(network, ("parity", "noise"), fresh)
    for path, layer in network.layers.items():
        votes = layer.mask(0).int() + layer.mask(1).int()
        magnitudes = scores[path].abs()
        for fewer in (0, 1):
            assert magnitudes[votes > fewer].min() > magnitudes[votes == fewer].max()
        ordered = magnitudes.reshape(-1).sort(descending=True).values
        steps = ordered[:-1] - ordered[1:]
        assert steps.max() < 1.5 * steps.min()  # spread evenly, also around the mask
        assert (scores[path] > 0).any()
        assert (scores[path] < 0).any()


def test_only_what_chance_does_not_explain_counts_as_better():
    right = torch.arange(300).numpy() % 10 < 6
    somewhat = right.copy()
    somewhat[:300:100] = True
    clearly = right.copy()
    clearly[:150] = True
    assert not _is_better(somewhat, right, 2.0)
    assert _is_better(clearly, right, 2.0)
    assert not _is_better(right, right, 2.0)


@pytest.mark.parametrize("count", [1, 2, 513])
def test_any_number_of_examples_can_be_compared(taught, quick, count):
    taught.settings = quick(mask_epochs=1, weight_epochs=1, transfer="best", transfer_samples=count)
    learned = taught.learn("flipped", parity(seed=3, flipped=True), num_classes=2)
    assert len(learned.suited.accuracies) == 2
    assert count > 2 or learned.suited.start == ()
