"""Which task each picture of a training batch is asked: half of the questions have the answer yes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import TaskError
from brickyard.core.task import Task, Vocabulary

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Questions:
    """One task per picture of a batch.

    Attributes:
        tasks: Multi-hot task vectors `[batch, words]`, float32.
        labels: The right output index `[batch]`: absent 0 or present 1, or the index of the class.
        allowed: For class tasks, which outputs belong to the task `[batch, classes]`; None for property
            tasks.
        hits: For property tasks, which objects of the picture answer it `[batch, objects]`; None for
            class tasks.
        words: For property tasks, which words each object has `[batch, objects, words]`; None for class
            tasks.
    """

    tasks: npt.NDArray[np.float32]
    labels: Ints
    allowed: npt.NDArray[np.bool_] | None = None
    hits: npt.NDArray[np.bool_] | None = None
    words: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TaskSplit:
    """Which property tasks a factory trains, and which pairs of words it never sees together.

    Attributes:
        trained: Single words, known pairs, and triples that contain no unseen pair.
        known: The trained pairs.
        unseen: The pairs held out; every word of theirs occurs in a known pair of the same two properties.
    """

    trained: tuple[Task, ...]
    known: tuple[Task, ...]
    unseen: tuple[Task, ...]


def split_tasks(vocabulary: Vocabulary, *, unseen_share: float, seed: int) -> TaskSplit:
    """Hold out a share of the pairs of every two properties.

    Args:
        vocabulary: Of kind `properties`.
        unseen_share: Share of the pairs to hold out, rounded up, of every two properties; 0 for none.
        seed: Seed of the draw.

    Returns:
        The split.

    Raises:
        TaskError: The share lies outside [0, 0.5], or so many pairs cannot be held out.
    """
    if not 0 <= unseen_share <= 0.5:
        raise TaskError(f"unseen_share = {unseen_share} must lie in [0, 0.5]")
    rng = np.random.default_rng(seed)
    groups = list(vocabulary.groups)
    known: list[Task] = []
    unseen: list[Task] = []
    for pair in combinations(groups, 2):
        tasks = vocabulary.combinations(*pair)
        wanted = int(np.ceil(unseen_share * len(tasks)))
        held = _hold_out(tasks, wanted, rng)
        known += [task for task in tasks if task not in held]
        unseen += [task for task in tasks if task in held]
    singles = [task for group in groups for task in vocabulary.combinations(group)]
    barred = [frozenset(task.words) for task in unseen]
    triples = [
        task
        for names in combinations(groups, 3)
        for task in vocabulary.combinations(*names)
        if not any(pair <= frozenset(task.words) for pair in barred)
    ]
    return TaskSplit((*singles, *known, *triples), tuple(known), tuple(unseen))


def _hold_out(tasks: Sequence[Task], wanted: int, rng: np.random.Generator) -> set[Task]:
    """Draw tasks so that every word stays in a task that is not drawn."""
    uses = {word: sum(word in task.words for task in tasks) for task in tasks for word in task.words}
    held: set[Task] = set()
    for index in rng.permutation(len(tasks)):
        task = tasks[index]
        if len(held) < wanted and all(uses[word] > 1 for word in task.words):
            held.add(task)
            for word in task.words:
                uses[word] -= 1
    if len(held) < wanted:
        raise TaskError(
            f"{wanted} of {len(tasks)} pairs cannot be held out with every word still known; hold out fewer"
        )
    return held


class PropertyQuestions:
    """Draws property tasks: present ones for half of the pictures, mostly near misses for the others.

    Args:
        vocabulary: Of kind `properties`.
        tasks: The tasks that may be asked while training.
        near_share: Share of the absent questions that share all but one property with an object of the
            picture.
    """

    def __init__(self, vocabulary: Vocabulary, tasks: Sequence[Task], *, near_share: float = 0.8) -> None:
        if not tasks:
            raise TaskError("no tasks to train; give at least one")
        self.vectors = np.stack([task.vector(vocabulary) for task in tasks])
        self.values = np.full((len(tasks), len(vocabulary.sizes)), -1, dtype=np.int64)
        for row, task in enumerate(tasks):
            for group, value in task.values(vocabulary).items():
                self.values[row, group] = value
        self.lengths = (self.values >= 0).sum(1)
        self.near_share = near_share
        self.sizes = np.array(vocabulary.sizes)

    def __call__(self, objects: npt.NDArray[np.int16], rng: np.random.Generator) -> Questions:
        """Ask each picture one task.

        Args:
            objects: Property values `[batch, objects, groups]`, -1 where there is no object.
            rng: Source of the draw.

        Returns:
            Tasks and labels.
        """
        agree = (objects[:, :, None, :] == self.values) & (self.values >= 0)
        shared = agree.sum(-1)
        best = shared.max(1)
        holds = best == self.lengths
        near = best == self.lengths - 1
        noise = rng.random(holds.shape, dtype=np.float32)
        wants = rng.random(len(objects)) < 0.5
        close = rng.random(len(objects)) < self.near_share
        pool = np.where(wants[:, None], holds, np.where(close[:, None], near, ~holds))
        chosen = (noise + pool).argmax(1)
        rows = np.arange(len(objects))
        hits = shared[rows, :, chosen] == self.lengths[chosen, None]
        return Questions(
            self.vectors[chosen],
            holds[rows, chosen].astype(np.int64),
            hits=hits,
            words=object_words(objects, self.sizes),
        )


def object_words(objects: npt.NDArray[np.int16], sizes: Ints) -> npt.NDArray[np.float32]:
    """Return which words each object has.

    Args:
        objects: Property values `[batch, objects, groups]`, -1 where there is no object.
        sizes: Values of each property, `[groups]`.

    Returns:
        Multi-hot `[batch, objects, words]`, zeros where there is no object.
    """
    words = np.zeros((*objects.shape[:2], int(sizes.sum())), dtype=np.float32)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    np.put_along_axis(words, starts + objects.clip(min=0), (objects >= 0).astype(np.float32), axis=2)
    return words


class ClassQuestions:
    """Draws class subsets that contain the class of the picture.

    Args:
        num_classes: Number of classes.
        smallest: Fewest classes of a subset.
        all_share: Share of the pictures that are asked about all classes.
    """

    def __init__(self, num_classes: int, *, smallest: int = 2, all_share: float = 0.15) -> None:
        self.num_classes, self.smallest, self.all_share = num_classes, smallest, all_share

    def __call__(self, objects: npt.NDArray[np.int16], rng: np.random.Generator) -> Questions:
        """Ask each picture for one of a few classes.

        Args:
            objects: Class indices `[batch, 1, 1]`.
            rng: Source of the draw.

        Returns:
            Tasks, labels and allowed outputs.
        """
        labels = objects[:, 0, 0].astype(np.int64)
        rows = np.arange(len(labels))
        noise = rng.random((len(labels), self.num_classes))
        noise[rows, labels] = -1.0
        sizes = rng.integers(self.smallest, self.num_classes + 1, len(labels))
        sizes[rng.random(len(labels)) < self.all_share] = self.num_classes
        ranks = noise.argsort(1).argsort(1)
        allowed = ranks < sizes[:, None]
        return Questions(allowed.astype(np.float32), labels, allowed)


class ObjectClassQuestions:
    """Draws subsets of classes for pictures of several objects; mostly a class of the picture is among them.

    Args:
        num_classes: Number of classes.
        all_share: Share of the pictures that are asked about all classes.
        absent_share: Share of the pictures whose subset is drawn without looking at them.
    """

    def __init__(self, num_classes: int, *, all_share: float = 0.25, absent_share: float = 0.15) -> None:
        self.num_classes, self.all_share, self.absent_share = num_classes, all_share, absent_share

    def __call__(self, objects: npt.NDArray[np.int16], rng: np.random.Generator) -> Questions:
        """Ask each picture for the objects of some classes.

        Args:
            objects: Class indices `[batch, objects, 1]`, -1 where there is no object.
            rng: Source of the draw.

        Returns:
            Tasks; labels tell whether any object of the task is there.
        """
        classes = objects[:, :, 0].astype(np.int64)
        there = classes >= 0
        chosen = (rng.random(there.shape) * there).argmax(1)
        looked = there.any(1) & (rng.random(len(classes)) >= self.absent_share)
        rows = np.flatnonzero(looked)
        noise = rng.random((len(classes), self.num_classes))
        noise[rows, classes[rows, chosen[rows]]] = -1.0
        sizes = rng.integers(1, self.num_classes + 1, len(classes))
        sizes[rng.random(len(classes)) < self.all_share] = self.num_classes
        allowed = noise.argsort(1).argsort(1) < sizes[:, None]
        asked = np.take_along_axis(allowed, classes.clip(min=0), axis=1) & there
        labels = np.asarray(asked.any(1), dtype=np.int64)
        return Questions(allowed.astype(np.float32), labels, allowed)
