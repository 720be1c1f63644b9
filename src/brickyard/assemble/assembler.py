"""Assemblers: from a task and a limit to one logit per brick.

The additive assembler is the default: `l = t @ E + b(s)`, one learned row of logits per word of the task
plus a bias that depends on the limit. It composes by construction, so combinations of words that were
never trained work. This is an implementation of the idea of the generative module assembler of arXiv
2308.15003 as its abstract states it.

Each assembler is a function of named weights that uses only operations which numpy arrays and torch
tensors share, so that training (torch) and assembling on a device without torch (numpy) run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ConfigError

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Any]

_FREQUENCIES = (3.0, 6.0)
NUM_FEATURES = 1 + 2 * len(_FREQUENCIES)


def limit_features(limits: Floats) -> Floats:
    """Encode limits as the scalar and a few sines and cosines.

    Args:
        limits: Shares in (0, 1], `[batch]`.

    Returns:
        Features `[batch, 5]`.
    """
    columns = [limits]
    for frequency in _FREQUENCIES:
        columns += [np.sin(frequency * limits), np.cos(frequency * limits)]
    return np.stack(columns, axis=1).astype(np.float32)


def _limit_bias(weights: Weights, features: Any) -> Any:
    # The mean over hidden units, not their sum: else a step of training moves it as many times further than
    # the rows of words as there are units, and it reorders the bricks before the network can follow.
    hidden = (features @ weights["limit.in.weight"] + weights["limit.in.bias"]).clip(min=0)
    return hidden @ weights["limit.out.weight"] / hidden.shape[1] + weights["limit.out.bias"]


def additive(weights: Weights, tasks: Any, features: Any) -> Any:
    """Compute `t @ E + b(s)`.

    Args:
        weights: `words` `[words, bricks]` and the two layers of `limit`.
        tasks: Multi-hot tasks `[batch, words]`.
        features: `limit_features` `[batch, 5]`.

    Returns:
        Logits `[batch, bricks]`.
    """
    return tasks @ weights["words"] + _limit_bias(weights, features)


def low_rank(weights: Weights, tasks: Any, features: Any) -> Any:
    """Compute the additive logits plus an interaction of the task's words, `((t @ A) * (t @ B)) @ C`."""
    interaction = (tasks @ weights["left"]) * (tasks @ weights["right"])
    return additive(weights, tasks, features) + interaction @ weights["mix"]


def mlp(weights: Weights, tasks: Any, features: Any) -> Any:
    """Compute the logits by one hidden layer over task and limit; does not compose, kept for comparison."""
    hidden = tasks @ weights["words_in"] + features @ weights["limit_in"] + weights["bias_in"]
    hidden = hidden.clip(min=0)
    hidden = (hidden @ weights["hidden"] + weights["bias_hidden"]).clip(min=0)
    return hidden @ weights["out"] + weights["bias_out"]


ASSEMBLERS: dict[str, Callable[[Weights, Any, Any], Any]] = {
    "additive": additive,
    "low_rank": low_rank,
    "mlp": mlp,
}
"""The assemblers by name."""


def initial_bias(block_sizes: Sequence[int]) -> Floats:
    """Rank the bricks of each block alike, so that training starts with the same nested core for every task.

    From there the words learn what they need besides the core. Starting from a random ranking for each word
    instead trains no subnet long enough to work.

    Args:
        block_sizes: Bricks of each block.

    Returns:
        Logits `[bricks]`, falling from 1 to 0.2 inside each block.
    """
    return np.concatenate([np.linspace(1.0, 0.2, size) for size in block_sizes]).astype(np.float32)


def initial_weights(
    kind: str,
    *,
    num_words: int,
    block_sizes: Sequence[int],
    seed: int,
    hidden: int = 64,
    ranking: Floats | None = None,
) -> dict[str, Floats]:
    """Draw the weights an assembler starts training with; every brick starts open at limit 1.

    Args:
        kind: A name in `ASSEMBLERS`.
        num_words: Length of a task vector.
        block_sizes: Bricks of each block.
        seed: Seed of the draw.
        hidden: Hidden units of the small layers.
        ranking: Logits above 0 that every task starts with, `[bricks]`; `initial_bias` if None.

    Returns:
        Weights by name.

    Raises:
        ConfigError: Unknown kind.
    """
    if kind not in ASSEMBLERS:
        raise ConfigError(
            f"assembler {kind!r} is unknown; known: {sorted(ASSEMBLERS)}", path="assembler", value=kind
        )
    rng = np.random.default_rng(seed)
    num_bricks = sum(block_sizes)
    bias = initial_bias(block_sizes) if ranking is None else ranking.copy()

    def normal(rows: int, columns: int, scale: float) -> Floats:
        return (rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    def zeros(columns: int) -> Floats:
        return np.zeros(columns, dtype=np.float32)

    if kind == "mlp":
        return {
            "words_in": normal(num_words, 2 * hidden, num_words**-0.5),
            "limit_in": normal(NUM_FEATURES, 2 * hidden, NUM_FEATURES**-0.5),
            "bias_in": zeros(2 * hidden),
            "hidden": normal(2 * hidden, 2 * hidden, (hidden) ** -0.5),
            "bias_hidden": zeros(2 * hidden),
            "out": normal(2 * hidden, num_bricks, 0.3 * (2 * hidden) ** -0.5),
            "bias_out": bias,
        }
    weights = {
        "words": np.zeros((num_words, num_bricks), dtype=np.float32),
        "limit.in.weight": normal(NUM_FEATURES, hidden, NUM_FEATURES**-0.5),
        "limit.in.bias": zeros(hidden),
        "limit.out.weight": np.zeros((hidden, num_bricks), dtype=np.float32),
        "limit.out.bias": bias,
    }
    if kind == "low_rank":
        rank = max(4, hidden // 4)
        weights["left"] = normal(num_words, rank, num_words**-0.5)
        weights["right"] = normal(num_words, rank, num_words**-0.5)
        weights["mix"] = np.zeros((rank, num_bricks), dtype=np.float32)
    return weights
