"""Stage 0: train the backbone to see every property or class, before tasks and the assembler join in.

Each picture gets a limit, and one nested core of bricks under it, the same for all: as in slimmable networks
(arXiv 1812.08928). So the joint stage starts from a network that works at every size, and has only to
learn what each task needs besides the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.errors import TrainError
from brickyard.core.network import Network
from brickyard.train.checkpoint import load_checkpoint, save_checkpoint
from brickyard.train.joint import (
    Augment,
    Batch,
    Batches,
    Record,
    RecordMeans,
    TrainSettings,
    distillation,
    draw_limits,
    identity_of,
    mixed_precision,
    one_cycle,
)
from brickyard.train.places import object_places
from brickyard.train.tasks import object_words

Nested = Callable[[npt.NDArray[np.float32]], Mapping[str, Tensor]]
"""From limits `[batch]` to gates by subset."""

BackboneObjective = Callable[[Network, Tensor, Batch, Tensor], tuple[Tensor, float]]
"""From network, pictures, batch and limits `[batch]` to the loss and an accuracy in [0, 1]."""


class BackboneTraining:
    """Trains all bricks together: every property of every object, or the class of every picture.

    For properties the layer `head.missing` learns each word at every place: at the centres of objects and
    at empty places where boxes are known, and over the whole picture by the maximum. For classes the
    whole head is trained.

    Args:
        network: The supernet with everything on, changed in place; its root has the parts `stem`,
            `stages` and `head`.
        group_sizes: Values of each property, None for classes.
        batches: Gives pictures.
        settings: The run; limits and assembler play no part.
        folder: Where the checkpoint lies; None for none.
        augment: Changes a batch of pictures at random.
        nested: Opens the nested core under limits; None keeps everything on.
        objective: What is made smaller; that of words or classes, as above, if None.
        teacher: A trained network of classes that distillation learns from; see `TrainSettings`.
        identity: What else decides the run, JSON values; a checkpoint with another is refused.
    """

    def __init__(
        self,
        network: Network,
        *,
        group_sizes: Sequence[int] | None,
        batches: Batches,
        settings: TrainSettings,
        folder: Path | None = None,
        augment: Augment | None = None,
        nested: Nested | None = None,
        objective: BackboneObjective | None = None,
        teacher: nn.Module | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.identity = {
            **(identity or {}),
            **identity_of(network),
            **settings.to_json(),
            "stage": "backbone",
        }
        self.network, self.nested, self.teacher = network, nested, teacher
        self.objective = self._answers if objective is None else objective
        self.group_sizes = None if group_sizes is None else list(group_sizes)
        self.batches, self.settings, self.augment = batches, settings, augment
        self.path = None if folder is None else folder / "backbone.safetensors"
        self.device = next(network.parameters()).device
        self.optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay)
        self.step = 0

    def run(self, *, record_every: int = 50) -> Iterator[Record]:
        """Train to the end, or from where a checkpoint left off.

        Args:
            record_every: Steps per record.

        Yields:
            Means over the steps since the last record; the accuracy is that of the words or classes.

        Raises:
            TrainError: The loss is not finite, or the checkpoint belongs to other settings.
        """
        modules = {"network": self.network}
        if self.path is not None and self.path.is_file():
            self.step = load_checkpoint(
                self.path, modules=modules, optimizer=self.optimizer, settings=self.identity
            )
        self.network.train()
        means = RecordMeans()
        while self.step < self.settings.steps:
            means.add(*self._one_step())
            self.step += 1
            last = self.step == self.settings.steps
            if self.path is not None and (last or self.step % self.settings.checkpoint_every == 0):
                save_checkpoint(
                    self.path,
                    modules=modules,
                    optimizer=self.optimizer,
                    step=self.step,
                    settings=self.identity,
                )
            if last or self.step % record_every == 0:
                yield means.take(self.step)
        self.network.eval()

    def _one_step(self) -> tuple[float, float, float]:
        settings = self.settings
        rng = np.random.default_rng([settings.seed, self.step, 1])
        batch = self.batches(self.step, rng)
        pictures = batch.pictures.to(self.device)
        if self.augment is not None:
            pictures = self.augment(pictures, torch.Generator().manual_seed(int(rng.integers(2**62))))
        gates: Mapping[str, Tensor] = {}
        limits = np.ones(len(pictures), dtype=np.float32)
        if self.nested is not None:
            sorts = self.network.norm_sets is not None
            limits = draw_limits(settings, self.step, len(pictures), rng, descending=sorts)
            gates = self.nested(limits)
        with (
            mixed_precision(settings, self.device),
            self.network.gated(gates),
            self.network.sized(limits),
        ):
            shares = torch.from_numpy(limits).to(self.device)
            loss, accuracy = self.objective(self.network, pictures, batch, shares)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(self.step, settings.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainError(
                f"the loss is {value} at step {self.step}; lower the learning rate and start anew"
            )
        open_share = float(torch.cat(list(gates.values()), dim=1).mean()) if gates else 1.0
        return value, accuracy, open_share

    def _answers(
        self, network: Network, pictures: Tensor, batch: Batch, limits: Tensor
    ) -> tuple[Tensor, float]:
        settings = self.settings
        if self.group_sizes is None:
            labels = torch.from_numpy(batch.objects[:, 0, 0].astype(np.int64)).to(self.device)
            scores = network(pictures).float()
            loss = F.cross_entropy(scores, labels, label_smoothing=settings.label_smoothing)
            if self.teacher is not None and settings.distill > 0:
                with torch.no_grad():
                    target = self.teacher(pictures).float()
                loss = loss + settings.distill * distillation(scores, target, limits)
            return loss, float((scores.argmax(1) == labels).float().mean())
        return self._words(pictures, batch)

    def _words(self, pictures: Tensor, batch: Batch) -> tuple[Tensor, float]:
        assert self.group_sizes is not None
        root = self.network.root
        features = root.get_submodule("stages")(root.get_submodule("stem")(pictures))
        scores = -root.get_submodule("head.missing")(features).float()
        samples, objects = np.nonzero(batch.objects[:, :, 0] >= 0)
        words = object_words(batch.objects, np.array(self.group_sizes))
        wanted = torch.from_numpy(words.max(1)).to(scores.device)
        whole = scores.amax((2, 3))
        loss = F.binary_cross_entropy_with_logits(whole, wanted)
        if batch.boxes is None:
            return loss, float(((whole > 0) == (wanted > 0.5)).float().mean())
        at, empty = object_places(scores, batch, samples, objects)
        there = scores[at[0], :, at[1], at[2]]
        target = torch.from_numpy(words[samples, objects]).to(scores.device)
        loss = loss + 4 * F.binary_cross_entropy_with_logits(there, target)
        loss = loss + F.softplus(scores.movedim(1, 3)[empty]).mean()
        right = [
            part.argmax(1) == goal.argmax(1)
            for part, goal in zip(
                there.split(self.group_sizes, 1), target.split(self.group_sizes, 1), strict=True
            )
        ]
        return loss, float(torch.stack(right).float().mean())
