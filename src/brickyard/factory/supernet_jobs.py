"""What a supernet is trained and judged for: pictures or texts into classes, or texts into translations.

A job knows its data and how they become the inputs of a network; needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from brickyard.core.errors import ArtifactError, DataError
from brickyard.core.files import read_json, write_text
from brickyard.core.sequence import PADDING, pad
from brickyard.core.task import Vocabulary
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.texts import Pairs, Texts
from brickyard.data.tokens import Tokenizer
from brickyard.factory.text_model import most_written
from brickyard.factory.text_rating import bleu
from brickyard.networks.translation import END, START, greedy_decode
from brickyard.train.augment import AUGMENTATIONS
from brickyard.train.buckets import LengthBatches
from brickyard.train.supernet import NO_LABEL, TrainBatch

_EVALUATION_BATCH = 250
_CALIBRATION_BATCH = 128

E = TypeVar("E", Examples, Texts, Pairs)
Ready = Callable[[int, np.random.Generator], TrainBatch]


class Job(Protocol[E]):
    """What a supernet is trained and judged for."""

    kind: str
    metric: str

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that the network's builder needs for these data."""

    def batches(self, examples: E, *, batch_size: int, seed: int, augment: str) -> Ready:
        """Return what gives the examples of a step of training."""

    def calibration(self, examples: E) -> list[tuple[Tensor, ...]]:
        """Return inputs without labels, from which statistics are estimated."""

    def evaluate(self, model: nn.Module, examples: E) -> float:
        """Judge a model in evaluation mode by the metric."""

    def write(self, folder: Path) -> None:
        """Write what the job needs to know beside the network."""

    def load_examples(self, path: Path) -> E:
        """Read examples that were written to `path`, which has no suffix."""

    def save_examples(self, examples: E, path: Path) -> None:
        """Write examples to `path`, to which a suffix is added."""


def _classes(model: nn.Module, inputs: Iterator[tuple[Tensor, ...]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(*part).argmax(-1) for part in inputs])


class Pictures:
    """Pictures into classes, judged by accuracy.

    Args:
        vocabulary: The classes.
        preprocess: How pictures become inputs.
    """

    kind, metric = "pictures", "accuracy"

    def __init__(self, vocabulary: Vocabulary, preprocess: Preprocess) -> None:
        self.vocabulary, self.preprocess = vocabulary, preprocess

    def arguments(self) -> dict[str, Any]:
        """Return classes, channels and size."""
        channels, height, width = self.preprocess.shape
        if height != width:
            raise DataError(f"pictures are {height} x {width}; a supernet needs square ones, set a size")
        classes = len(self.vocabulary.words)
        return {"num_outputs": classes, "in_channels": channels, "image_size": height}

    def batches(self, examples: Examples, *, batch_size: int, seed: int, augment: str) -> Ready:
        """Return what gives random pictures, changed by an augmentation."""
        change = AUGMENTATIONS[augment]

        def ready(step: int, rng: np.random.Generator) -> TrainBatch:
            chosen = examples.subset(rng.integers(0, len(examples), batch_size))
            pictures = torch.from_numpy(self.preprocess.apply(chosen.images))
            if change is not None:
                pictures = change(pictures, torch.Generator().manual_seed(int(rng.integers(2**62))))
            return TrainBatch((pictures,), torch.from_numpy(chosen.classes.astype(np.int64)))

        return ready

    def _inputs(self, examples: Examples, size: int) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, len(examples), size):
            images = examples.images[start : start + size]
            yield (torch.from_numpy(self.preprocess.apply(images)),)

    def calibration(self, examples: Examples) -> list[tuple[Tensor, ...]]:
        """Return the pictures as batches."""
        return list(self._inputs(examples, _CALIBRATION_BATCH))

    def evaluate(self, model: nn.Module, examples: Examples) -> float:
        """Return the share of right answers."""
        found = _classes(model, self._inputs(examples, _EVALUATION_BATCH)).numpy()
        return float((found == examples.classes).mean())

    def write(self, folder: Path) -> None:
        """Write classes and preprocessing."""
        write_text(folder / "vocabulary.json", self.vocabulary.to_json())
        write_text(folder / "preprocess.json", self.preprocess.to_json())

    @classmethod
    def read(cls, folder: Path, max_tokens: int) -> Pictures:
        """Read what `write` wrote."""
        vocabulary = Vocabulary.from_json((folder / "vocabulary.json").read_text())
        return cls(vocabulary, Preprocess.from_json((folder / "preprocess.json").read_text()))

    def load_examples(self, path: Path) -> Examples:
        """Read an npz file."""
        return Examples.load(path.with_suffix(".npz"))

    def save_examples(self, examples: Examples, path: Path) -> None:
        """Write an npz file."""
        examples.save(path.with_suffix(".npz"))


