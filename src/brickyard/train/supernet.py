"""Training of a supernet whose subnets are searched: the sandwich rule with in-place distillation.

Every step trains the largest config, the smallest and a few random ones on the same batch (universally
slimmable networks, arXiv 1903.05134); all but the largest learn from its scores as well as from the labels.
Optionally kinds of decisions become elastic one after the other, as in progressive shrinking (once-for-all,
arXiv 1908.09791, section 3.3). What differs: the smaller configs mix labels and scores rather than learn from
scores alone, a kind opens to all its values at once, and all stages share one schedule of the learning rate.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.config import Config
from brickyard.core.decision import Decision
from brickyard.core.errors import TrainError
from brickyard.core.network import Network
from brickyard.core.space import HEAD_SUBSETS, Space
from brickyard.train.checkpoint import resumed_steps

NO_LABEL = -100
"""Label of what is not to be learnt, such as padding."""


@dataclass(frozen=True, kw_only=True)
class SupernetSettings:
    """Everything that decides the training of a supernet besides network and data.

    Attributes:
        steps: Optimizer steps.
        batch_size: Examples per step.
        learning_rate: Peak rate of AdamW.
        warmup: Share of the steps over which the rate rises; then it falls to zero as a cosine.
        weight_decay: Of tensors with two or more axes; none for biases and normalisation.
        clip: Largest gradient norm.
        random_configs: Configs drawn in each step beside the largest and the smallest.
        distill: Share of the largest config's scores in the goal of the others, in [0, 1]; the rest is
            labels.
        label_smoothing: Of the labels.
        widen: Kinds of decisions, each the last part of their names such as `kernel` or `depth`, in the order
            in which they become elastic; before, they are at their largest. All others are elastic from the
            start.
        widen_share: Share of the steps after which all are elastic; the kinds follow each other in equal
            parts of it, and none of them is elastic in the first.
        precision: `fp32`, or `bf16` for mixed precision.
        seed: Seed of weights and draws.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 1e-2
    clip: float = 1.0
    random_configs: int = 2
    distill: float = 0.5
    label_smoothing: float = 0.1
    widen: tuple[str, ...] = ()
    widen_share: float = 0.5
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            TrainError: A value is out of range.
        """
        for name in ("steps", "batch_size", "learning_rate", "clip", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise TrainError(f"{name} = {getattr(self, name)} must be above 0")
        for name in ("random_configs", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise TrainError(f"{name} = {getattr(self, name)} must not be negative")
        for name in ("distill", "warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainError(f"{name} = {getattr(self, name)} must lie in [0, 1]")
        if not 0 < self.widen_share <= 1:
            raise TrainError(f"widen_share = {self.widen_share} must lie in (0, 1]")
        if len(set(self.widen)) < len(self.widen):
            raise TrainError(f"widen = {','.join(self.widen)} names a kind twice; name each once")
        if self.precision not in ("fp32", "bf16"):
            raise TrainError(f"precision = {self.precision!r} must be 'fp32' or 'bf16'")


class TrainBatch(NamedTuple):
    """The examples of a step.

    Attributes:
        inputs: The arguments of the network.
        labels: Class of each row of its scores, `[...]` for scores `[..., classes]`; `NO_LABEL` where nothing
            is to be learnt.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor


class TrainBatches(Protocol):
    """Gives the examples of a step."""

    def __call__(self, step: int, rng: np.random.Generator, /) -> TrainBatch:
        """Return the examples, decided by step and generator alone."""


@dataclass(frozen=True)
class SupernetRecord:
    """Means over the steps since the last record, of the largest and of the smallest config.

    The loss is the cross entropy of the labels, the accuracy the share of right answers (for texts that are
    written: of tokens). `configs` is the mean number of different configs in a step.
    """

    step: int
    loss: float
    accuracy: float
    smallest_loss: float
    smallest_accuracy: float
    configs: float
    seconds: float


def warm_cosine(step: int, *, steps: int, warmup: float) -> float:
    """Return the factor of the learning rate: a linear rise, then a cosine down to zero.

    Args:
        step: Steps done.
        steps: Steps of the run.
        warmup: Share of the rise, in [0, 1].
    """
    progress = (step + 0.5) / steps
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def kind_of(decision: Decision) -> str:
    """Return the kind of a decision: the last part of its name."""
    return decision.name.rsplit(".", 1)[-1]


def searched(space: Space) -> Space:
    """Return the decisions that a search makes: all but those of the head, which the task makes."""
    return Space(decision for decision in space if decision.name not in HEAD_SUBSETS)


