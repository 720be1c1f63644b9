"""Methods that learn a stream of tasks on LeNet-300-100 without biases: ours and what it is compared with.

All have the same epochs for each task, Adam with a one-cycle schedule, and one output layer for all tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.continual import Learner, LearnSettings, Method, StreamTask, masked
from brickyard.continual.examples import Examples, epoch, steps_of
from brickyard.continual.learner import one_cycle

BATCH = 64
EXSSNET, SSNET, SUPSUP = "ExSSNeT", "SSNeT", "SupSup"
PACKNET, INDEPENDENT, NAIVE = "PackNet", "independent nets", "naive fine-tuning"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every method is told.

    Attributes:
        density: Share of the weights that a task may use.
        num_tasks: Tasks that will come, which PackNet needs to know.
        epochs: Passes over the examples of each task, all phases together.
        seed: Seed of weights and order of the examples.
        mask_rate: Learning rate of scores.
        weight_rate: Learning rate of weights.
    """

    density: float
    num_tasks: int
    epochs: int
    seed: int
    mask_rate: float
    weight_rate: float


def lenet(num_classes: int = 10) -> nn.Sequential:
    """Build LeNet-300-100 without biases."""
    return nn.Sequential(
        nn.Linear(784, 300, bias=False),
        nn.ReLU(),
        nn.Linear(300, 100, bias=False),
        nn.ReLU(),
        nn.Linear(100, num_classes, bias=False),
    )


class Masks:
    """ExSSNeT, SSNeT and SupSup of this package.

    Args:
        plan: What every method is told.
        arm: Which of them.
    """

    def __init__(self, plan: Plan, arm: str) -> None:
        self.network = masked(lenet(), input_shape=(784,), density=plan.density, seed=plan.seed)
        weight_epochs = 0 if arm == "supsup" else plan.epochs // 2
        self.learner = Learner(
            self.network,
            settings=LearnSettings(
                arm=arm,  # type: ignore[arg-type]
                mask_epochs=plan.epochs - weight_epochs,
                weight_epochs=weight_epochs,
                batch_size=BATCH,
                mask_rate=plan.mask_rate,
                weight_rate=plan.weight_rate,
                seed=plan.seed,
            ),
        )

    def learn(self, task: StreamTask) -> None:
        """Learn a task."""
        self.learner.learn(task.name, task.train, num_classes=task.num_classes)

    def scores(self, name: str, inputs: Tensor) -> Tensor:
        """Return the scores of a task's network."""
        return self.network.scores(name, inputs)


def fit(
    module: nn.Module,
    examples: Examples,
    *,
    epochs: int,
    rate: float,
    seed: Sequence[int],
    free: Mapping[str, Tensor] | None = None,
) -> None:
    """Train a plain module.

    Args:
        module: The module, changed in place.
        examples: Pairs of an input and a class index.
        epochs: Passes over them.
        rate: Peak learning rate.
        seed: Seed of their order.
        free: Which entries of the parameters may change, by name; None for all.
    """
    optimizer = torch.optim.Adam(module.parameters(), rate, fused=True)
    schedule = one_cycle(optimizer, epochs * steps_of(examples, BATCH))
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    for _ in range(epochs):
        for inputs, labels in epoch(examples, BATCH, generator):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(module(inputs), labels).backward()
            for name, parameter in module.named_parameters() if free is not None else ():
                assert free is not None
                assert parameter.grad is not None
                parameter.grad *= free[name]
            optimizer.step()
            schedule.step()


def _seeded(plan: Plan, number: int) -> nn.Sequential:
    torch.manual_seed(int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0]))
    return lenet()


class Independent:
    """A dense network for each task: what tasks reach alone, with nothing shared."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.modules = plan, dict[str, nn.Module]()

    def learn(self, task: StreamTask) -> None:
        """Train a fresh network."""
        number = len(self.modules)
        self.modules[task.name] = module = _seeded(self.plan, number)
        seed = (self.plan.seed, number)
        fit(module, task.train, epochs=self.plan.epochs, rate=self.plan.weight_rate, seed=seed)

    def scores(self, name: str, inputs: Tensor) -> Tensor:
        """Return the scores of the task's network."""
        with torch.no_grad():
            return self.modules[name](inputs)