class TextClasses:
    """Texts into classes, judged by accuracy.

    Args:
        vocabulary: The classes.
        tokenizer: From texts to ids.
        max_tokens: Most tokens of a text; what comes behind them is cut off.
    """

    kind, metric = "texts", "accuracy"

    def __init__(self, vocabulary: Vocabulary, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.vocabulary, self.tokenizer, self.max_tokens = vocabulary, tokenizer, max_tokens

    def arguments(self) -> dict[str, Any]:
        """Return classes, vocabulary and length."""
        return {
            "num_outputs": len(self.vocabulary.words),
            "vocab_size": self.tokenizer.vocab_size,
            "max_tokens": self.max_tokens,
        }

    def ids(self, examples: Texts) -> list[list[int]]:
        """Return the ids of each text; padding alone where there are none."""
        return [row[: self.max_tokens] or [PADDING] for row in self.tokenizer.encode(examples.texts)]

    def batches(self, examples: Texts, *, batch_size: int, seed: int, augment: str) -> Ready:
        """Return what gives texts of about the same length."""
        ids, labels = self.ids(examples), torch.from_numpy(examples.labels)
        chosen = LengthBatches([len(row) for row in ids], batch_size=batch_size, seed=seed)

        def ready(step: int, rng: np.random.Generator) -> TrainBatch:
            places = chosen(step)
            return TrainBatch((pad([ids[place] for place in places]),), labels[torch.from_numpy(places)])

        return ready

    def calibration(self, examples: Texts) -> list[tuple[Tensor, ...]]:
        """Return the texts as batches."""
        ids = self.ids(examples)
        return [(pad(ids[i : i + _CALIBRATION_BATCH]),) for i in range(0, len(ids), _CALIBRATION_BATCH)]

    def evaluate(self, model: nn.Module, examples: Texts) -> float:
        """Return the share of right answers."""
        ids = self.ids(examples)
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        parts = [order[i : i + _EVALUATION_BATCH] for i in range(0, len(order), _EVALUATION_BATCH)]
        found = _classes(model, ((pad([ids[place] for place in part]),) for part in parts)).numpy()
        return float((found == examples.labels[order]).mean())

    def write(self, folder: Path) -> None:
        """Write classes and tokenizer."""
        write_text(folder / "vocabulary.json", self.vocabulary.to_json())
        self.tokenizer.save(folder / "tokenizer.json")

    @classmethod
    def read(cls, folder: Path, max_tokens: int) -> TextClasses:
        """Read what `write` wrote."""
        vocabulary = Vocabulary.from_json((folder / "vocabulary.json").read_text())
        return cls(vocabulary, Tokenizer.load(folder / "tokenizer.json"), max_tokens)

    def load_examples(self, path: Path) -> Texts:
        """Read JSON lines."""
        return Texts.load(path.with_suffix(".jsonl"))

    def save_examples(self, examples: Texts, path: Path) -> None:
        """Write JSON lines."""
        examples.save(path.with_suffix(".jsonl"))


class Translation:
    """Texts into translations, judged by BLEU (sacrebleu) of greedy decoding.

    Args:
        tokenizer: From texts of both languages to ids.
        max_tokens: Most tokens of a text and of its translation, the end among them.
    """

    kind, metric = "translation", "bleu"

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def arguments(self) -> dict[str, Any]:
        """Return vocabularies, which both languages share, and length."""
        size = self.tokenizer.vocab_size
        return {"source_vocab_size": size, "target_vocab_size": size, "max_tokens": self.max_tokens}

    def sides(self, examples: Pairs) -> tuple[list[list[int]], list[list[int]]]:
        """Return the ids of each source, with an end, and of each target, without start and end."""
        sources = [[*row[: self.max_tokens - 1], END] for row in self.tokenizer.encode(examples.sources)]
        targets = [row[: self.max_tokens - 1] for row in self.tokenizer.encode(examples.targets)]
        return sources, targets

    def batches(self, examples: Pairs, *, batch_size: int, seed: int, augment: str) -> Ready:
        """Return what gives pairs of about the same length."""
        sources, targets = self.sides(examples)
        lengths = [max(len(one), len(two)) for one, two in zip(sources, targets, strict=True)]
        chosen = LengthBatches(lengths, batch_size=batch_size, seed=seed)

        def ready(step: int, rng: np.random.Generator) -> TrainBatch:
            places = chosen(step)
            written = pad([[START, *targets[place]] for place in places])
            labels = pad([[*targets[place], END] for place in places])
            labels = labels.masked_fill(labels == PADDING, NO_LABEL)
            return TrainBatch((pad([sources[place] for place in places]), written), labels)

        return ready

    def calibration(self, examples: Pairs) -> list[tuple[Tensor, ...]]:
        """Return texts and what is written of their translations as batches."""
        ready = self.batches(examples, batch_size=_CALIBRATION_BATCH, seed=0, augment="none")
        steps = max(1, len(examples) // _CALIBRATION_BATCH)
        return [ready(step, np.random.default_rng(0)).inputs for step in range(steps)]

    def translate(self, model: nn.Module, sources: tuple[str, ...]) -> list[str]:
        """Translate texts by greedy decoding.

        Args:
            model: A translation network or what is extracted of one, in evaluation mode.
            sources: The texts.

        Returns:
            The translations, in the order of the texts.
        """
        ids, _ = self.sides(Pairs(sources, sources))
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        written = [""] * len(ids)
        for start in range(0, len(order), _CALIBRATION_BATCH):
            part = order[start : start + _CALIBRATION_BATCH]
            source = pad([ids[place] for place in part])
            most = most_written(source.shape[1], self.max_tokens)
            rows = self.tokenizer.decode(greedy_decode(model, source, max_tokens=most).tolist())
            for place, row in zip(part, rows, strict=True):
                written[place] = row
        return written

    def evaluate(self, model: nn.Module, examples: Pairs) -> float:
        """Return BLEU, 0 to 100."""
        return bleu(self.translate(model, examples.sources), examples.targets)

    def write(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save(folder / "tokenizer.json")

    @classmethod
    def read(cls, folder: Path, max_tokens: int) -> Translation:
        """Read what `write` wrote."""
        return cls(Tokenizer.load(folder / "tokenizer.json"), max_tokens)

    def load_examples(self, path: Path) -> Pairs:
        """Read JSON lines."""
        return Pairs.load(path.with_suffix(".jsonl"))

    def save_examples(self, examples: Pairs, path: Path) -> None:
        """Write JSON lines."""
        examples.save(path.with_suffix(".jsonl"))


JOBS: Mapping[str, type[Pictures] | type[TextClasses] | type[Translation]] = {
    job.kind: job for job in (Pictures, TextClasses, Translation)
}
"""The jobs by the name that a folder gives."""


def read_job(folder: Path, *, max_tokens: int) -> Job[Any]:
    """Read the job of a folder.

    Args:
        folder: Folder of a trained supernet.
        max_tokens: Most tokens that its network reads; of no meaning for pictures.

    Raises:
        ArtifactError: The folder names no known job.
    """
    kind = read_json(folder / "network.json").get("job")
    if kind not in JOBS:
        raise ArtifactError(f"{folder} is for {kind!r}; known jobs: {', '.join(JOBS)}")
    return JOBS[kind].read(folder, max_tokens)
