"""Methods that learn a stream of tasks: ours and what it is compared with.

All have the same network, the same epochs for each task and Adam with a one-cycle schedule. Either one output
layer serves all tasks, or each has its own, as the network says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from _continual_nets import LENET, Net
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.bricks.calibration import calibrate_
from brickyard.continual import Learner, LearnSettings, Method, StreamTask
from brickyard.continual.examples import Examples, epoch, steps_of
from brickyard.continual.optimizer import one_cycle
from brickyard.continual.settings import Transfer

BATCH = 64
EXSSNET, SSNET, SUPSUP = "ExSSNeT", "SSNeT", "SupSup"
WITH_KKT, SUPSUP_KKT = "ExSSNeT with KKT", "SupSup with KKT"
JOINT, JOINT_KKT = "joint ExSSNeT", "joint ExSSNeT with KKT"
PACKNET, INDEPENDENT, NAIVE = "PackNet", "independent nets", "naive fine-tuning"


@dataclass(frozen=True)
class Rates:
    """Peak learning rates.

    Attributes:
        mask: Of scores.
        weight: Of weights.
        own: Of own heads, normalisation and biases; None for that of weights.
    """

    mask: float
    weight: float
    own: float | None = None

    @classmethod
    def parse(cls, text: str) -> Rates:
        """Read what `str` gives."""
        return cls(*map(float, text.split()))

    def __str__(self) -> str:
        """Return them as rows keep them."""
        return " ".join(f"{rate:g}" for rate in (self.mask, self.weight, self.own) if rate is not None)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every method is told.

    Attributes:
        density: Share of the weights that a task may use.
        num_tasks: Tasks that will come, which PackNet needs to know.
        epochs: Passes over the examples of each task, all phases together.
        seed: Seed of weights and order of the examples.
        rates: Learning rates.
        net: The network.
    """

    density: float
    num_tasks: int
    epochs: int
    seed: int
    rates: Rates
    net: Net = LENET


class Masks:
    """ExSSNeT, SSNeT and SupSup of this package.

    Args:
        plan: What every method is told.
        arm: Which of them.
        transfer: Where masks start from.
        joint: Whether weights are trained with the masks in all epochs, in place of after them in half.
    """

    def __init__(self, plan: Plan, arm: str, *, transfer: Transfer = "off", joint: bool = False) -> None:
        self.network = plan.net.masked(density=plan.density, seed=plan.seed)
        weight_epochs = 0 if joint or arm == "supsup" else plan.epochs // 2
        self.learner = Learner(
            self.network,
            settings=LearnSettings(
                arm=arm,  # type: ignore[arg-type]
                transfer=transfer,
                joint=joint,
                mask_epochs=plan.epochs - weight_epochs,
                weight_epochs=weight_epochs,
                batch_size=BATCH,
                mask_rate=plan.rates.mask,
                weight_rate=plan.rates.weight,
                own_rate=plan.rates.own,
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
    norms: bool = True,
) -> None:
    """Train a plain module, and leave it in evaluation mode.

    Args:
        module: The module, changed in place.
        examples: Pairs of an input and a class index.
        epochs: Passes over them.
        rate: Peak learning rate.
        seed: Seed of their order.
        free: Which entries of the parameters may change, by name; None for all.
        norms: Whether statistics of normalisation are estimated; else they stay.
    """
    named = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    optimizer = torch.optim.Adam(named.values(), rate, fused=True)
    schedule = one_cycle(optimizer, epochs * steps_of(examples, BATCH))
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not norms:
            part.eval()
    for _ in range(epochs):
        for inputs, labels in epoch(examples, BATCH, generator):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(module(inputs), labels).backward()
            for name, parameter in named.items() if free is not None else ():
                assert free is not None
                assert parameter.grad is not None
                parameter.grad *= free[name]
            optimizer.step()
            schedule.step()
    module.eval()
    if norms and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        full = max(1, len(examples) // BATCH)  # type: ignore[arg-type]
        calibrate_(module, (inputs for inputs, _ in islice(epoch(examples, BATCH, generator), full)))


def _seeded(plan: Plan, number: int) -> nn.Module:
    torch.manual_seed(int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0]))
    return plan.net.build(plan.net.num_classes)


