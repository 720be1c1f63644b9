"""Networks that streams of tasks are learned by: a small one for each kind of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.continual import TaskNetwork, masked


@dataclass(frozen=True)
class Net:
    """A network for a stream.

    Attributes:
        build: Makes it for a number of classes, with fresh weights.
        input_shape: Shape of one input.
        num_classes: Rows of the shared output layer; of own ones before they are replaced.
        heads: Whether one output layer serves all tasks, or each has its own.
        vocab_sizes: Where it reads token ids: how many there are.
    """

    build: Callable[[int], nn.Module]
    input_shape: tuple[int, ...]
    num_classes: int
    heads: Literal["shared", "own"]
    vocab_sizes: tuple[int, ...] = ()

    def masked(self, *, density: float, seed: int) -> TaskNetwork:
        """Make the network that learns by masks."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            module = self.build(self.num_classes)
        return masked(
            module,
            input_shape=self.input_shape,
            density=density,
            heads=self.heads,
            vocab_sizes=self.vocab_sizes,
            seed=seed,
        )


def lenet(num_classes: int = 10) -> nn.Sequential:
    """Build LeNet-300-100 without biases."""
    return nn.Sequential(
        nn.Linear(784, 300, bias=False),
        nn.ReLU(),
        nn.Linear(300, 100, bias=False),
        nn.ReLU(),
        nn.Linear(100, num_classes, bias=False),
    )


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        cut = width_in != width or stride > 1
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if cut else None

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(inputs)))))
        return F.relu(inner + (inputs if self.shortcut is None else self.shortcut(inputs)))


def small_resnet(num_classes: int, *, in_channels: int = 3) -> nn.Sequential:
    """Build a residual network of 77 k weights: stages of 16, 32 and 64 channels, one block each.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of a picture.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        _Block(16, 16, 2),
        _Block(16, 32, 2),
        _Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


class TextCNN(nn.Module):
    """Convolutions of 3, 4 and 5 words over frozen embeddings, largest values, a linear layer (1408.5882).

    Args:
        embeddings: Embedding of each word, `[words, embed_dim]`; word 0 is padding.
        num_classes: Number of classes.
        filters: Filters of each width.
    """

    def __init__(self, embeddings: npt.NDArray[np.float32], num_classes: int, *, filters: int = 100) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(embeddings), freeze=True)
        width = embeddings.shape[1]
        self.convs = nn.ModuleList(nn.Conv1d(width, filters, words, bias=False) for words in (3, 4, 5))
        self.head = nn.Linear(3 * filters, num_classes)

    def forward(self, words: Tensor) -> Tensor:
        """Map word ids `[batch, words]` to scores `[batch, classes]`."""
        inputs = self.embedding(words).transpose(1, 2)
        found = [F.relu(conv(inputs)).amax(2) for conv in self.convs]
        scores: Tensor = self.head(torch.cat(found, 1))
        return scores


LENET = Net(lenet, (784,), 10, "shared")
CIFAR_NET = Net(small_resnet, (3, 32, 32), 2, "own")
OMNIGLOT_NET = Net(lambda num_classes: small_resnet(num_classes, in_channels=1), (1, 28, 28), 2, "own")


def text_net(embeddings: npt.NDArray[np.float32], *, length: int) -> Net:
    """Return the network for texts.

    Args:
        embeddings: See `TextCNN`.
        length: Words of a text.
    """
    return Net(lambda num_classes: TextCNN(embeddings, num_classes), (length,), 2, "own", (len(embeddings),))
