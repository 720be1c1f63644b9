"""Batches by length: every sequence once in an epoch, like lengths together, the same for the same seed."""

import numpy as np

from brickyard.train.buckets import LengthBatches

LENGTHS = np.random.default_rng(5).integers(1, 40, 203)


def epoch(batches: LengthBatches, number: int) -> list[np.ndarray]:
    return [batches(number * batches.per_epoch + place) for place in range(batches.per_epoch)]


def test_an_epoch_shows_each_sequence_once():
    batches = LengthBatches(LENGTHS, batch_size=10, seed=0)
    assert batches.per_epoch == 20
    for number in (0, 1):
        shown = np.concatenate(epoch(batches, number))
        assert len(set(shown.tolist())) == len(shown) == 200


def test_lengths_of_a_batch_are_alike():
    found = epoch(LengthBatches(LENGTHS, batch_size=10, seed=0), 0)
    spread = np.mean([np.ptp(LENGTHS[batch]) for batch in found])
    assert spread < 0.15 * np.ptp(LENGTHS)
    firsts = [LENGTHS[batch].mean() for batch in found]
    assert firsts != sorted(firsts)


def test_a_step_is_decided_by_the_seed_alone():
    one, two = (LengthBatches(LENGTHS, batch_size=10, seed=4) for _ in range(2))
    list(map(one, range(37)))
    assert np.array_equal(one(37), two(37))
    assert not np.array_equal(two(37), LengthBatches(LENGTHS, batch_size=10, seed=5)(37))
    assert not np.array_equal(np.concatenate(epoch(two, 0)), np.concatenate(epoch(two, 1)))


def test_few_sequences_make_one_batch():
    batches = LengthBatches([3, 1, 2], batch_size=10, seed=0)
    assert sorted(batches(7).tolist()) == [0, 1, 2]
