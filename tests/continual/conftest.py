"""Small networks, and tasks that can be learned in a second."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from brickyard.continual import LearnSettings, TaskNetwork, masked


@pytest.fixture
def mlp() -> Callable[..., TaskNetwork]:
    """Makes a masked network from 16 numbers to 4 scores."""

    def make(*, density: float = 0.25, bias: bool = False, **arguments) -> TaskNetwork:
        module = nn.Sequential(
            nn.Linear(16, 48, bias=bias), nn.ReLU(), nn.Linear(48, 24, bias=bias), nn.ReLU(), nn.Linear(24, 4)
        )
        return masked(module, input_shape=(16,), density=density, **arguments)

    return make


@pytest.fixture
def blobs() -> Callable[..., TensorDataset]:
    """Makes examples of 4 classes: noise around centres; another order of the inputs for each number."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(4, 16, generator=generator)

    def make(number: int = 0, *, count: int = 256, seed: int = 0) -> TensorDataset:
        generator = torch.Generator().manual_seed(1000 + seed)
        labels = torch.randint(0, 4, (count,), generator=generator)
        inputs = centres[labels] + 0.3 * torch.randn(count, 16, generator=generator)
        order = torch.randperm(16, generator=torch.Generator().manual_seed(number))
        return TensorDataset(inputs[:, order], labels)

    return make


@pytest.fixture
def quick() -> Callable[..., LearnSettings]:
    """Makes settings of a few quick epochs."""

    def make(**arguments) -> LearnSettings:
        chosen = {"mask_epochs": 6, "weight_epochs": 6, "batch_size": 32, "mask_rate": 1e-2, **arguments}
        if chosen.get("arm") == "supsup":
            chosen["weight_epochs"] = 0
        return LearnSettings(**chosen)

    return make
