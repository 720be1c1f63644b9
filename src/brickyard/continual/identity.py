"""Which task inputs belong to, inferred without labels (SupSup, arXiv 2006.14769, section 3.3).

All masks are mixed with weights that add up to 1; the right mask is the one whose weight, if raised, would
make the scores surer: the gradient of their entropy with respect to the weights tells. One-shot takes the
steepest descent at equal weights; binary search drops the worse half of the tasks again and again. Biases
and normalisation, which belong to tasks here, are mixed with the same weights. Superfluous outputs, scores of
classes that never occur, make both surer (section 3.4 there): learn tasks with several times as many classes
as there are. The surest way, whose time grows with the number of tasks, is there too: the entropy of each
task's own scores.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from brickyard.continual.network import TaskNetwork, evaluation
from brickyard.core.errors import ConfigError, DataError

METHODS = ("one-shot", "binary", "each")


def infer_task(
    network: TaskNetwork, inputs: Tensor, *, method: Literal["one-shot", "binary", "each"] = "binary"
) -> str:
    """Infer the task of inputs.

    Args:
        network: A network with tasks of equally many classes; left as it is.
        inputs: Inputs of one task `[samples, ...]`; the more, the surer.
        method: `one-shot`: one gradient through the mixture of all masks; `binary`: about log2(tasks)
            gradients through ever fewer; `each`: a forward pass for each task.

    Returns:
        The name of the task.

    Raises:
        ConfigError: There are no tasks, their numbers of classes differ, or the method is unknown.
        DataError: There are no inputs.
    """
    if method not in METHODS:
        raise ConfigError(
            f"method = {method!r} is not allowed; allowed: {', '.join(METHODS)}", path="method", value=method
        )
    classes = sorted({record.num_classes for record in network.records})
    if len(classes) != 1:
        raise ConfigError(
            f"tasks have {classes or 'no'} classes; inferring needs tasks of equally many", path="network"
        )
    if inputs.dim() < 1 or not inputs.numel():
        raise DataError(f"inputs of shape {tuple(inputs.shape)} came; the task follows from at least one")
    inputs = inputs.to(network.head_device)
    names = [record.name for record in network.records]
    if method == "each":
        return min(names, key=lambda name: float(_entropy(network.scores(name, inputs))))
    candidates = list(range(len(names)))
    while len(candidates) > 1:
        gradients = entropy_gradients(network, inputs, candidates)
        kept = 1 if method == "one-shot" else (len(candidates) + 1) // 2
        candidates = sorted(candidates, key=lambda number: float(gradients[number]))[:kept]
    return names[candidates[0]]


def entropy_gradients(network: TaskNetwork, inputs: Tensor, candidates: list[int]) -> Tensor:
    """Return how the mean entropy of the scores changes with the weight of each task in an equal mixture.

    Args:
        network: The network; left as it is.
        inputs: Inputs `[samples, ...]`.
        candidates: Numbers of the tasks in the mixture.

    Returns:
        Gradients `[tasks]`, 0 for tasks that are not in the mixture.
    """
    like = next(network.head.parameters())
    shares = torch.zeros(len(network.records), device=like.device, dtype=like.dtype)
    shares[candidates] = 1 / len(candidates)
    shares.requires_grad_(True)
    network.tasks.mixture = shares
    try:
        with evaluation(network.network), torch.enable_grad():
            (gradients,) = torch.autograd.grad(_entropy(network.network(inputs)), shares)
    finally:
        network.tasks.mixture = None
    return gradients


def _entropy(scores: Tensor) -> Tensor:
    """Return the mean entropy of scores `[samples, classes]`."""
    logs = scores.log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()
