"""Training for one task alone: a net of fresh weights, or a cut of the generic network.

Data, losses and optimizer are those of the factory's joint stage, with the one task as the only question;
the network has no gates. Learning follows several schedules, the shortest first, since a longer schedule
reaches every accuracy later.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from _factories import Kept, settings_of
from _runtime import forward
from torch import Tensor, nn

from brickyard.core.network import Network
from brickyard.core.task import Task
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.geometry import task_scenes
from brickyard.factory.quality import rate
from brickyard.train.augment import AUGMENTATIONS
from brickyard.train.joint import Batch, JointTraining
from brickyard.train.layout import fast_layout_
from brickyard.train.tasks import PropertyQuestions, Questions

_TRAIN_SCENES = 20_000
_TRAIN_SEED = 600_000_000


class BatchPool:
    """Draws batches from examples in memory.

    Args:
        examples: The examples.
        preprocess: How pictures become inputs.
        size: Pictures of a batch.
    """

    def __init__(self, examples: Examples, preprocess: Preprocess, size: int) -> None:
        self.examples, self.preprocess, self.size = examples, preprocess, size
        self.sides = np.array([preprocess.width, preprocess.height] * 2, dtype=np.float32)

    def __call__(self, step: int, rng: np.random.Generator) -> Batch:
        """Return the pictures of a step."""
        index = rng.integers(0, len(self.examples), self.size)
        pictures = torch.from_numpy(self.preprocess.apply(self.examples.images[index]))
        boxes = None if self.examples.boxes is None else self.examples.boxes[index] / self.sides
        return Batch(pictures, self.examples.objects[index], boxes)


class OneTask:
    """Asks every picture the same task; words or classes are counted within the task.

    Args:
        entry: Factory whose words they are.
        task: The task.
    """

    def __init__(self, entry: Kept, task: Task) -> None:
        vocabulary = entry.vocabulary
        self.columns = sorted(vocabulary.index(word) for word in task.words)
        self.properties = PropertyQuestions(vocabulary, [task]) if task.kind == "properties" else None

    def __call__(self, objects: npt.NDArray[np.int16], rng: np.random.Generator) -> Questions:
        """Return the questions of a batch."""
        if self.properties is None:
            labels = np.searchsorted(self.columns, objects[:, 0, 0]).astype(np.int64)
            return Questions(np.zeros((len(labels), 0), dtype=np.float32), labels)
        asked = self.properties(objects, rng)
        assert asked.words is not None
        return replace(asked, tasks=asked.tasks[:, self.columns], words=asked.words[..., self.columns])


def examples_to_train(entry: Kept, task: Task) -> Examples:
    """Return what a task alone is trained on: scenes made for it, or the pictures of its classes."""
    spec = entry.factory.folder.geometry
    if spec is not None:
        seed = _TRAIN_SEED + 1000 * entry.seed
        return task_scenes(spec, task.values(entry.vocabulary), _TRAIN_SCENES, seed)[0]
    train = entry.data.train
    return train.subset(np.isin(train.classes, task.class_indices(entry.vocabulary)))


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        quality: (Balanced) accuracy at the end.
        best: The best accuracy that was seen.
        seconds: Seconds of training, data made before and tests left out; processor time where that is
            less, so that a busy machine does not count against it.
        reached: Seconds after which the accuracy wanted was first reached, None if never.
        steps: Optimizer steps.
    """

    quality: float
    best: float
    seconds: float
    reached: float | None
    steps: int


def train_alone(
    entry: Kept,
    task: Task,
    module: nn.Module,
    *,
    schedules: Sequence[int],
    rate_peak: float,
    wanted: float,
    examples: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]],
    tests: int = 20,
    to_the_end: bool = True,
) -> list[Run]:
    """Train copies of a network for a task, one for each schedule.

    Args:
        entry: Factory that it is compared with.
        task: The task.
        module: Network with a head for this task; left as it is.
        schedules: Steps of each training, ascending.
        rate_peak: Peak learning rate.
        wanted: Accuracy to reach.
        examples: What it is tested on.
        tests: Tests in the course of each training.
        to_the_end: Whether further schedules are run when one has reached what is wanted.

    Returns:
        The runs.
    """
    settings = settings_of(entry.what, entry.seed)
    pool = BatchPool(examples_to_train(entry, task), entry.preprocess, settings.train.batch_size)
    inputs = entry.preprocess.apply(examples[0])
    runs: list[Run] = []
    for steps in schedules:
        network = Network(fast_layout_(copy.deepcopy(module)), input_shape=entry.preprocess.shape)
        training = JointTraining(
            network,
            nn.Linear(1, 1),
            gate=_no_gates,
            costs=np.zeros(0, dtype=np.float32),
            batches=pool,
            ask=OneTask(entry, task),
            settings=replace(settings.train, steps=steps, learning_rate=rate_peak, distill=0.0),
            augment=AUGMENTATIONS[settings.augment],
        )
        runs.append(
            _timed(
                training, network, lambda net: _judge(entry, task, net, inputs, examples[1]), wanted, tests
            )
        )
        if runs[-1].reached is not None and not to_the_end:
            break
    return runs


def _no_gates(tasks: Tensor, limits: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(tasks), 0), torch.zeros(())


def _judge(
    entry: Kept, task: Task, network: Network, inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> float:
    scores = forward(network.root, inputs).numpy()
    network.train()
    return rate(task, entry.vocabulary, scores, labels)[0]


def _timed(
    training: JointTraining, network: Network, judge: Callable[[Network], float], wanted: float, tests: int
) -> Run:
    steps = training.settings.steps
    records = training.run(record_every=max(1, steps // tests))
    seconds, reached, values = 0.0, None, []
    while True:
        started = time.perf_counter(), time.process_time()
        record = next(records, None)
        seconds += min(time.perf_counter() - started[0], time.process_time() - started[1])
        if record is None:
            break
        values.append(judge(network))
        if reached is None and values[-1] >= wanted:
            reached = seconds
    return Run(values[-1], max(values), seconds, reached, steps)


def fresh_weights_(module: nn.Module, seed: int) -> None:
    """Give a network for one task fresh weights; those of the presence head, which means something, stay.

    Args:
        module: Changed.
        seed: Seed of the draw.
    """
    torch.manual_seed(seed)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and name not in (
            "head.score",
            "head.answer",
        ):
            layer.reset_parameters()
            if name == "head.missing":
                layer.weight.data.mul_(0.5)
