"""Learns task after task without forgetting: ExSSNeT, SSNeT and SupSup (arXiv 2210.10209, 2006.14769).

First the mask is trained by edge-popup over weights that stand still, then the weights under it. What
differs from the original code: the state after the last epoch is kept, never one that was picked on test
data; none but the weights that may change are written back; every phase has a fresh optimizer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.bricks.calibration import calibrate_
from brickyard.continual.examples import Examples, count, epoch, everything, steps_of, take
from brickyard.continual.layers import MaskedLayer, OwnPart
from brickyard.continual.network import TaskNetwork, TaskRecord
from brickyard.continual.optimizer import one_cycle, restore_adam
from brickyard.continual.settings import LearnSettings
from brickyard.continual.store import FirstTask, TaskFolder
from brickyard.continual.transfer import Suited, find_suited, start_parts_, start_scores
from brickyard.core.checkpoint import Checkpoint, content_digest
from brickyard.core.errors import ConfigError, DataError, TrainError
from brickyard.core.files import sweep

_CALIBRATED = 100  # batches that statistics of normalisation are averaged over, at most
_PROBED = 32  # examples whose content tells data apart

Progress = Callable[[int, int, float], None]
"""Called after each step with the steps done, all steps, and the loss."""


class Around(Protocol):
    """What surrounds the forward pass of each step, such as parts of the network that are switched off."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides what it does, JSON values; a checkpoint goes on only with the same."""

    def __call__(self, examples: int, generator: torch.Generator) -> AbstractContextManager[None]:
        """Surround a pass of so many examples; all random numbers come from the generator."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """How learning a task went.

    Attributes:
        record: What is known of the task.
        losses: Mean loss of each epoch, those of the mask first.
        suited: How well earlier tasks suited; None without transfer, or for the first task.
        transfer_seconds: Time that the comparison of features took.
        seconds: Time of everything else.
    """

    record: TaskRecord
    losses: tuple[float, ...]
    suited: Suited | None
    transfer_seconds: float
    seconds: float


class Learner:
    """Teaches a network one task after the other.

    Args:
        network: The network, changed in place.
        settings: How tasks are learned.
        folder: Where each task is written once it is learned; None for nowhere. Tasks that the network has
            and the folder lacks are written at once. A `FirstTask` makes the folder with the first task.
        beside: Writes what else shall lie in the folder of each task, see `TaskFolder.append`.

    Raises:
        ArtifactError: The folder is of another network, or has other tasks.

    Example:
        >>> learner = Learner(masked(module, input_shape=(784,)), settings=LearnSettings(seed=1))
        >>> learner.learn("digits", TensorDataset(images, labels), num_classes=10)
        >>> learner.network.scores("digits", images)
    """

    def __init__(
        self,
        network: TaskNetwork,
        *,
        settings: LearnSettings,
        folder: TaskFolder | FirstTask | None = None,
        beside: Callable[[Path], None] | None = None,
    ) -> None:
        self.network, self.settings, self.folder, self.beside = network, settings, folder, beside
        if folder is not None:
            folder.append(network, beside=beside)

    def learn(
        self,
        name: str,
        examples: Examples,
        *,
        num_classes: int,
        progress: Progress | None = None,
        checkpoint: str | Path | None = None,
        around: Around | None = None,
    ) -> Learned:
        """Learn a task; when this ends by an error or an interrupt, the network is as it was before.

        That holds for errors while the folder is written, too: the same call goes on from the checkpoint.

        Args:
            name: Name of the task.
            examples: Pairs of an input and a class index below `num_classes`.
            num_classes: Number of classes.
            progress: Called after each step.
            checkpoint: File that is written after each epoch. If it is there when the same task is learned
                with the same arguments, learning goes on from it and ends with the same bits; it is removed
                when the task is learned.
            around: Surrounds the forward pass of each step.

        Returns:
            How it went.

        Raises:
            ConfigError: The name is taken, or the shared head has too few rows.
            DataError: The examples are not such pairs.
            TrainError: The loss, scores or weights are not finite, or the checkpoint is of another run.
            ArtifactError: The folder has other tasks by now.
        """
        self._check(num_classes)
        steps_of(examples, self.settings.batch_size)  # refuses a dataset without examples or length
        take(examples, [0])
        tasks, number = self.network.tasks, len(self.network.records)
        kept = None
        if checkpoint is not None:
            about = _identity(self.network, name, examples, num_classes)
            about |= self.settings.to_json() | dict({} if around is None else around.identity)
            kept = Checkpoint(checkpoint, about, work="a task")
            kept.load()  # refuses a file of another run before anything is changed
        in_use = tasks.value
        tasks.add(name)
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        devices = {tensor.device for tensor in self.network.network.parameters()}
        added, before = [], list[tuple[MaskedLayer, Tensor, Tensor]]()
        try:
            with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
                torch.manual_seed(seed)
                for part in self.network.parts.values():
                    part.add_task(num_classes=num_classes)
                    added.append(part)
                run = _Run(
                    self.network,
                    self.settings,
                    examples,
                    num_classes=num_classes,
                    seed=seed,
                    progress=progress,
                    checkpoint=kept,
                    around=around,
                )
                learned = run.learn(name)
            self._rest()
            for layer in run.layers:
                before.append((layer, layer.pool.detach().clone(), layer.taken.clone()))
                if layer.trainee is not None:
                    layer.keep_weights()
                layer.close_task()
            self.network.records.append(learned.record)
            if self.folder is not None:
                self.folder.append(self.network, beside=self.beside)
        except BaseException:
            for layer, pool, taken in before:
                layer.pool.detach().copy_(pool)
                layer.taken.copy_(taken)
            del self.network.records[number:]
            for part in added:
                part.drop_task()
            tasks.drop()
            tasks.value = in_use
            self._rest()
            raise
        if kept is not None:
            kept.remove()
            sweep(kept.path)
        return learned

    def _rest(self) -> None:
        """End training: evaluation mode, and no gradients."""
        self.network.network.eval()
        self.network.network.requires_grad_(False).zero_grad()

    def _check(self, num_classes: int) -> None:
        head = self.network.head
        rows = head.pool.shape[0] if isinstance(head, MaskedLayer) else None
        if num_classes < 1 or (rows is not None and num_classes > rows):
            most = "" if rows is None else f" and at most {rows}, the rows of the shared head"
            raise ConfigError(
                f"num_classes = {num_classes} must be at least 1{most}; heads='own' gives each task its own",
                path="num_classes",
                value=num_classes,
            )


class _Run:
    """The learning of one task."""

    def __init__(
        self,
        network: TaskNetwork,
        settings: LearnSettings,
        examples: Examples,
        *,
        num_classes: int,
        seed: int,
        progress: Progress | None,
        checkpoint: Checkpoint | None,
        around: Around | None,
    ) -> None:
        self.network, self.settings, self.examples = network, settings, examples
        self.num_classes, self.checkpoint = num_classes, checkpoint
        self.progress, self.around = progress, around
        self.generator = torch.Generator().manual_seed(seed)
        self.layers = list(network.layers.values())
        self.own = [tensor for part in network.parts.values() for tensor in part.trained()]
        for tensor in self.own:
            tensor.requires_grad_(True)
        self.steps = self.done = 0
        each = steps_of(examples, settings.batch_size)
        self.all_steps = (settings.mask_epochs + settings.weight_epochs) * each
        self.losses: list[float] = []
        self.suited: Suited | None = None
        self.seconds = self.transfer_seconds = 0.0

    def learn(self, name: str) -> Learned:
        started = time.perf_counter()
        kept = None if self.checkpoint is None else self.checkpoint.load()
        tensors, record = kept or ({}, {})
        if not kept:
            self.suited, self.transfer_seconds = self._begin_masks()
        self.started = started + self.transfer_seconds - record.get("seconds", 0.0)
        settings, phase = self.settings, record.get("phase", 0)
        if kept:
            self._restore(tensors, record)
        self._train_mode()
        if phase == 0:
            scores = [layer.scores for layer in self.layers if layer.scores is not None]
            along = [layer.along for layer in self.layers if layer.along is not None]
            self._phase(0, scores, along, settings.mask_epochs, tensors)
            for layer in self.layers:
                layer.fix_mask()
        share = sum(int((layer.mask(len(layer.rows) - 1) & ~layer.taken).sum()) for layer in self.layers)
        if settings.arm != "supsup":
            if phase == 0:
                for layer in self.layers:
                    layer.begin_weights(exclusive=settings.arm == "exssnet")
            weights = [layer.free for layer in self.layers if layer.free is not None]
            self._phase(1, [], weights, settings.weight_epochs, tensors if phase else {})
        self._statistics()
        learned = TaskRecord(
            name=name,
            num_classes=self.num_classes,
            arm=settings.arm,
            free_share=share / sum(layer.keep for layer in self.layers),
        )
        return Learned(
            record=learned,
            losses=tuple(self.losses),
            suited=self.suited,
            transfer_seconds=self.transfer_seconds,
            seconds=time.perf_counter() - self.started,
        )

    def _begin_layer(self, layer: MaskedLayer, scores: Tensor) -> None:
        layer.begin_masks(scores, along=self.settings.joint, exclusive=self.settings.arm == "exssnet")

    def _statistics(self) -> None:
        """Give the task's batch normalisation statistics of its last weights: running ones lag behind."""
        for layer in self.layers:
            if layer.trainee is not None:
                layer.trainee.fill()
        full = count(self.examples) // self.settings.batch_size
        number, device = min(max(full, 1), _CALIBRATED), self.network.head_device

        def batches() -> Iterator[Tensor]:
            for inputs, _ in islice(epoch(self.examples, self.settings.batch_size, self.generator), number):
                with nullcontext() if self.around is None else self.around(len(inputs), self.generator):
                    yield inputs.to(device)

        if any(getattr(part, "running_mean", None) is not None for part in self.network.network.modules()):
            calibrate_(self.network.network, batches())

    def _save(self, phase: int, done: int, optimizer: torch.optim.Optimizer) -> None:
        """Keep everything that the steps to come depend on."""
        if self.checkpoint is None:
            return
        number = len(self.network.records)
        tensors = {"generator": self.generator.get_state(), "random": torch.get_rng_state()}
        if self.network.head_device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.network.head_device)
        for path, part in self.network.parts.items():
            state = part.task_state(number)
            tensors |= {f"own.{path}.{name}": tensor for name, tensor in state.items()}
        for path, layer in self.network.layers.items():
            trained = layer.scores if phase == 0 else layer.free
            assert trained is not None
            tensors[f"trained.{path}"] = trained
            if layer.along is not None:
                tensors[f"along.{path}"] = layer.along
            if phase == 1:
                tensors[f"mask.{path}"] = layer.mask(number)
        for place, state in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{place}.{name}": tensor for name, tensor in state.items()}
        record = {
            "phase": phase,
            "done": done,
            "steps": self.steps,
            "losses": self.losses,
            "suited": None if self.suited is None else asdict(self.suited),
            "transfer_seconds": self.transfer_seconds,
            "seconds": time.perf_counter() - self.started,
        }
        self.checkpoint.save(tensors, record)

    def _restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Bring back what `_save` kept, but for the optimizer."""
        for path, part in self.network.parts.items():
            prefix = f"own.{path}."
            found = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
            part.load_task_state(found)
        for path, layer in self.network.layers.items():
            trained = tensors[f"trained.{path}"].to(layer.pool)
            if record["phase"] == 0:
                self._begin_layer(layer, trained)
                if layer.along is not None:
                    layer.along.data.copy_(tensors[f"along.{path}"])
            else:
                layer.set_mask(tensors[f"mask.{path}"].to(layer.pool.device))
                layer.begin_weights(exclusive=self.settings.arm == "exssnet")
                assert layer.free is not None
                assert self.checkpoint is not None
                if layer.free.shape != trained.shape:
                    raise self.checkpoint.error(
                        f"{self.checkpoint.path} keeps {tuple(trained.shape)} trained weights of {path}, not "
                        f"{tuple(layer.free.shape)}; another version wrote it: remove it and begin anew"
                    )
                with torch.no_grad():
                    layer.free.copy_(trained)
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["random"])
        if "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.network.head_device)
        if record["suited"] is not None:
            self.suited = Suited.from_json(record["suited"])
        self.steps, self.losses = record["steps"], list(record["losses"])
        self.transfer_seconds, self.done = record["transfer_seconds"], record["done"]

    def _begin_masks(self) -> tuple[Suited | None, float]:
        for layer in self.layers:
            self._begin_layer(layer, self._fresh(layer.pool))
        if self.settings.transfer == "off" or len(self.network.tasks.values) == 1:
            return None, 0.0
        started = time.perf_counter()
        suited = find_suited(self.network, self.examples, settings=self.settings, generator=self.generator)
        if suited.nearest is not None:
            scores = start_scores(self.network, suited.start, self._fresh)
            for path, layer in self.network.layers.items():
                self._begin_layer(layer, scores[path])
            start_parts_(self.network, suited.nearest)
        return suited, time.perf_counter() - started

    def _fresh(self, pool: Tensor) -> Tensor:
        """Draw scores as linear layers draw weights: uniform, up to one over the root of the fan-in."""
        bound = 1 / math.sqrt(pool[0].numel())
        drawn = torch.rand(pool.shape, generator=self.generator) * (2 * bound) - bound
        return drawn.to(pool)

    def _train_mode(self) -> None:
        """Train the new task's parts and dropout; all else, which no task may change, stays in evaluation."""
        self.network.network.eval()
        for module in self.network.network.modules():
            if isinstance(module, OwnPart):
                module.parts[-1].train()
            elif isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()

    def _phase(
        self,
        number: int,
        scores: list[nn.Parameter],
        weights: list[nn.Parameter],
        epochs: int,
        kept: Mapping[str, Tensor],
    ) -> None:
        """Train scores, weights or both, from a checkpoint's state on if there is one."""
        if not epochs:
            return
        settings = self.settings
        own_rate = settings.weight_rate if settings.own_rate is None else settings.own_rate
        by_rate = {settings.mask_rate: list(scores)}
        by_rate.setdefault(settings.weight_rate, []).extend(weights)
        by_rate.setdefault(own_rate, []).extend(self.own)
        groups = [{"params": held, "lr": rate} for rate, held in by_rate.items() if held]
        optimizer = torch.optim.Adam(groups, fused=True)
        each, done = steps_of(self.examples, self.settings.batch_size), self.done if kept else 0
        if kept:
            restore_adam(optimizer, kept)
        schedule = one_cycle(optimizer, epochs * each, done=done * each)
        for epoch_number in range(done, epochs):
            total = 0.0
            for inputs, labels in epoch(self.examples, self.settings.batch_size, self.generator):
                total += self._step(inputs, labels, optimizer)
                schedule.step()
            self._check_finite(("scores", "weights")[number], [*scores, *weights])
            self.losses.append(total / each)
            self._save(number, epoch_number + 1, optimizer)

    def _check_finite(self, what: str, tensors: list[nn.Parameter]) -> None:
        """Refuse to go on where scores, or weights, grew past all numbers: no mask follows from them."""
        if not all(bool(tensor.detach().isfinite().all()) for tensor in (*tensors, *self.own)):
            raise TrainError(f"not all {what} are finite; lower mask_rate, weight_rate or own_rate")

    def _step(self, inputs: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> float:
        device = self.network.head_device
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= self.num_classes:
            raise DataError(
                f"class indices from {low} to {high} came; a task of "
                f"{self.num_classes} classes has 0 to {self.num_classes - 1}"
            )
        trainees = [layer.trainee for layer in self.layers if layer.trainee is not None]
        for trainee in trainees:
            trainee.fill()
        with nullcontext() if self.around is None else self.around(len(inputs), self.generator):
            scores = self.network.network(inputs.to(device))
        loss = F.cross_entropy(scores, labels.to(device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainError(f"the loss is {value}; lower mask_rate, weight_rate or own_rate and learn again")
        for tensor in self.own:
            tensor.grad = None
        loss.backward()
        for trainee in trainees:
            trainee.hand_on()
        optimizer.step()
        self.steps += 1
        if self.progress is not None:
            self.progress(self.steps, self.all_steps, value)
        return value


def _identity(network: TaskNetwork, name: str, examples: Examples, num_classes: int) -> dict[str, Any]:
    """Return what decides the learning of a task beside the settings.

    Args:
        network: The network before the task.
        name: Name of the task.
        examples: Its examples; their number and the first and last ones stand for all.
        num_classes: Number of classes.
    """
    number = count(examples)
    places = sorted({*range(min(number, _PROBED)), *range(max(0, number - _PROBED), number)})
    pools = (layer.pool for layer in network.layers.values())
    return {
        "task": name,
        "num_classes": num_classes,
        "examples": number,
        "content": content_digest(iter(take(examples, places))),
        "earlier tasks": [record.name for record in network.records],
        "weights": content_digest(pools),
    }


def accuracy(network: TaskNetwork, task: str, examples: Examples, *, batch_size: int = 512) -> float:
    """Return the share of examples whose class a task's network gives the largest score.

    Args:
        network: The network.
        task: Name of the task.
        examples: Pairs of an input and a class index.
        batch_size: Examples that are computed at once.

    Raises:
        ConfigError: There is no such task.
    """
    inputs, labels = everything(examples)
    found = network.scores(task, inputs.to(network.head_device), batch_size=batch_size).argmax(1)
    return float((found.cpu() == labels).float().mean())
