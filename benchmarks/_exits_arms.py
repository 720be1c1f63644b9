"""Arms of the benchmark of exits: what is trained, how settings are chosen, and how well exits find."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import _adaptor
import numpy as np
import torch
from _minilm import model_folder, tokenizer
from torch import nn

from brickyard.factory.exit_table import ranks_of
from brickyard.modularize import MultiExitEncoder, add_exits
from brickyard.train.exits import ExitSettings, ExitTraining, TextPairs
from brickyard.train.supernet import warm_cosine

EXITS = (1, 2, 3, 4, 6)
MAX_TOKENS = 64
PAIRS = 24
STEPS = 100
MULTI, LAST, SINGLE, PEER = "multi-exit", "last only", "single exit", "AdaptiveLayerLoss"
Values = list[tuple[str, str, int, float, int]]
"""Rows of test set, metric, exit, value, number of queries."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an arm is trained.

    Attributes:
        family: `MULTI`, `LAST`, `SINGLE` or `PEER`.
        name: The settings in words.
        settings: Those of `ExitSettings` that are not the same for all arms.
        depths: Layers of the models of single exits.
    """

    family: str
    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    depths: tuple[int, ...] = EXITS[:-1]


def last_alone(exit: int, last: int) -> float:
    """Weigh the last exit only."""
    return float(exit == last)


def early_less(exit: int, last: int) -> float:
    """Weigh the last exit 1 and each early one 0.3."""
    return 1.0 if exit == last else 0.3


def depth_squared(exit: int, last: int) -> float:
    """Weigh an exit by the square of its share of the layers."""
    return (exit / last) ** 2


def rates(learning_rate: float, head_rate: float, last: float | None = None) -> tuple[str, dict[str, float]]:
    """Return words for the rates, and the settings."""
    words = f"rate {learning_rate:g}" + (f", heads x{head_rate:g}" if head_rate != 1 else "")
    settings = {"learning_rate": learning_rate, "head_rate": head_rate}
    if last is None:
        return words, settings
    return f"{words}, last x{last:g}", {**settings, "last_head_rate": last}


def fresh_encoder(exits: Sequence[int] = EXITS) -> MultiExitEncoder:
    """Return the untrained encoder with heads of their own at exits."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_folder())
    return add_exits(model, exits=exits, tokenizer=tokenizer(), max_tokens=MAX_TOKENS)


def settings_of(recipe: Recipe, seed: int, *, steps: int, precision: str) -> ExitSettings:
    """Return the settings of a run."""
    weights = {} if recipe.family == MULTI else {"weights": last_alone}
    own = {**weights, **recipe.settings}
    return ExitSettings(steps=steps, precision=precision, seed=seed, **own)  # type: ignore[arg-type]


def train(
    recipe: Recipe, seed: int, *, steps: int, pairs: int, precision: str, tell: Callable[[str], None]
) -> Iterator[tuple[tuple[int, ...], MultiExitEncoder]]:
    """Train the models of an arm, each on the same batches of pairs.

    Args:
        recipe: The arm.
        seed: Seed of the order of the pairs and of dropout.
        steps: Optimizer steps.
        pairs: Pairs of a step.
        precision: `fp32` or `bf16`.
        tell: Called with words on the progress.

    Yields:
        The exits that are to be measured, and the trained encoder that has them.
    """
    settings = settings_of(recipe, seed, steps=steps, precision=precision)
    if recipe.family == PEER:
        yield EXITS, _train_peer(settings, pairs, tell)
        return
    for exits in [(depth,) for depth in recipe.depths] if recipe.family == SINGLE else [EXITS]:
        encoder = fresh_encoder(exits)
        batches = TextPairs(_adaptor.stdlib_pairs()["train"], encoder.tokens, batch_size=pairs, seed=seed)
        training = ExitTraining(encoder, batches=batches, settings=settings)
        for record in training.run(record_every=max(1, steps // 5)):
            losses = " ".join(f"{exit}:{loss:.2f}" for exit, loss in record.by_exit.items())
            tell(f"step {record.step}, {record.seconds:.0f} s, InfoNCE {losses}")
        yield exits, encoder


def _train_peer(settings: ExitSettings, pairs: int, tell: Callable[[str], None]) -> MultiExitEncoder:
    """Train with the loss of sentence-transformers and its defaults, on its own model of the same weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        AdaptiveLayerLoss,
        MultipleNegativesSymmetricRankingLoss,
    )

    model = SentenceTransformer(str(model_folder()), device="cpu")
    backbone: Any = model[0].auto_model  # type: ignore[index, union-attr]
    plain = backbone.forward

    def mixed(*args: Any, **kwargs: Any) -> Any:
        """Run the backbone in bf16 and hand on fp32, as the other arms do."""
        with torch.autocast("cpu", torch.bfloat16) if settings.precision == "bf16" else nullcontext():
            output = plain(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state.float()
        if output.hidden_states is not None:
            output.hidden_states = tuple(state.float() for state in output.hidden_states)
        return output

    tokens = fresh_encoder().tokens
    batches = TextPairs(_adaptor.stdlib_pairs()["train"], tokens, batch_size=pairs, seed=settings.seed)
    loss = AdaptiveLayerLoss(model, MultipleNegativesSymmetricRankingLoss(model, scale=settings.scale))
    decays = [one for one in model.parameters() if one.dim() > 1]
    others = [one for one in model.parameters() if one.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decays, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
    )
    model.train()
    backbone.forward = mixed
    random.seed(settings.seed)  # draws the layer of each step
    total = 0.0
    for step in range(settings.steps):
        torch.manual_seed(int(np.random.default_rng([settings.seed, step]).integers(2**62)))
        queries, documents = batches(step)
        value = loss([dict(queries), dict(documents)], torch.zeros(pairs))
        rate = settings.learning_rate * warm_cosine(step, steps=settings.steps, warmup=settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_([*decays, *others], settings.clip)
        optimizer.step()
        total += float(value.detach())
        every = max(1, settings.steps // 5)
        if (step + 1) % every == 0:
            tell(f"step {step + 1}, loss {total / every:.2f}")
            total = 0.0
    backbone.forward = plain
    encoder = add_exits(backbone, exits=EXITS, tokenizer=tokenizer(), head="none", max_tokens=MAX_TOKENS)
    encoder.network.eval()
    return encoder


def measured(encoder: MultiExitEncoder, exits: Sequence[int], sets: Sequence[str]) -> Values:
    """Return MRR and R@1 of exits, in fp32.

    Args:
        encoder: The encoder.
        exits: The exits.
        sets: `validation`, `stdlib` or `CoSQA`.
    """
    values: Values = []
    for name in sets:
        if name == "CoSQA":
            queries, documents, right = _adaptor.cosqa()
        else:
            pairs = _adaptor.stdlib_pairs()["test" if name == "stdlib" else name]
            queries, documents = ([pair[side] for pair in pairs] for side in (0, 1))
            right = list(range(len(pairs)))
        asked, there = encoder.encode_all(queries), encoder.encode_all(documents)
        for exit in exits:
            ranks = ranks_of(asked[exit], there[exit], torch.tensor(right))
            values.append((name, "MRR", exit, float((1 / ranks).mean()), len(queries)))
            values.append((name, "R@1", exit, float((ranks == 1).double().mean()), len(queries)))
    return values
