"""Arms of the benchmark of emergent experts: what is fine-tuned, how, and how well it then classifies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import _adaptor
import numpy as np
import torch
from _minilm import model_folder, tokenizer
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.modularize import ModularTransformer, modularize_transformer
from brickyard.train.supernet import warm_cosine

EXAMPLES, VALIDATION, BATCH, MAX_TOKENS = 1000, 1000, 32, 80
DROPOUT, EXPERTS = 0.1, 64
LAYERS = "last-even:2"
HEAD_RATE = 10.0


@dataclass(frozen=True)
class Task:
    """A task of classes.

    Attributes:
        read: Reads its parts.
        epochs: How often each example is seen.
        metric: Name of the metric.
        judge: From labels and answers to the metric.
    """

    read: Callable[[], dict[str, _adaptor.Labelled]]
    epochs: int
    metric: str
    judge: Callable[[Any, Any], float]


TASKS = {
    "CoLA": Task(_adaptor.cola, 5, "Matthews correlation", matthews_corrcoef),
    "SST-2": Task(_adaptor.sst2, 3, "accuracy", accuracy_score),
    "RTE": Task(_adaptor.rte, 3, "accuracy", accuracy_score),
}
PARTS = {"validation": "validation", "test": "in domain", "other": "out of domain"}


@dataclass(frozen=True)
class Arm:
    """How the feed-forward networks of the chosen layers are trained.

    Attributes:
        experts: Settings of `modularize_transformer` that are not the usual ones; None for a dense model.
        fixed: Whether all tokens use the same experts, the first `top_k`.
        dropout: Share of pre-activations that are dropped in front of the activation, as the paper's code
            does.
        rate: Learning rate as a multiple of the chosen one.
    """

    experts: Mapping[str, Any] | None = None
    fixed: bool = False
    dropout: float = 0.0
    rate: float = 1.0


DENSE = "dense"
QUARTER, HALF, MOST = "EMoE, 16 of 64", "EMoE, 32 of 64", "EMoE, 48 of 64"
ONE_LAYER, DROPPED = "EMoE, 16 of 64, one layer", "EMoE, 16 of 64, dropout 0.1"
HALF_ONE_LAYER = "EMoE, 32 of 64, one layer"
CANDIDATES = (QUARTER, HALF, MOST, HALF_ONE_LAYER, ONE_LAYER, DROPPED)
ARMS = {
    DENSE: Arm(),
    QUARTER: Arm({"top_k": 16}),
    HALF: Arm({"top_k": 32}),
    MOST: Arm({"top_k": 48}),
    HALF_ONE_LAYER: Arm({"top_k": 32, "layers": "last-even:1"}),
    "dense, dropout 0.1": Arm(dropout=DROPOUT),
    "random experts, 16 of 64": Arm({"top_k": 16, "partition": "random"}),
    "lowest 16 of 64": Arm({"top_k": 16, "gate": "lowest"}),
    "fixed 16 of 64": Arm({"top_k": 16}, fixed=True),
    ONE_LAYER: Arm({"top_k": 16, "layers": "last-even:1"}),
    DROPPED: Arm({"top_k": 16}, dropout=DROPOUT),
}
TRIED = {  # beside the arms, with fewer seeds
    "EMoE, 16 of 64, half the rate": Arm({"top_k": 16}, rate=0.5),
    "EMoE, 16 of 64, twice the rate": Arm({"top_k": 16}, rate=2.0),
    "EMoE, 16 of 64, all layers": Arm({"top_k": 16, "layers": "all"}),
    "EMoE, 4 of 16": Arm({"top_k": 4, "experts": 16}),
}
REVERTED, SPLIT = "{}, reverted to dense", "dense, then {}"
CONTROLS = ("dense, dropout 0.1", "random experts, 16 of 64", "lowest 16 of 64", "fixed 16 of 64")
ORDER = ((DENSE, QUARTER), (HALF,), (MOST, HALF_ONE_LAYER), CONTROLS)  # what is measured first


class Classifier(nn.Module):
    """A linear layer on the mean of the states of an encoder.

    Args:
        encoder: The encoder.
        width: Width of its states.
        classes: Number of classes.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(DROPOUT)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Return scores `[texts, classes]`."""
        found = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        )
        real = attention_mask.unsqueeze(-1)
        mean = (found.last_hidden_state * real).sum(1) / real.sum(1)
        scores: Tensor = self.head(self.dropout(mean))
        return scores


def fresh(seed: int) -> Classifier:
    """Return the pretrained encoder with a fresh head of two classes."""
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(model_folder())
    torch.manual_seed(seed)
    return Classifier(encoder, encoder.config.hidden_size, 2)


def batch_of(texts: Sequence[tuple[str, ...]]) -> dict[str, Tensor]:
    """Return texts, or pairs, as padded rows of tokens."""
    sides = [list(side) for side in zip(*texts, strict=True)]
    found = tokenizer()(*sides, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return dict(found)


def examples(task: Task, seed: int, count: int = EXAMPLES) -> dict[str, _adaptor.Labelled]:
    """Return the drawn examples of a seed: `train` and `validation` of the training set, and what tests."""
    parts = dict(task.read())
    texts, labels = parts["train"]
    order = np.random.default_rng(seed).permutation(len(texts))[: count + VALIDATION]
    for part, places in (("train", order[:count]), ("validation", order[count:])):
        parts[part] = (tuple(texts[place] for place in places), labels[places])
    return parts


def prepare(model: Classifier, arm: Arm, seed: int) -> ModularTransformer | None:
    """Turn a model into that of an arm, in place.

    Returns:
        The modular encoder; None for a dense arm.
    """
    if arm.experts is None:
        return None
    settings: dict[str, Any] = {"experts": EXPERTS, "layers": LAYERS, **arm.experts}
    modular = modularize_transformer(model.encoder, seed=seed, **settings)
    if arm.fixed:
        first = tuple(range(arm.experts["top_k"]))
        modular.network.configure(dict.fromkeys(modular.experts, first))
    return modular


@contextmanager
def noise(model: Classifier, share: float) -> Iterator[None]:
    """Drop a share of the pre-activations of the layers that have experts, or would have."""
    from brickyard.modularize import example_inputs, find_anatomy

    handles = []
    if share:
        layers = find_anatomy(model.encoder, example_inputs(model.encoder)).layers[::2][-2:]
        for part in (part for layer in layers for part in layer.feed_forwards):
            activation = model.encoder.get_submodule(part.activation)
            handles.append(
                activation.register_forward_pre_hook(
                    lambda module, args: F.dropout(args[0], share, training=module.training)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _context(precision: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def train(
    model: Classifier, task: Task, data: _adaptor.Labelled, seed: int, *, rate: float, precision: str
) -> None:
    """Fine-tune all weights.

    Args:
        model: The model; changed.
        task: Its task.
        data: What to train on.
        seed: Seed of the order and of dropout.
        rate: Highest learning rate; that of the head is ten times it.
        precision: `fp32` or `bf16`.
    """
    texts, labels = data
    head = list(model.head.parameters())
    groups = [
        {"params": list(model.encoder.parameters()), "factor": 1.0},
        {"params": head, "factor": HEAD_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.01, fused=True)
    batches = [
        order[start : start + BATCH]
        for epoch in range(task.epochs)
        for order in [np.random.default_rng([seed, epoch]).permutation(len(texts))]
        for start in range(0, len(texts) - BATCH + 1, BATCH)
    ]
    model.train()
    for step, places in enumerate(batches):
        torch.manual_seed(int(np.random.default_rng([seed, step, 1]).integers(2**62)))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"] * warm_cosine(step, steps=len(batches), warmup=0.1)
        with _context(precision):
            scores = model(**batch_of([texts[place] for place in places]))
        loss = F.cross_entropy(scores.float(), torch.as_tensor(labels[places]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


@torch.inference_mode()
def answers(model: Classifier, texts: Sequence[tuple[str, ...]], precision: str) -> np.ndarray[Any, Any]:
    """Return the class of each text."""
    model.eval()
    order = sorted(range(len(texts)), key=lambda place: sum(map(len, texts[place])))
    found = np.zeros(len(texts), dtype=np.int64)
    for start in range(0, len(order), 64):
        places = order[start : start + 64]
        with _context(precision):
            found[places] = model(**batch_of([texts[place] for place in places])).argmax(-1).numpy()
    return found


def scores(
    model: Classifier, task: Task, parts: Mapping[str, _adaptor.Labelled], precision: str
) -> dict[str, float]:
    """Return the metric in points by part: validation, in domain, out of domain."""
    return {
        name: 100 * float(task.judge(labels, answers(model, texts, precision)))
        for part, name in PARTS.items()
        if part in parts
        for texts, labels in [parts[part]]
    }


def run(
    name: str, task: Task, seed: int, *, rate: float, precision: str, count: int
) -> dict[str, dict[str, float]]:
    """Fine-tune an arm and judge it, and what it can be turned into without training.

    Args:
        name: Name of the arm.
        task: The task.
        seed: Seed of everything.
        rate: Highest learning rate, which the arm may multiply.
        precision: `fp32` or `bf16`.
        count: Examples to learn from.

    Returns:
        Metrics by part, by name of the method.
    """
    arm, parts = {**ARMS, **TRIED}[name], examples(task, seed, count)
    model = fresh(seed)
    with noise(model, arm.dropout):
        modular = prepare(model, arm, seed)
        train(model, task, parts["train"], seed, rate=rate * arm.rate, precision=precision)
    found = {name: scores(model, task, parts, precision)}
    if name in CANDIDATES:
        assert modular is not None
        modular.revert()
        found[REVERTED.format(name)] = scores(model, task, parts, precision)
    if name == DENSE:
        prepare(model, ARMS[QUARTER], seed)
        found[SPLIT.format(QUARTER)] = scores(model, task, parts, precision)
    return found
