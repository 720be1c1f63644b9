"""Quality of a made model that reads texts, through its files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import MissingExtraError
from brickyard.factory.text_model import TextModel

Progress = Callable[[str, int, int, str], None]


class Answers(NamedTuple):
    """Answers of a model.

    Attributes:
        texts: The answer to each text: its class or its translation.
        milliseconds: How long each took, from text to answer.
    """

    texts: list[str]
    milliseconds: list[float]


def silent(stage: str, done: int, total: int, text: str) -> None:
    """Take no note of progress."""


def answer_all(model: TextModel, texts: Sequence[str], *, progress: Progress = silent) -> Answers:
    """Ask a model one text after the other.

    Args:
        model: The model.
        texts: The texts.
        progress: Called with a stage, the texts that are answered, those in all, and an empty text.
    """
    found, times = [], []
    for place, text in enumerate(texts, start=1):
        started = time.perf_counter()
        found.append((model.classify if model.job == "texts" else model.translate)([text])[0])
        times.append(1e3 * (time.perf_counter() - started))
        progress("judge", place, len(texts), "")
    return Answers(found, times)


def class_recalls(answers: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    """Return the share of right answers of each class that occurs, in the order in which they first do."""
    found: dict[str, list[bool]] = {}
    for answer, label in zip(answers, right, strict=True):
        found.setdefault(label, []).append(answer == label)
    return {label: float(np.mean(hits)) for label, hits in found.items()}


def accuracy(answers: Sequence[str], right: Sequence[str]) -> float:
    """Return the share of right answers."""
    hits: npt.NDArray[np.bool_] = np.array(answers) == np.array(right)
    return float(hits.mean())


def bleu(translations: Sequence[str], right: Sequence[str]) -> float:
    """Return BLEU of translations, 0 to 100, as sacrebleu counts it.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    try:
        import sacrebleu
    except ImportError:
        raise MissingExtraError("sacrebleu", extra="text") from None
    return float(sacrebleu.corpus_bleu(list(translations), [list(right)]).score)
