"""Average precision against a slow count."""

import numpy as np
import pytest

from brickyard.export.decode import Detections, overlaps
from brickyard.factory.precision import Truth, average_precision


def slow_ap(truth, found, label, overlap):
    """Precision at 101 recalls, each the best at that recall or beyond."""
    rows = [
        (float(score), number, box)
        for number, part in enumerate(found)
        for box, score, own in zip(part.boxes, part.scores, part.labels, strict=True)
        if own == label
    ]
    there = [part.boxes[part.labels == label] for part in truth]
    taken = [np.zeros(len(boxes), bool) for boxes in there]
    total, right, curve = sum(map(len, there)), 0, []
    for number, (_, picture, box) in enumerate(sorted(rows, key=lambda row: -row[0]), start=1):
        shared = np.where(taken[picture], -1, overlaps(box, there[picture])) if len(there[picture]) else []
        if len(shared) and max(shared) >= overlap:
            taken[picture][int(np.argmax(shared))] = True
            right += 1
        curve.append((right / total, right / number))
    return np.mean(
        [max((p for r, p in curve if r >= recall - 1e-12), default=0.0) for recall in np.linspace(0, 1, 101)]
    )


def test_it_is_that_of_a_slow_count(rng):
    truth, found = [], []
    for _ in range(30):
        corners = rng.uniform(0, 60, (4, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 30, (4, 2))], 1).astype(np.float32)
        labels = rng.integers(0, 2, 4)
        truth.append(Truth(boxes, labels))
        noisy = (boxes + rng.normal(0, 2.5, boxes.shape)).astype(np.float32)
        keep = rng.random(4) < 0.8
        stray = rng.uniform(0, 40, (2, 4)).astype(np.float32)
        stray[:, 2:] += 45
        found.append(
            Detections(
                np.concatenate([noisy[keep], stray]),
                rng.random(keep.sum() + 2).astype(np.float32),
                np.concatenate([labels[keep], [0, 1]]),
            )
        )
    result = average_precision(truth, found, labels=3)
    expected = {label: slow_ap(truth, found, label, 0.5) for label in (0, 1)}
    assert result.by_label == pytest.approx(expected, abs=1e-6)
    assert result.ap50 == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    every = [slow_ap(truth, found, k, limit) for k in (0, 1) for limit in np.arange(0.5, 0.96, 0.05)]
    assert result.ap == pytest.approx(np.mean(every), abs=2e-3)
    assert 0.1 < result.ap < result.ap50 < 0.9


def test_nothing_found_is_zero_and_nothing_there_is_nan():
    box = np.array([[0, 0, 4, 4]], np.float32)
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    nothing = Truth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    missed = average_precision([Truth(box, np.array([1]))], [none], labels=2)
    assert (missed.ap, missed.ap50, missed.by_label) == (0.0, 0.0, {1: 0.0})
    assert np.isnan(average_precision([nothing], [none], labels=2).ap50)
    right = Detections(box, np.array([0.5], np.float32), np.array([1]))
    assert average_precision([Truth(box, np.array([1]))], [right], labels=2).ap == pytest.approx(1)
