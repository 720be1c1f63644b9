"""Training of an encoder with exits on pairs of texts; all exits learn in one run of the backbone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from brickyard.core.errors import TrainError
from brickyard.train.checkpoint import resumed_steps
from brickyard.train.context import ContextBatch, ContextLoss
from brickyard.train.contrastive import Distill, ExitLoss, Weights
from brickyard.train.supernet import warm_cosine

_UNDECAYED = ("bias", "layer_embedding")  # ends of names; those of heads can have two axes
_HEADS = ("root.head.", "context.")  # begins of the names of heads
_OWN = {"root.head.weight": 3, "root.head.bias": 2}  # axes, the first over exits, where each has its own


class Exits(Protocol):
    """What is trained; `brickyard.modularize.MultiExitEncoder` is one."""

    @property
    def network(self) -> nn.Module:
        """All parameters; the names of those of heads begin with `root.head.`."""

    @property
    def exits(self) -> tuple[int, ...]:
        """Layers in front of each exit, ascending."""

    def embed(self, input_ids: Tensor, attention_mask: Tensor, /) -> Mapping[int, Tensor]:
        """Return unit vectors `[batch, embed_dim]` by exit."""

    def states(self, input_ids: Tensor, attention_mask: Tensor, /) -> Mapping[int, Tensor]:
        """Return states of the tokens `[batch, tokens, width]` by exit; for training in context."""

    @property
    def backbone(self) -> nn.Module:
        """The backbone, which has `get_input_embeddings`; asked only for training in context."""

    @property
    def width(self) -> int:
        """Width of the states; asked only for training in context."""


class PairBatch(NamedTuple):
    """The pairs of a step; row i of both belongs together.

    Attributes:
        queries: `input_ids` and `attention_mask`, `[pairs, tokens]`.
        documents: `input_ids` and `attention_mask`, `[pairs, tokens]`.
    """

    queries: Mapping[str, Tensor]
    documents: Mapping[str, Tensor]


class TextPairs:
    """Gives batches of pairs of texts, each pair once in an epoch; what does not fill a batch is left out.

    Args:
        pairs: Queries with their documents. Two pairs with one document should not be among them, since
            within a batch each would count as wrong for the other.
        tokenize: From texts to `input_ids` and `attention_mask`, such as `encoder.tokens`.
        batch_size: Pairs of a batch.
        seed: Seed of the order.

    Raises:
        TrainError: There are fewer pairs than a batch holds, or a batch of fewer than 2.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        tokenize: Callable[[Sequence[str]], Mapping[str, Tensor]],
        *,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        if not 2 <= batch_size <= len(pairs):
            raise TrainError(
                f"batch_size = {batch_size} is not allowed; allowed: 2 to the number of pairs, {len(pairs)}"
            )
        self.pairs, self.tokenize = pairs, tokenize
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, step: int) -> PairBatch:
        """Return the pairs of a step."""
        epoch, place = divmod(step, len(self.pairs) // self.batch_size)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
        some = order[place * self.batch_size :][: self.batch_size]
        queries, documents = zip(*(self.pairs[number] for number in some), strict=True)
        return PairBatch(self.tokenize(queries), self.tokenize(documents))


@dataclass(frozen=True, kw_only=True)
class ExitSettings:
    """Everything that decides the training of an encoder with exits besides encoder and pairs.

    Attributes:
        steps: Optimizer steps.
        learning_rate: Peak rate of AdamW.
        head_rate: Rate of the heads by that of the backbone.
        last_head_rate: That of the last exit's head, which has least to learn, where exits have heads of
            their own; None for `head_rate`.
        warmup: Share of the steps over which the rate rises; then it falls to zero as a cosine.
        weight_decay: Of matrices; none for biases, norms and embeddings of layers.
        clip: Largest gradient norm.
        weights: Weight of each exit: `depth`, `uniform`, or from its layers and those of the last exit.
        scale: What cosines are multiplied by.
        learn_scale: Whether the scale is learned.
        distill: What early exits learn from the last one: `kl`, `cosine`, or None for nothing.
        distill_weight: Weight of that beside an exit's InfoNCE.
        contrast: Weight of InfoNCE, and of what is learned from the last exit, at every exit.
        mlm: Weight of guessing hidden tokens at every exit; above 0 it needs `context`.
        same_source: Weight of telling whether two pieces of code come from one source at every exit; above 0
            it needs `context`.
        precision: `fp32`, or `bf16` for mixed precision.
        seed: Seed of dropout.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = 500
    learning_rate: float = 5e-5
    head_rate: float = 10.0
    last_head_rate: float | None = None
    warmup: float = 0.1
    weight_decay: float = 1e-2
    clip: float = 1.0
    weights: Weights = "depth"
    scale: float = 20.0
    learn_scale: bool = False
    distill: Distill | None = None
    distill_weight: float = 1.0
    contrast: float = 1.0
    mlm: float = 0.0
    same_source: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        """Check the ranges that the loss does not check.

        Raises:
            TrainError: A value is out of range.
        """
        for name in ("steps", "learning_rate", "head_rate", "last_head_rate", "clip", "checkpoint_every"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise TrainError(f"{name} = {getattr(self, name)} must be above 0")
        for name in ("weight_decay", "seed", "contrast", "mlm", "same_source"):
            if not getattr(self, name) >= 0:
                raise TrainError(f"{name} = {getattr(self, name)} must not be negative")
        if not self.contrast + self.mlm + self.same_source > 0:
            raise TrainError("contrast, mlm and same_source are all 0, so nothing would be learned")
        if not 0 <= self.warmup <= 1:
            raise TrainError(f"warmup = {self.warmup} must lie in [0, 1]")
        if self.precision not in ("fp32", "bf16"):
            raise TrainError(f"precision = {self.precision!r} must be 'fp32' or 'bf16'")

    def loss(self, exits: Sequence[int]) -> ExitLoss:
        """Build the loss.

        Args:
            exits: Layers in front of each exit, ascending.

        Raises:
            TrainError: A setting is out of range.
        """
        return ExitLoss(
            exits,
            weights=self.weights,
            scale=self.scale,
            learn_scale=self.learn_scale,
            distill=self.distill,
            distill_weight=self.distill_weight,
        )


@dataclass(frozen=True)
class ExitRecord:
    """Means over the steps since the last record.

    Attributes:
        step: Steps done.
        loss: What is made smaller.
        by_exit: InfoNCE by exit, without weight; empty where it has none.
        scale: What cosines are multiplied by, at the last of these steps.
        seconds: Time that they took.
        mlm: Cross entropy of hidden tokens by exit, without weight; empty without context.
        same_source: Cross entropy of whether pieces come from one source, by exit, without weight; empty
            without context.
    """

    step: int
    loss: float
    by_exit: dict[int, float]
    scale: float
    seconds: float
    mlm: dict[int, float]
    same_source: dict[int, float]


class ExitTraining:
    """A run that can be stopped at any time and resumed, bit for bit.

    Args:
        encoder: The encoder, changed in place.
        batches: From a step to its pairs, decided by the step alone; `TextPairs` is one. None where
            `contrast` is 0.
        settings: The run.
        context: From a step to its rows of two pieces, decided by the step alone, where `mlm` or
            `same_source` is above 0; `ContextTexts` is one.
        folder: Where the checkpoint lies; None for none.
        identity: What else decides the run, such as a hash of the pairs, JSON values; a checkpoint with
            another is refused.

    Raises:
        TrainError: A setting is out of range.
    """

    def __init__(
        self,
        encoder: Exits,
        *,
        batches: Callable[[int], PairBatch] | None,
        settings: ExitSettings,
        context: Callable[[int], ContextBatch] | None = None,
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        if (settings.contrast > 0) != (batches is not None):
            raise TrainError(
                f"contrast = {settings.contrast} {'needs' if batches is None else 'has no use for'} pairs"
            )
        if (settings.mlm + settings.same_source > 0) != (context is not None):
            raise TrainError(
                f"mlm = {settings.mlm} and same_source = {settings.same_source} "
                f"{'need' if context is None else 'have no use for'} context"
            )
        self.encoder, self.batches, self.context, self.settings = encoder, batches, context, settings
        self.device = next(encoder.network.parameters()).device
        self.loss = settings.loss(encoder.exits).to(self.device)
        self.modules: dict[str, nn.Module] = {"network": encoder.network, "loss": self.loss}
        self.context_loss: ContextLoss | None = None
        if context is not None:
            table = encoder.backbone.get_input_embeddings()  # type: ignore[operator]
            heads = ContextLoss(encoder.exits, encoder.width, table, seed=settings.seed)
            self.context_loss = self.modules["context"] = heads.to(self.device)
        self.path = None if folder is None else folder / "exits.safetensors"
        self.identity = {
            **(identity or {}),
            **asdict(settings),
            "exits": list(encoder.exits),
            "weights": list(self.loss.weights),
        }
        named = [
            (name if part == "network" else f"{part}.{name}", one)
            for part, module in self.modules.items()
            for name, one in module.named_parameters()
        ]
        self.own_heads = [one for name, one in named if name in _OWN and one.dim() == _OWN[name]]
        if settings.last_head_rate is not None and not self.own_heads:
            raise TrainError(
                f"last_head_rate = {settings.last_head_rate} needs a head of its own at each exit; give "
                "head='own' to add_exits, or leave it out"
            )
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, one in named:
            decay = settings.weight_decay if one.dim() > 1 and not name.endswith(_UNDECAYED) else 0.0
            rate = settings.head_rate if name.startswith(_HEADS) else 1.0
            groups.setdefault((rate, decay), []).append(one)
        self.optimizer = torch.optim.AdamW(
            [{"params": ones, "weight_decay": decay} for (_, decay), ones in groups.items()]
        )
        self.rates = [rate for rate, _ in groups]

    def run(self, *, record_every: int = 20) -> Iterator[ExitRecord]:
        """Train to the end, or from where a checkpoint left off.

        Args:
            record_every: Steps per record.

        Yields:
            Means over the steps since the last record.

        Raises:
            TrainError: The loss is not finite (the last checkpoint stays), or the checkpoint belongs to other
                settings.
        """
        self.encoder.network.train()
        for step, (loss, *losses), seconds in resumed_steps(
            self._one_step,
            path=self.path,
            modules=self.modules,
            optimizer=self.optimizer,
            settings=self.identity,
            steps=self.settings.steps,
            checkpoint_every=self.settings.checkpoint_every,
            record_every=record_every,
        ):
            exits, found = self.encoder.exits, iter(losses)
            by_exit, mlm, same_source = (
                {exit: next(found) for exit in exits} if given is not None else {}
                for given in (self.batches, self.context, self.context)
            )
            yield ExitRecord(
                step=step,
                loss=loss,
                by_exit=by_exit,
                scale=float(self.loss.scale.detach()),
                seconds=seconds,
                mlm=mlm,
                same_source=same_source,
            )
        self.encoder.network.eval()

    def _one_step(self, step: int) -> tuple[float, ...]:
        settings = self.settings
        torch.manual_seed(int(np.random.default_rng([settings.seed, step]).integers(2**62)))
        total, figures = self._losses(step)
        value = float(total.detach())
        if not math.isfinite(value):
            raise TrainError(f"the loss is {value} at step {step}; lower the learning rate and start anew")
        rate = settings.learning_rate * warm_cosine(step, steps=settings.steps, warmup=settings.warmup)
        for group, own in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * own
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        trained = [one for group in self.optimizer.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(trained, settings.clip)
        share = 1.0 if settings.last_head_rate is None else settings.last_head_rate / settings.head_rate
        heads = self.own_heads if share != 1 else []
        last = [one[-1].detach().clone() for one in heads]
        self.optimizer.step()
        with torch.no_grad():  # all exits are one tensor, and steps of AdamW go with the rate
            for one, before in zip(heads, last, strict=True):
                one[-1] = torch.lerp(before, one[-1], share)
        return (value, *(float(loss.detach()) for loss in figures))

    def _losses(self, step: int) -> tuple[Tensor, list[Tensor]]:
        """Return what is made smaller, and its parts: InfoNCE, hidden tokens, common sources, by exit."""
        parts, figures = [], []
        if self.batches is not None:
            with self._autocast():
                queries, documents = (self._embed(side) for side in self.batches(step))
            pairs = self.loss(queries, documents)
            parts.append(self.settings.contrast * pairs.total)
            figures += pairs.by_exit.values()
        if self.context is not None:
            assert self.context_loss is not None
            rows = ContextBatch(*(part.to(self.device) for part in self.context(step)))
            with self._autocast():
                found = self.context_loss(self.encoder.states(rows.input_ids, rows.attention_mask), rows)
            weights = dict(zip(self.encoder.exits, self.loss.weights, strict=True))
            for weight, losses in zip((self.settings.mlm, self.settings.same_source), found, strict=True):
                parts += [weight * weights[exit] * loss for exit, loss in losses.items()]
                figures += losses.values()
        return torch.stack(parts).sum(), figures

    def _embed(self, side: Mapping[str, Tensor]) -> dict[int, Tensor]:
        found = self.encoder.embed(side["input_ids"].to(self.device), side["attention_mask"].to(self.device))
        return {exit: embeddings.float() for exit, embeddings in found.items()}

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()
