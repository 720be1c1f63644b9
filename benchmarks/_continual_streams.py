"""Streams of tasks on real data: alphabets, pairs of CIFAR-10's classes, sets of texts.

Sizes let a section with three seeds take about 20 minutes on one core, `CIFAR_FULL` more than an hour.
Learning rates are chosen by training examples that are not learned from: see `Bench.judged`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import _adaptor
import _adaptor_streams
import numpy as np
import numpy.typing as npt
import torch
from _continual_arms import DENSE_RATES, MASK_RATES, WEIGHT_RATES
from _continual_nets import CIFAR_NET, OMNIGLOT_NET, Net, text_net
from torch.utils.data import TensorDataset

from brickyard.continual import StreamTask

ALPHABETS, CIFAR, CIFAR_FULL, TEXTS = "alphabets", "split cifar10", "split cifar10 in full", "texts"
_DRAWERS = 15  # of 20, whose drawings are learned from
_WORDS, _EMBED, _LENGTH = 8000, 64, 32
_WINDOW = 4  # words on each side that count as neighbours


@dataclass(frozen=True)
class Bench:
    """A stream and what it is learned by.

    Attributes:
        name: Its name, and that of its section.
        epochs: Passes over the examples of a task.
        examples: Most examples of a task.
        tests: Most examples that a task is judged by.
        net: Gives the network.
        tasks: Gives the tasks of a seed: most examples to learn from, and to judge by.
        rate_seeds: Seeds of the tasks by which rates are chosen, none of which is measured later.
        rate_tasks: How many of their tasks are learned for that.
        judged: Training examples that each of them is judged by, beside those that are learned from; 0 for
            the last fifth of these, which are then not learned from, where there are no others.
        mask_rates: Learning rates of scores from which is chosen.
        weight_rates: And of weights and of what else a task has of its own.
        dense_rates: And of weights where all are trained.
        alone: Whether each task is learned alone, too, to tell what learning it after others gains.
    """

    name: str
    epochs: int
    examples: int
    tests: int
    net: Callable[[], Net]
    tasks: Callable[[int, int, int], list[StreamTask]]
    rate_seeds: tuple[int, ...] = (1000,)
    rate_tasks: int = 2
    judged: int = 0
    mask_rates: tuple[float, ...] = MASK_RATES
    weight_rates: tuple[float, ...] = WEIGHT_RATES
    dense_rates: tuple[float, ...] = DENSE_RATES
    alone: bool = True

    def rate_stream(self, seed: int, examples: int) -> list[StreamTask]:
        """Return tasks by which rates are chosen, of so many examples to learn from and judge by."""
        tasks = self.tasks(seed, examples + self.judged, self.tests)[: self.rate_tasks]
        return hold_out(tasks, self.judged)


def hold_out(tasks: Sequence[StreamTask], judged: int) -> list[StreamTask]:
    """Return the tasks judged by the last examples of those to learn from: so many, or a fifth for 0."""
    found = []
    for task in tasks:
        assert isinstance(task.train, TensorDataset)
        inputs, labels = task.train.tensors
        first = len(inputs) - (judged or len(inputs) // 5)
        parts = (TensorDataset(inputs[:first], labels[:first]), TensorDataset(inputs[first:], labels[first:]))
        found.append(StreamTask(task.name, *parts, task.num_classes))
    return found


def _task(
    name: str,
    train: tuple[torch.Tensor, npt.NDArray[np.int64]],
    test: tuple[torch.Tensor, npt.NDArray[np.int64]],
    num_classes: int,
    *,
    most: tuple[int, int],
    seed: int,
) -> StreamTask:
    """Make a task of some of the examples, drawn by the seed; those to test on are the same for all seeds."""
    parts = []
    for (inputs, labels), count, draw in zip((train, test), most, (seed, 0), strict=True):
        places = np.random.default_rng([draw, len(labels)]).permutation(len(labels))[:count]
        parts.append(TensorDataset(inputs[torch.from_numpy(places)], torch.from_numpy(labels[places])))
    return StreamTask(name, parts[0], parts[1], num_classes)


def alphabets(seed: int, examples: int, tests: int) -> list[StreamTask]:
    """Return the characters of an alphabet as a task, eight of them in an order that the seed decides."""
    tasks = []
    for name, (images, labels, drawers) in _adaptor_streams.omniglot().items():
        inputs = (torch.from_numpy(images).float()[:, None] / 255 - 0.1) / 0.25
        own = drawers <= _DRAWERS
        parts = [(inputs[torch.from_numpy(part)], labels[part]) for part in (own, ~own)]
        number = int(labels.max()) + 1
        tasks.append(_task(name, parts[0], parts[1], number, most=(examples, tests), seed=seed))
    return [tasks[place] for place in np.random.default_rng(seed).permutation(len(tasks))]


def split_cifar10(seed: int, examples: int, tests: int) -> list[StreamTask]:
    """Return five tasks of two classes each, paired and ordered by the seed."""
    source = _adaptor.cifar10()
    order = np.random.default_rng(seed).permutation(10)
    tasks = []
    for pair in order.reshape(5, 2):
        parts = []
        for part, most in ((source.train, examples), (source.heldout, tests)):
            places = np.flatnonzero(np.isin(part.classes, pair))[: 4 * most]
            inputs = torch.from_numpy(source.preprocess.apply(part.images[places]))
            parts.append((inputs, (part.classes[places] == pair[1]).astype(np.int64)))
        name = " or ".join(source.vocabulary.words[place] for place in pair)
        tasks.append(_task(name, parts[0], parts[1], 2, most=(examples, tests), seed=seed))
    return tasks


def texts(seed: int, examples: int, tests: int) -> list[StreamTask]:
    """Return five sets of texts, in an order that the seed decides; for seed 0 that of its reader."""
    words, _ = embeddings()
    place = {word: number for number, word in enumerate(words, start=2)}
    tasks = []
    for name, parts in _adaptor_streams.five_text_sets().items():
        read = []
        for part in ("train", "test"):
            sentences, labels = parts[part]
            ids = np.zeros((len(sentences), _LENGTH), dtype=np.int64)
            for row, (sentence,) in enumerate(sentences):
                found = [place.get(word, 1) for word in _split(sentence)[:_LENGTH]]
                ids[row, : len(found)] = found
            read.append((torch.from_numpy(ids), labels))
        number = int(parts["train"][1].max()) + 1
        tasks.append(_task(name, read[0], read[1], number, most=(examples, tests), seed=seed))
    order = range(len(tasks)) if seed == 0 else np.random.default_rng(seed).permutation(len(tasks))
    return [tasks[place] for place in order]


def _split(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+|[?!]", text.lower())


@cache
def embeddings() -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Make embeddings of words from the training texts of all tasks, without their labels.

    Positive pointwise mutual information of words and their neighbours, reduced by a truncated singular value
    decomposition (Levy and Goldberg, NIPS 2014); frozen afterwards.

    Returns:
        Words, and embeddings `[words + 2, 64]`; the first is padding, the second stands for other words.
    """
    from scipy import sparse
    from scipy.sparse.linalg import svds

    sentences = [
        _split(text) for parts in _adaptor_streams.five_text_sets().values() for (text,) in parts["train"][0]
    ]
    counts = Counter(word for sentence in sentences for word in sentence)
    words = tuple(word for word, _ in counts.most_common(_WORDS))
    place = {word: number for number, word in enumerate(words)}
    rows: list[int] = []
    columns: list[int] = []
    for sentence in sentences:
        ids = [place[word] for word in sentence if word in place]
        for step in range(1, _WINDOW + 1):
            rows += ids[step:]
            columns += ids[:-step] if len(ids) > step else []
    shape = (len(words), len(words))
    table = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape).tocsr()
    table = (table + table.T).tocoo()
    totals = np.asarray(table.sum(1)).reshape(-1)
    information = np.log(table.data * totals.sum() / (totals[table.row] * totals[table.col]))
    keep = information > 0
    positive = sparse.csr_matrix((information[keep], (table.row[keep], table.col[keep])), shape)
    u, s, _ = svds(positive, _EMBED, v0=np.ones(len(words)))
    vectors = u * np.sqrt(s)
    vectors /= np.sqrt((vectors**2).mean())
    return words, np.concatenate([np.zeros((2, _EMBED)), vectors]).astype(np.float32)


BENCHES = {
    bench.name: bench
    for bench in (
        Bench(
            ALPHABETS,
            15,
            1000,
            1000,
            lambda: OMNIGLOT_NET,
            alphabets,
            rate_tasks=8,
            mask_rates=(3e-3, 1e-2, 3e-2),  # 240 steps at most: the smallest of the others are too slow
            weight_rates=(1e-2, 3e-2, 1e-1),
            dense_rates=(1e-3, 3e-3, 1e-2, 3e-2),
        ),
        # two classes tell rates apart worse than many, by a point or less: it takes many pictures
        Bench(CIFAR, 10, 1200, 1000, lambda: CIFAR_NET, split_cifar10, (1000, 1001), 5, 2000),
        Bench(
            CIFAR_FULL,
            10,
            8000,  # all but those of a pair that rates are chosen by
            2000,
            lambda: CIFAR_NET,
            split_cifar10,
            rate_tasks=3,
            judged=2000,
            alone=False,
        ),
        Bench(TEXTS, 8, 2000, 1000, lambda: text_net(embeddings()[1], length=_LENGTH), texts),
    )
}
"""The streams by name of their section."""
