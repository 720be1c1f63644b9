"""Which earlier tasks a new one may start from, by nearest neighbours (KKT, arXiv 2210.10209, section 3.3).

An earlier task suits a new one if a k-NN classifier on what its subnetwork hands to the head tells the new
classes apart. What differs from the paper: an earlier task is accepted only if its features are better than
those of a random mask, by more than chance explains on the same held-out examples (almost any features beat
guessing, so the paper's comparison with guessing rejects next to nothing); and a mask starts from the bits of
earlier masks, since scores are not kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from brickyard.continual.examples import Examples, count, take
from brickyard.continual.layers import OwnPart
from brickyard.continual.network import TaskNetwork, evaluation
from brickyard.continual.settings import LearnSettings
from brickyard.core.errors import MissingExtraError

_LEVEL = 0.05  # chance that any of the earlier tasks is accepted though none is better
_TRAIN_SHARE = 0.66
_AT_ONCE = 512  # examples at most, in parts of equal size: normalisation in training needs two

Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Suited:
    """How well earlier tasks suit a new one.

    Attributes:
        accuracies: k-NN accuracy on the features of each earlier task, in their order.
        random_mask: The same for a random mask.
        accepted: Names of the tasks whose features are better.
        start: Names of the tasks that the new mask starts from.
        nearest: The one of them whose features are best; None if there is none.
    """

    accuracies: tuple[float, ...]
    random_mask: float
    accepted: tuple[str, ...]
    start: tuple[str, ...]
    nearest: str | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Suited:
        """Make it anew from its fields, of which JSON made lists."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields)


def find_suited(
    network: TaskNetwork, examples: Examples, *, settings: LearnSettings, generator: torch.Generator
) -> Suited:
    """Compare the features of all earlier tasks on examples of the new one.

    Args:
        network: The network; its last task is the new one, with random scores. Left as it is.
        examples: Examples of the new task.
        settings: What decides the comparison: `transfer`, `neighbours`, `transfer_samples`.
        generator: Source of the choice of examples.

    Returns:
        Accuracies and choice; without two examples of the new task to compare on, nothing is accepted.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    places = torch.randperm(count(examples), generator=generator)[: settings.transfer_samples]
    inputs, labels = take(examples, places)
    *earlier, new = network.tasks.values
    if len(places) < 2:
        return Suited((0.0,) * len(earlier), 0.0, (), (), None)

    def right(features: Tensor) -> Right:
        return _knn_right(features, labels, neighbours=settings.neighbours)

    seen = [right(_features(network, task, inputs)) for task in earlier]
    random_mask = right(_random_features(network, new, inputs))
    z = NormalDist().inv_cdf(1 - _LEVEL / max(1, len(earlier)))
    better = [_is_better(found, random_mask, z) for found in seen]
    accuracies = tuple(float(found.mean()) for found in seen)
    accepted = tuple(task for task, is_better in zip(earlier, better, strict=True) if is_better)
    nearest = max(accepted, key=lambda task: accuracies[earlier.index(task)], default=None)
    start = (nearest,) if settings.transfer == "best" and nearest is not None else accepted
    return Suited(accuracies, float(random_mask.mean()), accepted, start, nearest)


def _is_better(found: Right, other: Right, z: float) -> bool:
    """Tell whether one classifier is right more often than another on the same examples, beyond chance."""
    difference = found.astype(np.float64) - other
    return bool(difference.mean() > z * difference.std() / math.sqrt(len(difference)))


def _knn_right(features: Tensor, labels: Tensor, *, neighbours: int) -> Right:
    """Tell on which of the last third of the examples nearest neighbours among the others are right."""
    try:
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError:
        raise MissingExtraError("scikit-learn", extra="train") from None
    split = max(1, round(len(features) * _TRAIN_SHARE))
    if split >= len(features):
        return np.zeros(1, dtype=bool)
    values, classes = features.cpu().numpy(), labels.cpu().numpy()
    knn = KNeighborsClassifier(min(neighbours, split)).fit(values[:split], classes[:split])
    right: Right = knn.predict(values[split:]) == classes[split:]
    return right


def _features(network: TaskNetwork, task: str, inputs: Tensor) -> Tensor:
    with evaluation(network.network), network.network.configured({network.tasks.name: task}):
        return _before_head(network, inputs)


def _random_features(network: TaskNetwork, new: str, inputs: Tensor) -> Tensor:
    """Return features of the new task's random mask, normalised by statistics of the inputs themselves."""
    norms = [part for part in network.parts.values() if isinstance(part, OwnPart) and not part.is_head]
    kept = [copy.deepcopy(part.parts[-1].state_dict()) for part in norms]
    with evaluation(network.network):
        for part in norms:
            part.parts[-1].train()
        try:
            with network.network.configured({network.tasks.name: new}):
                return _before_head(network, inputs)
        finally:
            for part, state in zip(norms, kept, strict=True):
                part.parts[-1].load_state_dict(state)


def _before_head(network: TaskNetwork, inputs: Tensor) -> Tensor:
    """Return what the head is given, flat, `[examples, features]`."""
    found: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found.append(arguments[0].reshape(len(arguments[0]), -1))

    device = network.head_device
    handle = network.head.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            for part in inputs.tensor_split(math.ceil(len(inputs) / _AT_ONCE)):
                network.network(part.to(device))
    finally:
        handle.remove()
    return torch.cat(found)


def start_parts_(network: TaskNetwork, task: str) -> None:
    """Give the last task the normalisation and the biases of an earlier one, but for those of heads.

    Args:
        network: The network, whose last task is new; changed.
        task: Name of the earlier task.
    """
    number = network.tasks.number_of(task)
    for part in network.parts.values():
        if not part.is_head:
            part.load_task_state(part.task_state(number))


def start_scores(
    network: TaskNetwork, start: Sequence[str], fresh: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Draw scores whose largest are those of most earlier masks; nothing of the earlier tasks is changed.

    Args:
        network: The network.
        start: Earlier tasks to start from; none for scores that are random throughout.
        fresh: Draws random scores like a tensor.

    Returns:
        Scores by path of the layer: magnitudes ordered by the number of masks that hold the weight, at random
        among equals, and spread evenly as fresh ones are. The mask's stand above the others by no margin:
        with one, fewer free weights find their way in, and the task is learned less well.
    """
    scores = {path: fresh(layer.pool) for path, layer in network.layers.items()}
    if not start:
        return scores
    numbers = [network.tasks.number_of(task) for task in start]
    for path, layer in network.layers.items():
        drawn = scores[path]
        votes = torch.stack([layer.mask(number) for number in numbers]).sum(0)
        largest = drawn.abs().max()
        order = torch.argsort((votes + drawn.abs() / (2 * largest)).reshape(-1))
        magnitudes = torch.empty_like(drawn).reshape(-1)
        ranks = torch.arange(1, len(order) + 1, device=drawn.device).to(drawn) / len(order)
        magnitudes[order] = largest * ranks
        scores[path] = torch.copysign(magnitudes.reshape(drawn.shape), drawn)
    return scores
