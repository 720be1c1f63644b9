"""Gives training its batches: from recorded pictures, or from scenes that are drawn anew; needs torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from brickyard.data.examples import Examples
from brickyard.data.geometry import scenes
from brickyard.data.source import DataSource
from brickyard.train.augment import BoxAugment
from brickyard.train.joint import Batch, TrainSettings

_POOL_BYTES = 2**28


def batches(
    source: DataSource, settings: TrainSettings, *, fresh_scenes: int, augment: BoxAugment | None = None
) -> Callable[[int, np.random.Generator], Batch]:
    """Return what gives the pictures of a step.

    Args:
        source: The data.
        settings: The run.
        fresh_scenes: Scenes of an epoch, where scenes are drawn; fewer where they would take more than 256
            MB.
        augment: Changes pictures and their boxes at random; None for pictures as they are.

    Returns:
        From step and generator to a batch.
    """
    mean = torch.tensor(source.preprocess.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(source.preprocess.std).reshape(1, -1, 1, 1)
    sides = np.array([source.preprocess.width, source.preprocess.height] * 2, dtype=np.float32)
    fresh_scenes = min(fresh_scenes, max(1, _POOL_BYTES // int(np.prod(source.preprocess.shape))))
    pool: dict[int, Examples] = {}

    def examples(step: int) -> Examples:
        if source.geometry is None:
            return source.train
        epoch = step * settings.batch_size // fresh_scenes
        if epoch not in pool:
            pool.clear()
            pool[epoch] = scenes(source.geometry, fresh_scenes, 1_000_000 * (settings.seed + 1) + epoch)
        return pool[epoch]

    def batch(step: int, rng: np.random.Generator) -> Batch:
        current = examples(step)
        index = rng.integers(0, len(current), settings.batch_size)
        pictures = (
            torch.from_numpy(current.images[index]).permute(0, 3, 1, 2).float() * source.preprocess.scale
        )
        pictures, objects = (pictures - mean) / std, current.objects[index]
        boxes = None if current.boxes is None else current.boxes[index] / sides
        if augment is not None and boxes is not None:
            pictures, objects, boxes = augment(pictures, objects, boxes, rng)
        return Batch(pictures, objects, boxes)

    return batch