class _Heads:
    """The output layers of one module: one for all tasks, or one for each.

    Args:
        plan: What every method is told.
        module: The module, whose output layer is changed.
    """

    def __init__(self, plan: Plan, module: nn.Module) -> None:
        self.plan, self.module = plan, module
        self.path = [path for path, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
        self.classes: dict[str, int] = {}
        self.heads: dict[str, nn.Module] = {}

    def add(self, task: StreamTask) -> None:
        """Give a new task its output layer, drawn anew, and use it."""
        number = len(self.classes)
        self.classes[task.name] = task.num_classes
        old = self.module.get_submodule(self.path)
        assert isinstance(old, nn.Linear)
        if self.plan.net.heads == "shared":
            self.heads[task.name] = old
        else:
            seed = int(np.random.SeedSequence([self.plan.seed, number, 1]).generate_state(1)[0])
            torch.manual_seed(seed)
            bias = old.bias is not None
            self.heads[task.name] = nn.Linear(old.in_features, task.num_classes, bias=bias)
        self.use(task.name)

    def use(self, name: str) -> None:
        """Use the output layer of a task."""
        self.module.set_submodule(self.path, self.heads[name])

    def scores(self, module: nn.Module, name: str, inputs: Tensor) -> Tensor:
        """Return the scores of a task's classes by a module with its output layer."""
        with torch.no_grad():
            found = torch.cat([module(part) for part in inputs.split(512)])
        return found[:, : self.classes[name]]


class Independent:
    """A dense network for each task: what tasks reach alone, with nothing shared."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.parts = plan, dict[str, _Heads]()

    def learn(self, task: StreamTask) -> None:
        """Train a fresh network."""
        number = len(self.parts)
        self.parts[task.name] = part = _Heads(self.plan, _seeded(self.plan, number))
        part.add(task)
        seed = (self.plan.seed, number)
        fit(part.module, task.train, epochs=self.plan.epochs, rate=self.plan.rates.weight, seed=seed)

    def scores(self, name: str, inputs: Tensor) -> Tensor:
        """Return the scores of the task's network."""
        return self.parts[name].scores(self.parts[name].module, name, inputs)


class Naive:
    """One dense network that is trained on one task after the other."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.part = plan, _Heads(plan, _seeded(plan, 0))

    def learn(self, task: StreamTask) -> None:
        """Train on."""
        seed = (self.plan.seed, len(self.part.classes))
        self.part.add(task)
        fit(self.part.module, task.train, epochs=self.plan.epochs, rate=self.plan.rates.weight, seed=seed)

    def scores(self, name: str, inputs: Tensor) -> Tensor:
        """Return the scores of the one network."""
        self.part.use(name)
        return self.part.scores(self.part.module, name, inputs)


class PackNet:
    """Prune, retrain, freeze (arXiv 1711.05769): a task trains the free weights and keeps the largest.

    Two thirds of the epochs come before pruning. A task keeps `density` of each layer, or as much as lets
    every task to come keep the same, if that is less; it uses the weights of earlier tasks as they are.
    Biases and normalisation are those of the first task, as in the paper; output layers of a task's own are
    not pruned.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.part = plan, _Heads(plan, _seeded(plan, 0))
        own_head = plan.net.heads == "own"
        self.owner = {
            name: torch.full(tensor.shape, -1)
            for name, tensor in self.part.module.named_parameters()
            if tensor.requires_grad
            and tensor.dim() > 1
            and not (own_head and name.startswith(f"{self.part.path}."))
        }

    def learn(self, task: StreamTask) -> None:
        """Train what is free, keep the largest of it, train that again."""
        plan, number = self.plan, len(self.part.classes)
        self.part.add(task)
        last = max(1, plan.epochs // 3)
        free = {name: owner == -1 for name, owner in self.owner.items()}
        self._fit(task, free, number, epochs=plan.epochs - last, phase=0)
        share = min(plan.density, 1 / plan.num_tasks)
        tensors = dict(self.part.module.named_parameters())
        for name, owner in self.owner.items():
            tensor = tensors[name]
            keep = min(int(free[name].sum()), max(1, round(share * tensor.numel())))
            places = torch.where(free[name], tensor.detach().abs(), -1).reshape(-1).topk(keep).indices
            owner.view(-1)[places] = number
            tensor.data[owner == -1] = 0
        own = {name: owner == number for name, owner in self.owner.items()}
        self._fit(task, own, number, epochs=last, phase=1)

    def _fit(
        self, task: StreamTask, free: Mapping[str, Tensor], number: int, *, epochs: int, phase: int
    ) -> None:
        rest = {
            name: torch.tensor(number == 0 or (name.startswith(f"{self.part.path}.")))
            for name, _ in self.part.module.named_parameters()
        }
        fit(
            self.part.module,
            task.train,
            epochs=epochs,
            rate=self.plan.rates.weight,
            seed=(self.plan.seed, number, phase),
            free={**rest, **free},
            norms=number == 0,
        )

    def scores(self, name: str, inputs: Tensor) -> Tensor:
        """Return the scores by the weights of the task and of those before it."""
        number = list(self.part.classes).index(name)
        self.part.use(name)
        module = copy.deepcopy(self.part.module)
        tensors = dict(module.named_parameters())
        for path, owner in self.owner.items():
            tensors[path].data[(owner == -1) | (owner > number)] = 0
        return self.part.scores(module, name, inputs)


ARMS: dict[str, Callable[[Plan], Method]] = {
    EXSSNET: lambda plan: Masks(plan, "exssnet"),
    JOINT: lambda plan: Masks(plan, "exssnet", joint=True),
    JOINT_KKT: lambda plan: Masks(plan, "exssnet", joint=True, transfer="best"),
    WITH_KKT: lambda plan: Masks(plan, "exssnet", transfer="best"),
    SSNET: lambda plan: Masks(plan, "ssnet"),
    SUPSUP: lambda plan: Masks(plan, "supsup"),
    SUPSUP_KKT: lambda plan: Masks(plan, "supsup", transfer="best"),
    PACKNET: PackNet,
    INDEPENDENT: Independent,
    NAIVE: Naive,
}
SAME_RATES = {WITH_KKT: EXSSNET, SUPSUP_KKT: SUPSUP, JOINT_KKT: JOINT}
"""Methods that take the learning rates of another one, where none were chosen for them."""
DENSE = (INDEPENDENT, NAIVE)
"""Methods that use all weights, whatever the density."""

MASK_RATES, WEIGHT_RATES, DENSE_RATES = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2), (3e-4, 1e-3, 3e-3, 1e-2)


def rates(
    arm: str,
    net: Net = LENET,
    *,
    masks: Sequence[float] = MASK_RATES,
    weights: Sequence[float] = WEIGHT_RATES,
    dense: Sequence[float] = DENSE_RATES,
) -> list[Rates]:
    """Return the learning rates from which validation picks.

    Own heads and normalisation learn by the rate of weights, also where masks are all that is learned else.

    Args:
        arm: The method.
        net: The network.
        masks: Rates of scores.
        weights: Rates of weights.
        dense: Rates of weights where all are trained.
    """
    if arm == SUPSUP and net.heads == "shared":
        return [Rates(mask, weights[0]) for mask in masks]
    if arm in (EXSSNET, JOINT, SSNET, SUPSUP):
        return [Rates(mask, weight) for mask in masks for weight in weights]
    return [Rates(masks[0], weight) for weight in dense]


BESIDE_SHARES = (0.03, 0.1, 0.3, 1.0)
"""Rates of weights that are trained along with masks, over those of heads."""


def rates_beside(masks_alone: Rates) -> list[Rates]:
    """Return the rates from which validation picks for weights that are trained along with masks.

    All else learns by the rates that are best for masks alone, which it is an extension of.

    Args:
        masks_alone: The rates of scores and of own parts (as `weight`) that are best without weights.
    """
    return [
        Rates(masks_alone.mask, masks_alone.weight * share, masks_alone.weight) for share in BESIDE_SHARES
    ]