class Naive:
    """One dense network that is trained on one task after the other."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.module, self.done = plan, _seeded(plan, 0), 0

    def learn(self, task: StreamTask) -> None:
        """Train on."""
        seed = (self.plan.seed, self.done)
        fit(self.module, task.train, epochs=self.plan.epochs, rate=self.plan.weight_rate, seed=seed)
        self.done += 1

    def scores(self, name: str, inputs: Tensor) -> Tensor:
        """Return the scores of the one network."""
        with torch.no_grad():
            return self.module(inputs)


class PackNet:
    """Prune, retrain, freeze (arXiv 1711.05769): a task trains the free weights and keeps the largest.

    Two thirds of the epochs come before pruning. A task keeps `density` of each layer, or as much as lets
    every task to come keep the same, if that is less; it uses the weights of earlier tasks as they are.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.module = plan, _seeded(plan, 0)
        self.owner = {name: torch.full(tensor.shape, -1) for name, tensor in self.module.named_parameters()}
        self.names: list[str] = []

    def learn(self, task: StreamTask) -> None:
        """Train what is free, keep the largest of it, train that again."""
        plan, number = self.plan, len(self.names)
        last = max(1, plan.epochs // 3)
        free = {name: owner == -1 for name, owner in self.owner.items()}
        self._fit(task, free, epochs=plan.epochs - last, phase=0)
        share = min(plan.density, 1 / plan.num_tasks)
        for name, tensor in self.module.named_parameters():
            keep = min(int(free[name].sum()), max(1, round(share * tensor.numel())))
            places = torch.where(free[name], tensor.detach().abs(), -1).reshape(-1).topk(keep).indices
            self.owner[name].view(-1)[places] = number
            tensor.data[self.owner[name] == -1] = 0
        self._fit(task, {name: owner == number for name, owner in self.owner.items()}, epochs=last, phase=1)
        self.names.append(task.name)

    def _fit(self, task: StreamTask, free: Mapping[str, Tensor], *, epochs: int, phase: int) -> None:
        seed = (self.plan.seed, len(self.names), phase)
        fit(self.module, task.train, epochs=epochs, rate=self.plan.weight_rate, seed=seed, free=free)

    def scores(self, name: str, inputs: Tensor) -> Tensor:
        """Return the scores by the weights of the task and of those before it."""
        number = self.names.index(name)
        module = copy.deepcopy(self.module)
        for path, tensor in module.named_parameters():
            owner = self.owner[path]
            tensor.data[(owner == -1) | (owner > number)] = 0
        with torch.no_grad():
            return module(inputs)


ARMS: dict[str, Callable[[Plan], Method]] = {
    EXSSNET: lambda plan: Masks(plan, "exssnet"),
    SSNET: lambda plan: Masks(plan, "ssnet"),
    SUPSUP: lambda plan: Masks(plan, "supsup"),
    PACKNET: PackNet,
    INDEPENDENT: Independent,
    NAIVE: Naive,
}
DENSE = (INDEPENDENT, NAIVE)
"""Methods that use all weights, whatever the density."""

MASK_RATES, WEIGHT_RATES, DENSE_RATES = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2), (3e-4, 1e-3, 3e-3, 1e-2)


def rates(arm: str) -> list[tuple[float, float]]:
    """Return the learning rates of scores and of weights from which validation picks."""
    if arm == SUPSUP:
        return [(rate, WEIGHT_RATES[0]) for rate in MASK_RATES]
    if arm in (EXSSNET, SSNET):
        return [(mask, weight) for mask in MASK_RATES for weight in WEIGHT_RATES]
    return [(MASK_RATES[0], weight) for weight in DENSE_RATES]
