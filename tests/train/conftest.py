"""Toys that are learnt in seconds: where a spot is, and which colour and pattern it has."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from brickyard.assemble.discretise import ceiling
from brickyard.core.network import Network
from brickyard.core.space import block_subsets
from brickyard.core.task import Vocabulary
from brickyard.networks import build
from brickyard.train.joint import Batch

SIDE = 16
COLORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)


class Rows(nn.Module):
    """One learned logit per brick for each word, and the ceiling above them."""

    def __init__(self, num_words: int, network: Network) -> None:
        super().__init__()
        self.subsets = block_subsets(network.space)
        start = torch.cat([torch.linspace(1.0, 0.2, subset.count) for subset in self.subsets])
        self.words = nn.Parameter(torch.zeros(num_words, len(start)))
        self.bias = nn.Parameter(start)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def gate(self, tasks: Tensor, limits: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
        gates = ceiling(tasks @ self.words + self.bias, costs, limits)
        self.seen.append((gates.detach() @ costs, limits))
        return gates, gates.new_zeros(())


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """The words of the spots."""
    return Vocabulary("properties", {"color": ("red", "green", "blue"), "pattern": ("plain", "holed")})


@pytest.fixture(scope="session")
def spots() -> Callable[[int, np.random.Generator], Batch]:
    """Draws pictures with one or two spots that have a colour and a pattern, with their boxes."""

    def draw(step: int, rng: np.random.Generator) -> Batch:
        count = 32
        pictures = np.zeros((count, 3, SIDE, SIDE), dtype=np.float32)
        objects = np.full((count, 2, 2), -1, dtype=np.int16)
        boxes = np.zeros((count, 2, 4), dtype=np.float32)
        for picture in range(count):
            for number in range(int(rng.integers(1, 3))):
                color, pattern = int(rng.integers(3)), int(rng.integers(2))
                x, y = int(rng.integers(0, 3)) + 8 * number, int(rng.integers(0, SIDE - 5))
                spot = np.ones((6, 6), dtype=np.float32)
                spot[2:4, 2:4] = 1 - 2 * pattern
                pictures[picture, :, y : y + 6, x : x + 6] = COLORS[color][:, None, None] * spot
                objects[picture, number] = color, pattern
                boxes[picture, number] = np.array([x, y, x + 6, y + 6]) / SIDE
        return Batch(torch.from_numpy(pictures), objects, boxes)

    return draw


@pytest.fixture(scope="session")
def corners() -> Callable[[int, np.random.Generator], Batch]:
    """Draws grey pictures of which one quarter is bright: four classes."""

    def draw(step: int, rng: np.random.Generator) -> Batch:
        labels = rng.integers(0, 4, 32)
        pictures = 0.3 * rng.standard_normal((32, 1, 8, 8)).astype(np.float32)
        for picture, label in enumerate(labels):
            pictures[picture, 0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += label + 1
        return Batch(torch.from_numpy(pictures), labels.astype(np.int16).reshape(-1, 1, 1))

    return draw


@pytest.fixture
def presence(vocabulary: Vocabulary) -> Network:
    """A pico network that answers whether an object with some words is there."""
    return build(
        "residual_cnn_pico", num_outputs=len(vocabulary.words), head_kind="presence", image_size=SIDE
    )


@pytest.fixture
def classes() -> Callable[[], Network]:
    """Builds a pico network of four classes, the same each time."""

    def make() -> Network:
        torch.manual_seed(11)
        return build("residual_cnn_pico", num_outputs=4, head_kind="classes", in_channels=1, image_size=8)

    return make


@pytest.fixture(scope="session")
def rows() -> type[Rows]:
    """The assembler of the toys."""
    return Rows
