"""Streams of tasks, and what a method makes of one: the field's metrics of continual learning.

A stream is any iterable of `StreamTask`, plain torch datasets; a method is anything that can learn one and
give scores for those that it has learned. `run_stream` brings both together.

Metrics: average accuracy and backward transfer are those of arXiv 1706.08840, section 2, forgetting that of
arXiv 1801.10112, section 4.2. Networks of one mask for each task have no answer before a task is learned, so
forward transfer is not measured on tasks to come but as what learning after others gains over learning alone
(arXiv 2105.10919, section 3, by final accuracies).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from brickyard.continual.examples import Examples, everything
from brickyard.core.errors import DataError

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StreamTask:
    """A task of a stream.

    Attributes:
        name: Its name, unique in the stream.
        train: Examples to learn from.
        test: Examples to be judged by.
        num_classes: Number of classes.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int


class Method(Protocol):
    """What learns a stream."""

    def learn(self, task: StreamTask, /) -> None:
        """Learn a task from its training examples."""

    def scores(self, name: str, inputs: Tensor, /) -> Tensor:
        """Return scores `[samples, num_classes]` of inputs of a task that was learned."""


@dataclass(frozen=True)
class Outcome:
    """How a method went through a stream.

    Attributes:
        names: Names of the tasks.
        accuracies: Accuracy on each task (column) after each was learned (row), `[tasks, tasks]`; NaN for
            tasks that were not learned yet.
        change: Largest change of any score of a task from when it was learned to any later time.
        seconds: Time that learning each task took.
    """

    names: tuple[str, ...]
    accuracies: Values
    change: float
    seconds: tuple[float, ...]

    @property
    def learned(self) -> Values:
        """Accuracy on each task right after it was learned, `[tasks]`."""
        learned: Values = np.diagonal(self.accuracies)
        return learned

    @property
    def final(self) -> Values:
        """Accuracy on each task after the last one, `[tasks]`."""
        final: Values = self.accuracies[-1]
        return final

    @property
    def average_accuracy(self) -> float:
        """Mean accuracy over all tasks after the last one."""
        return float(self.final.mean())

    @property
    def backward_transfer(self) -> float:
        """Mean change of the accuracy on earlier tasks from when they were learned to the end; 0 for one."""
        return float((self.final - self.learned)[:-1].mean()) if len(self.names) > 1 else 0.0

    @property
    def forgetting(self) -> float:
        """Mean loss on earlier tasks from the best accuracy they ever had before the end; 0 for one task."""
        if len(self.names) == 1:
            return 0.0
        best = np.nanmax(self.accuracies[:-1, :-1], axis=0)
        return float((best - self.final[:-1]).mean())

    def forward_transfer(self, alone: Sequence[float] | Values) -> float:
        """Return what learning a task after others gains over learning it alone, mean over all but the first.

        Args:
            alone: Accuracy on each task of the same method where it learns nothing else, `[tasks]`.
        """
        gains = self.learned - np.asarray(alone, dtype=np.float64)
        return float(gains[1:].mean()) if len(self.names) > 1 else 0.0


def run_stream(
    method: Method, stream: Iterable[StreamTask], *, watch: Callable[[StreamTask, float], None] | None = None
) -> Outcome:
    """Let a method learn a stream, and judge it on all tasks so far after each.

    Args:
        method: The method, which learns nothing else meanwhile.
        stream: The tasks, in order.
        watch: Called after each task with it and the accuracy on it.

    Returns:
        Accuracies, the largest change of a score, times.

    Raises:
        DataError: The stream is empty, or two tasks bear one name.
    """
    tasks: list[StreamTask] = []
    first: dict[str, Tensor] = {}
    rows: list[list[float]] = []
    change, seconds = 0.0, []
    for task in stream:
        if task.name in first:
            raise DataError(f"two tasks of the stream are named {task.name!r}; give them different names")
        started = time.perf_counter()
        method.learn(task)
        seconds.append(time.perf_counter() - started)
        tasks.append(task)
        row = []
        for earlier in tasks:
            inputs, labels = everything(earlier.test)
            scores = method.scores(earlier.name, inputs).detach().cpu()
            row.append(float((scores.argmax(1) == labels).double().mean()))
            change = max(change, float((scores - first.setdefault(earlier.name, scores)).abs().max()))
        rows.append(row)
        if watch is not None:
            watch(task, row[-1])
    if not tasks:
        raise DataError("the stream has no tasks; give at least one")
    accuracies = np.full((len(tasks), len(tasks)), np.nan)
    for number, row in enumerate(rows):
        accuracies[number, : len(row)] = row
    return Outcome(tuple(task.name for task in tasks), accuracies, change, tuple(seconds))


class _Reordered(TensorDataset):
    """Examples whose inputs' features are read in another order."""

    def __init__(self, examples: TensorDataset, order: Tensor) -> None:
        super().__init__(*examples.tensors)
        self.order = order

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        inputs, labels = (tensor[index] for tensor in self.tensors)
        return inputs[..., self.order], labels


def permuted_tasks(
    train: TensorDataset, test: TensorDataset, *, num_tasks: int, num_classes: int, seed: int = 0
) -> Iterator[StreamTask]:
    """Yield tasks that have the same examples, each with its features in an order of its own.

    Args:
        train: Inputs `[samples, features]` and class indices to learn from.
        test: The same to be judged by.
        num_tasks: Number of tasks.
        num_classes: Number of classes.
        seed: Seed of the orders; the first task has one too.

    Yields:
        Tasks that share the tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    for number in range(num_tasks):
        order = torch.randperm(train.tensors[0].shape[1], generator=generator)
        parts = [_Reordered(part, order) for part in (train, test)]
        yield StreamTask(f"order {number}", parts[0], parts[1], num_classes)


def split_tasks(
    train: TensorDataset, test: TensorDataset, *, classes: Sequence[Sequence[int]]
) -> Iterator[StreamTask]:
    """Yield tasks that have some of the classes each, numbered from 0 in their order.

    Args:
        train: Inputs and class indices to learn from.
        test: The same to be judged by.
        classes: Classes of each task.

    Yields:
        Tasks.

    Raises:
        DataError: A class has no examples.
    """
    for wanted in classes:
        parts = []
        for part in (train, test):
            inputs, labels = part.tensors
            absent = [number for number in wanted if not bool((labels == number).any())]
            if absent:
                raise DataError(f"class {absent[0]} has no examples; leave it out")
            places = torch.isin(labels, torch.tensor(list(wanted)))
            numbers = torch.full((int(labels.max()) + 1,), -1)
            numbers[list(wanted)] = torch.arange(len(wanted))
            parts.append(TensorDataset(inputs[places], numbers[labels[places]]))
        name = "classes " + " ".join(str(number) for number in wanted)
        yield StreamTask(name, parts[0], parts[1], len(wanted))
