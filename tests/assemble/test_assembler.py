"""Assemblers: the same numbers from numpy, torch and a slow second way; what composes."""

import numpy as np
import pytest
import torch

from brickyard.assemble.assembler import (
    ASSEMBLERS,
    NUM_FEATURES,
    initial_bias,
    initial_weights,
    limit_features,
)
from brickyard.core.errors import ConfigError

WORDS, BLOCKS = 5, (4, 3)
BRICKS = sum(BLOCKS)


def weights_of(kind: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights of which none is zero."""
    initial = initial_weights(kind, num_words=WORDS, block_sizes=BLOCKS, seed=3, hidden=8)
    return {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in initial.items()}


def tasks_and_features(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    tasks = (rng.random((6, WORDS)) < 0.5).astype(np.float32)
    return tasks, limit_features(rng.random(6).astype(np.float32))


@pytest.mark.parametrize("kind", ASSEMBLERS)
def test_numpy_and_torch_give_the_same_logits(kind, rng):
    weights = weights_of(kind, rng)
    tasks, features = tasks_and_features(rng)
    first = ASSEMBLERS[kind](weights, tasks, features)
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    second = ASSEMBLERS[kind](tensors, torch.from_numpy(tasks), torch.from_numpy(features))
    assert first.shape == (6, BRICKS)
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, second.numpy(), rtol=1e-4, atol=1e-4)


def test_additive_logits_are_sums_of_the_rows_of_the_words_and_a_bias(rng):
    weights = weights_of("additive", rng)
    tasks, features = tasks_and_features(rng)
    logits = ASSEMBLERS["additive"](weights, tasks, features)
    for sample in range(len(tasks)):
        hidden = [
            max(
                0.0,
                sum(features[sample, i] * weights["limit.in.weight"][i, unit] for i in range(NUM_FEATURES))
                + weights["limit.in.bias"][unit],
            )
            for unit in range(8)
        ]
        for brick in range(BRICKS):
            bias = sum(hidden[unit] * weights["limit.out.weight"][unit, brick] for unit in range(8)) / 8
            rows = sum(weights["words"][word, brick] for word in np.flatnonzero(tasks[sample]))
            expected = rows + bias + weights["limit.out.bias"][brick]
            assert logits[sample, brick] == pytest.approx(expected, abs=1e-3)


def test_only_the_additive_assembler_composes(rng):
    first, second = np.eye(WORDS, dtype=np.float32)[[0, 3]]
    features = limit_features(np.array([0.4], dtype=np.float32))
    gaps = {}
    for kind, assembler in ASSEMBLERS.items():
        weights = weights_of(kind, rng)

        def logits(task, assembler=assembler, weights=weights):
            return assembler(weights, task[None], features)

        gaps[kind] = np.abs(logits(first + second) + logits(0 * first) - logits(first) - logits(second)).max()
    assert gaps["additive"] < 1e-5
    assert min(gaps["low_rank"], gaps["mlp"]) > 1e-2


def test_features_hold_the_limit_and_its_waves():
    features = limit_features(np.array([0.25, 1.0], dtype=np.float32))
    assert features.shape == (2, NUM_FEATURES)
    expected = [0.25, np.sin(0.75), np.cos(0.75), np.sin(1.5), np.cos(1.5)]
    np.testing.assert_allclose(features[0], expected, rtol=1e-6)


def test_training_starts_with_one_ranking_for_every_task_in_which_all_is_wanted():
    for kind in ("additive", "low_rank"):
        weights = initial_weights(kind, num_words=WORDS, block_sizes=BLOCKS, seed=0)
        tasks = np.eye(WORDS, dtype=np.float32)
        logits = ASSEMBLERS[kind](weights, tasks, limit_features(np.full(WORDS, 0.3, dtype=np.float32)))
        np.testing.assert_allclose(logits, np.tile(initial_bias(BLOCKS), (WORDS, 1)), atol=1e-6)
        assert (logits > 0).all()
    assert (np.diff(initial_bias((5,))) < 0).all()


def test_initial_weights_follow_the_seed():
    def draw(seed):
        return initial_weights("mlp", num_words=WORDS, block_sizes=BLOCKS, seed=seed)

    assert all((draw(1)[name] == value).all() for name, value in draw(1).items())
    assert any((draw(1)[name] != value).any() for name, value in draw(2).items())


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"assembler 'best' is unknown; known: .*'additive'"):
        initial_weights("best", num_words=2, block_sizes=(2,), seed=0)
