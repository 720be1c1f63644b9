"""Joint training of a supernet and its assembler (an implementation of the idea of arXiv 2308.15003).

Every picture of a batch gets a task and a limit of its own; the assembler turns them into gates that
multiply the activations of the bricks, so one dense forward pass trains many subnets and mixes them
without bias. The limit is annealed from 1 downwards. What is a reconstruction, because only the paper's
abstract is public: the loss, the schedule, the ceiling and the additive assembler.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import TrainError
from brickyard.core.network import Network
from brickyard.core.space import WORDS, block_subsets
from brickyard.train.checkpoint import load_checkpoint, save_checkpoint
from brickyard.train.places import place_loss, score_maps
from brickyard.train.tasks import Questions


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides a joint training run.

    Attributes:
        steps: Optimizer steps.
        batch_size: Pictures per step.
        learning_rate: Peak rate of the supernet, one-cycle schedule.
        assembler_rate: Peak rate of the assembler.
        weight_decay: Of the supernet; the assembler has none.
        clip: Largest gradient norm.
        lowest_limit: Smallest limit that is trained, share of all MACs.
        whole_share: Share of the pictures whose limit is 1.
        anneal: Share of the steps over which the lower end of the limits falls from 1 to `lowest_limit`; 0
            starts there. Where there is a stage 0, only that one anneals.
        penalty: Weight of the hinge on the cost, for discretisers that need one.
        places: Weight of the loss at the places of the objects, where boxes are known and the head scores
            places.
        distill: Weight of the distillation, 0 for none; pictures of limit 1 learn from labels alone. Its
            teacher is the network as it was before training where it came trained, in both stages;
            otherwise, in the joint stage alone, the same network with everything that the task opens at
            limit 1.
        label_smoothing: Of the cross entropy.
        precision: `fp32`, or `bf16` for mixed precision.
        seed: Seed of weights and draws.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = 800
    batch_size: int = 64
    learning_rate: float = 3e-4
    assembler_rate: float = 3e-5
    weight_decay: float = 1e-4
    clip: float = 5.0
    lowest_limit: float = 0.1
    whole_share: float = 0.1
    anneal: float = 0.2
    penalty: float = 10.0
    places: float = 1.0
    distill: float = 0.0
    label_smoothing: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    checkpoint_every: int = 500

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            TrainError: A value is out of range.
        """
        positive = ("steps", "batch_size", "learning_rate", "assembler_rate", "clip", "checkpoint_every")
        for name in positive:
            if not getattr(self, name) > 0:
                raise TrainError(f"{name} = {getattr(self, name)} must be above 0")
        if not 0 < self.lowest_limit <= 1:
            raise TrainError(f"lowest_limit = {self.lowest_limit} must lie in (0, 1]")
        for name in ("anneal", "whole_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainError(f"{name} = {getattr(self, name)} must lie in [0, 1]")
        if self.precision not in ("fp32", "bf16"):
            raise TrainError(f"precision = {self.precision!r} must be 'fp32' or 'bf16'")


@dataclass(frozen=True)
class Batch:
    """The pictures of a step.

    Attributes:
        pictures: Normalised, `[batch, channels, height, width]`.
        objects: Property values or class indices `[batch, objects, groups]`, -1 where there is no object.
        boxes: `[batch, objects, 4]` as x0, y0, x1, y1 in shares of the picture, if known.
    """

    pictures: Tensor
    objects: npt.NDArray[np.int16]
    boxes: npt.NDArray[np.float32] | None = None


class Batches(Protocol):
    """Gives the pictures of a step."""

    def __call__(self, step: int, rng: np.random.Generator, /) -> Batch:
        """Return the pictures of a step, decided by the step and the generator alone."""


Ask = Callable[[npt.NDArray[np.int16], np.random.Generator], Questions]
Gate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From tasks, limits and brick costs to gates and a penalty; made of assembler and discretiser."""


Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a batch of pictures at random."""


class Objective(Protocol):
    """What joint training makes smaller."""

    def __call__(
        self,
        outputs: Any,
        maps: Mapping[str, Tensor],
        batch: Batch,
        questions: Questions,
        teacher: Any,
        /,
        *,
        limits: Tensor,
    ) -> tuple[Tensor, Tensor, float]:
        """Compute the whole loss, the part of it that is shown, and an accuracy in [0, 1].

        Args:
            outputs: What the network gives for the batch.
            maps: What its layers `missing` and `score` give by place, float32; see `score_maps`.
            batch: The batch.
            questions: Its tasks.
            teacher: What the teacher gives; None without distillation.
            limits: The pictures' shares of all MACs, `[batch]`.
        """


@dataclass(frozen=True)
class Record:
    """Means over the steps since the last record; `open_share` is that of the bricks, however dear."""

    step: int
    loss: float
    accuracy: float
    open_share: float
    seconds: float


def identity_of(network: Network) -> dict[str, Any]:
    """Return what a checkpoint must agree on about its network: builder and arguments."""
    return {"builder": network.builder, **network.arguments}


class RecordMeans:
    """Collects values of steps and gives their means."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.sums, self.count, self.started = np.zeros(3), 0, time.perf_counter()

    def add(self, loss: float, accuracy: float, open_share: float) -> None:
        """Add the values of one step."""
        self.sums += np.array([loss, accuracy, open_share])
        self.count += 1

    def take(self, step: int) -> Record:
        """Return the means since the last call and start anew."""
        loss, accuracy, open_share = (float(value) for value in self.sums / self.count)
        record = Record(step, loss, accuracy, open_share, time.perf_counter() - self.started)
        self._reset()
        return record


def one_cycle(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear rise over the first tenth, cosine fall to zero."""
    progress = (step + 0.5) / steps
    return progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def mixed_precision(settings: TrainSettings, device: torch.device) -> AbstractContextManager[Any]:
    """Return what a forward pass runs inside: autocast for `bf16`, nothing for `fp32`."""
    return torch.autocast(device.type, torch.bfloat16) if settings.precision == "bf16" else nullcontext()


def draw_limits(
    settings: TrainSettings, step: int, count: int, rng: np.random.Generator, *, descending: bool = False
) -> npt.NDArray[np.float32]:
    """Draw a limit for each picture: some at 1, some at the lower end, the rest between, more of them low.

    Args:
        settings: The run; the lower end falls from 1 to `lowest_limit` over the first `anneal` of its steps.
        step: Steps done.
        count: Pictures.
        rng: Source of the draw.
        descending: Whether the largest come first, as norm sets need it.

    Returns:
        Shares of all MACs, `[count]`.
    """
    progress = min(1.0, step / (settings.anneal * settings.steps)) if settings.anneal else 1.0
    low = 1.0 - (1.0 - settings.lowest_limit) * progress
    limits = low + (1.0 - low) * rng.random(count) ** 1.5
    draw = rng.random(count)
    limits[draw < settings.whole_share] = 1.0
    limits[draw > 0.85] = low
    if descending:
        limits = -np.sort(-limits)
    return limits.astype(np.float32)


def distillation(scores: Tensor, teacher: Tensor, limits: Tensor) -> Tensor:
    """Return the cross entropy of scores to those of a teacher, for the pictures that have a limit.

    Those without one learn from labels alone, as the widest subnet does in universally slimmable networks
    (arXiv 1903.05134): a teacher as large as they are would hold them back.

    Args:
        scores: Scores, `[batch, outputs]`.
        teacher: Scores of the teacher, `[batch, outputs]`.
        limits: Shares of all MACs, `[batch]`.

    Returns:
        The sum over the pictures whose limit is below 1, divided by the size of the batch.
    """
    each = -(teacher.softmax(1) * scores.log_softmax(1).clamp(min=-50)).sum(1)
    return (each * (limits < 1)).mean()


class AnswerObjective:
    """Cross entropy of one answer per picture, with the losses at places and of distillation.

    Args:
        settings: The run.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings

    def __call__(
        self,
        outputs: Any,
        maps: Mapping[str, Tensor],
        batch: Batch,
        questions: Questions,
        teacher: Any,
        /,
        *,
        limits: Tensor,
    ) -> tuple[Tensor, Tensor, float]:
        """Compute the whole loss, the cross entropy alone, and the share of right answers."""
        settings = self.settings
        scores = self._mask(outputs.float(), questions)
        labels = torch.from_numpy(questions.labels).to(scores.device)
        loss = F.cross_entropy(scores, labels, label_smoothing=settings.label_smoothing)
        total = loss
        if settings.places > 0:
            total = total + settings.places * place_loss(maps, batch, questions)
        if teacher is not None:
            target = self._mask(teacher.float(), questions)
            total = total + settings.distill * distillation(scores, target, limits)
        return total, loss, float((scores.argmax(1) == labels).float().mean())

    def _mask(self, scores: Tensor, questions: Questions) -> Tensor:
        if questions.allowed is None:
            return scores
        return scores.masked_fill(torch.from_numpy(~questions.allowed).to(scores.device), -1e4)


class JointTraining:
    """A run that can be stopped at any time and resumed.

    Args:
        network: The supernet, changed in place.
        assembler: A module called with `(tasks, features)`-like arguments by `gate`; only its parameters
            are used here.
        gate: Turns tasks, limits and costs into gates and a penalty.
        costs: MACs of each brick as shares of all MACs, in the order of the space's block subsets,
            `[bricks]`.
        batches: Gives pictures.
        ask: Gives tasks.
        settings: The run.
        folder: Where checkpoints lie; None for none.
        augment: Changes a batch of pictures at random.
        objective: What is made smaller; that of answers, `AnswerObjective`, if None.
        teacher: A trained network of the same outputs that distillation learns from; see `TrainSettings`.
        identity: What else decides the run, JSON values; a checkpoint with another is refused.
    """

    def __init__(
        self,
        network: Network,
        assembler: nn.Module,
        *,
        gate: Gate,
        costs: npt.NDArray[np.float32],
        batches: Batches,
        ask: Ask,
        settings: TrainSettings,
        folder: Path | None = None,
        augment: Augment | None = None,
        objective: Objective | None = None,
        teacher: nn.Module | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.objective = AnswerObjective(settings) if objective is None else objective
        self.network, self.assembler, self.gate, self.teacher = network, assembler, gate, teacher
        self.further = dict(identity or {})
        self.device = next(network.parameters()).device
        self.costs = torch.from_numpy(costs).to(self.device)
        self.batches, self.ask = batches, ask
        self.settings, self.folder, self.augment = settings, folder, augment
        self.subsets = block_subsets(network.space)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(network.parameters()), "weight_decay": settings.weight_decay},
                {"params": list(assembler.parameters()), "weight_decay": 0.0},
            ]
        )
        self.step = 0

    @property
    def _checkpoint(self) -> Path | None:
        return None if self.folder is None else self.folder / "checkpoint.safetensors"

    def _identity(self) -> dict[str, Any]:
        return {**self.further, **identity_of(self.network), **self.settings.to_json()}

    def resume(self) -> bool:
        """Load the checkpoint of the folder, if there is one.

        Returns:
            Whether there was one.

        Raises:
            TrainError: It belongs to other settings.
        """
        path = self._checkpoint
        if path is None or not path.is_file():
            return False
        modules = {"network": self.network, "assembler": self.assembler}
        self.step = load_checkpoint(
            path, modules=modules, optimizer=self.optimizer, settings=self._identity()
        )
        return True

    def save(self) -> None:
        """Write a checkpoint, if there is a folder."""
        if self._checkpoint is not None:
            modules = {"network": self.network, "assembler": self.assembler}
            save_checkpoint(
                self._checkpoint,
                modules=modules,
                optimizer=self.optimizer,
                step=self.step,
                settings=self._identity(),
            )

    def _forward(self, pictures: Tensor, tasks: Tensor, limits: Tensor) -> tuple[Any, Tensor, Tensor]:
        gates, penalty = self.gate(tasks, limits, self.costs)
        scores = self.network_scores(pictures, tasks, gates)
        return scores, gates, penalty

    def network_scores(self, pictures: Tensor, tasks: Tensor, gates: Tensor) -> Any:
        """Compute the outputs of a batch whose samples have their own tasks and gates `[batch, bricks]`."""
        head = {WORDS: tasks} if WORDS in self.network.space else {}
        with self.network.gated({**split_gates(gates, self.subsets), **head}):
            return self.network(pictures)

    def _choose(self, rng: np.random.Generator) -> None:
        """Draw the choices (depths, kernels) of this step; the largest for a third of the steps."""
        largest = rng.random() < 1 / 3
        for decision in self.network.space:
            if isinstance(decision, Choice):
                decision.value = (
                    decision.largest() if largest else decision.values[rng.integers(decision.size)]
                )

    def _one_step(self) -> tuple[float, float, float]:
        settings = self.settings
        rng = np.random.default_rng([settings.seed, self.step])
        torch.manual_seed(int(rng.integers(2**62)))
        batch = self.batches(self.step, rng)
        questions = self.ask(batch.objects, rng)
        pictures = batch.pictures.to(self.device)
        if self.augment is not None:
            pictures = self.augment(pictures, torch.Generator().manual_seed(int(rng.integers(2**62))))
        tasks = torch.from_numpy(questions.tasks).to(self.device)
        sorts = self.network.norm_sets is not None
        drawn = draw_limits(settings, self.step, len(tasks), rng, descending=sorts)
        limits = torch.from_numpy(drawn).to(self.device)
        self._choose(rng)
        with mixed_precision(settings, self.device):
            with score_maps(self.network) as maps, self.network.sized(drawn):
                outputs, gates, penalty = self._forward(pictures, tasks, limits)
            teacher = None
            if settings.distill > 0:
                with torch.no_grad():
                    teacher = (
                        self._forward(pictures, tasks, torch.ones_like(limits))[0]
                        if self.teacher is None
                        else self.teacher(pictures)
                    )
            total, loss, accuracy = self.objective(outputs, maps, batch, questions, teacher, limits=limits)
        total = total + settings.penalty * penalty
        for group, peak in zip(
            self.optimizer.param_groups, (settings.learning_rate, settings.assembler_rate), strict=True
        ):
            group["lr"] = peak * one_cycle(self.step, settings.steps)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        nn.utils.clip_grad_norm_(self.assembler.parameters(), settings.clip)
        self.optimizer.step()
        return float(loss.detach()), accuracy, float(gates.detach().mean())

    def run(self, *, record_every: int = 50) -> Iterator[Record]:
        """Train to the end, or from where a checkpoint left off.

        Args:
            record_every: Steps per record.

        Yields:
            Means over the steps since the last record.

        Raises:
            TrainError: The loss is not finite; the last checkpoint stays.
        """
        self.network.train()
        means = RecordMeans()
        while self.step < self.settings.steps:
            values = self._one_step()
            if not np.isfinite(values[0]):
                raise TrainError(
                    f"the loss is {values[0]} at step {self.step}; lower the learning rate and start anew"
                )
            means.add(*values)
            self.step += 1
            if self.step % self.settings.checkpoint_every == 0 or self.step == self.settings.steps:
                self.save()
            if self.step % record_every == 0 or self.step == self.settings.steps:
                yield means.take(self.step)
        self.network.configure(self.network.space.largest())
        self.network.eval()


def split_gates(gates: Tensor, subsets: list[Subset]) -> Mapping[str, Tensor]:
    """Split gates `[batch, bricks]` into those of each subset."""
    parts = gates.split([subset.count for subset in subsets], dim=1)
    return {subset.name: part for subset, part in zip(subsets, parts, strict=True)}