class Sandwich:
    """Chooses the configs of a step: the largest, the smallest and random ones, no two alike.

    Subsets of the head stay whole, since a task decides them.

    Args:
        space: Space of the network.
        settings: The run.

    Raises:
        TrainError: A kind that is to widen is not in the space.
    """

    def __init__(self, space: Space, settings: SupernetSettings) -> None:
        self.space, self.settings = space, settings
        kinds = sorted({kind_of(decision) for decision in searched(space)})
        unknown = [kind for kind in settings.widen if kind not in kinds]
        if unknown:
            raise TrainError(
                f"widen names {unknown[0]!r}; kinds of decisions of this network: {', '.join(kinds)}"
            )

    def frozen(self, step: int) -> tuple[str, ...]:
        """Return the kinds that are at their largest in a step."""
        widen = self.settings.widen
        part = self.settings.widen_share * self.settings.steps / (len(widen) + 1)
        return widen[min(len(widen), int(step / part)) :]

    def __call__(self, step: int) -> list[Config]:
        """Return the configs of a step, the largest first, the smallest last."""
        held, largest = self.frozen(step), self.space.largest()
        free = [decision for decision in searched(self.space) if kind_of(decision) not in held]
        # Seeded by text: that does not depend on the process.
        rng = random.Random(f"{self.settings.seed} {step}")
        drawn = [
            largest.replace({decision.name: decision.sample(rng) for decision in free})
            for _ in range(self.settings.random_configs)
        ]
        smallest = largest.replace({decision.name: decision.smallest() for decision in free})
        between = [config for config in dict.fromkeys(drawn) if config not in (largest, smallest)]
        return [largest, *between, *([smallest] if smallest != largest else [])]


class SupernetTraining:
    """A run that can be stopped at any time and resumed, bit for bit.

    Args:
        network: The supernet, changed in place. Its scores are `[..., classes]`.
        batches: Gives examples.
        settings: The run.
        folder: Where the checkpoint lies; None for none.
        identity: What else decides the run, JSON values; a checkpoint with another is refused.

    Raises:
        TrainError: A kind that is to widen is not in the network's space.
    """

    def __init__(
        self,
        network: Network,
        *,
        batches: TrainBatches,
        settings: SupernetSettings,
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.batches, self.settings = network, batches, settings
        self.path = None if folder is None else folder / "supernet.safetensors"
        self.identity = {
            **(identity or {}),
            "builder": network.builder,
            "arguments": network.arguments,
            **asdict(settings),
        }
        self.device = next(network.parameters()).device
        self.configs = Sandwich(network.space, settings)
        weights = [p for p in network.parameters() if p.dim() > 1]
        others = [p for p in network.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
        )

    def run(self, *, record_every: int = 50) -> Iterator[SupernetRecord]:
        """Train to the end, or from where a checkpoint left off.

        Args:
            record_every: Steps per record.

        Yields:
            Means over the steps since the last record.

        Raises:
            TrainError: The loss is not finite (the last checkpoint stays), or the checkpoint belongs to other
                settings.
        """
        self.network.train()
        for step, means, seconds in resumed_steps(
            self._one_step,
            path=self.path,
            modules={"network": self.network},
            optimizer=self.optimizer,
            settings=self.identity,
            steps=self.settings.steps,
            checkpoint_every=self.settings.checkpoint_every,
            record_every=record_every,
        ):
            loss, accuracy, smallest_loss, smallest_accuracy, configs = means
            yield SupernetRecord(
                step=step,
                loss=loss,
                accuracy=accuracy,
                smallest_loss=smallest_loss,
                smallest_accuracy=smallest_accuracy,
                configs=configs,
                seconds=seconds,
            )
        self.network.configure(self.network.space.largest())
        self.network.eval()

    def _one_step(self, step: int) -> tuple[float, ...]:
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step])
        torch.manual_seed(int(rng.integers(2**62)))
        batch = self.batches(step, rng)
        inputs = tuple(part.to(self.device) for part in batch.inputs)
        labels = batch.labels.to(self.device).flatten()
        kept = labels != NO_LABEL
        labels = labels[kept]
        configs = self.configs(step)
        self.optimizer.zero_grad(set_to_none=True)
        teacher: Tensor | None = None
        shown: list[tuple[float, float]] = []
        for config in configs:
            self.network.configure(config)
            with self._autocast():
                scores = self.network(*inputs)
            scores = scores.flatten(0, -2)[kept].float()
            loss, plain = self._loss(scores, labels, teacher)
            (loss / len(configs)).backward()
            if teacher is None:
                teacher = scores.detach().softmax(-1)
            shown.append((plain, float((scores.argmax(-1) == labels).float().mean())))
            if not math.isfinite(plain):
                raise TrainError(
                    f"the loss is {plain} at step {step}; lower the learning rate and start anew"
                )
        rate = settings.learning_rate * warm_cosine(step, steps=settings.steps, warmup=settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        return (*shown[0], *shown[-1], float(len(configs)))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _loss(self, scores: Tensor, labels: Tensor, teacher: Tensor | None) -> tuple[Tensor, float]:
        """Return what is made smaller, and the cross entropy of the labels without smoothing."""
        share = 0.0 if teacher is None else self.settings.distill
        smoothing = self.settings.label_smoothing
        logarithms = scores.log_softmax(-1)
        plain = F.nll_loss(logarithms, labels)
        loss = (1 - share) * (1 - smoothing) * plain
        if smoothing > 0 and share < 1:
            loss = loss - (1 - share) * smoothing * logarithms.mean()
        if teacher is not None and share > 0:
            loss = loss - share * (teacher * logarithms).sum(-1).mean()
        return loss, float(plain.detach())
