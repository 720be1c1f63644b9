"""A made model that reads texts, run from its folder by onnxruntime and tokenizers; needs no torch.

model = TextModel.load("intents_small")
model.classify(["what is my balance"])  # ["balance"]

A classifier is one file: `ids [1, tokens]` to `scores [1, classes]`. A translator is two: `source [1,
tokens]` to `memory [outputs, tokens, width]`, what its encoder leaves for the decoder; and `written [1,
tokens]` with `memory` to `scores [1, vocabulary]` of the token behind the last one. Texts come one by one,
without padding, in any number of tokens up to that of `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ArtifactError, ConfigError
from brickyard.core.files import read_json, read_manifest
from brickyard.data.tokens import Tokenizer
from brickyard.devices.runtimes import Session
from brickyard.devices.runtimes.ort import ORT
from brickyard.factory.folder import FORMAT_VERSION

Floats = npt.NDArray[np.float32]

TOKENS = {"padding": 0, "start": 1, "end": 2}
"""Ids of the tokens that are no text, as `brickyard.data.tokens` and the networks have them."""

FILES: Mapping[str, tuple[str, ...]] = {
    "texts": ("model.onnx",),
    "translation": ("encoder.onnx", "decoder.onnx"),
}
"""Names of the ONNX files, by job."""

_SPARE = 8  # tokens that a translation may have beyond twice those of its source


def most_written(source_tokens: int, max_tokens: int) -> int:
    """Return how many tokens a translation may have, its end among them.

    Args:
        source_tokens: Tokens of the source, its end among them.
        max_tokens: Most tokens of any text.
    """
    return min(max_tokens, 2 * source_tokens + _SPARE)


class TextModel:
    """A classifier of texts or a translator in ONNX Runtime.

    Args:
        job: `texts` for a classifier, `translation` for a translator.
        files: Its ONNX files, by the names in `FILES`.
        tokenizer: From texts to ids.
        max_tokens: Most tokens of a text; what comes behind them is cut off.
        labels: The classes of a classifier, in the order of the scores.
        threads: Threads of the runtime.
    """

    def __init__(
        self,
        job: str,
        files: Mapping[str, bytes],
        *,
        tokenizer: Tokenizer,
        max_tokens: int,
        labels: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        self.job, self.tokenizer, self.max_tokens = job, tokenizer, max_tokens
        self.labels = tuple(labels)
        self.sessions: tuple[Session, ...] = tuple(
            ORT.open(files[name], threads=threads) for name in FILES[job]
        )

    @classmethod
    def load(cls, folder: str | Path, *, threads: int = 1) -> TextModel:
        """Open a model folder that `brickyard make --from-front` wrote.

        Args:
            folder: The folder; its hashes are verified.
            threads: Threads of the runtime.

        Raises:
            ArtifactError: The folder is no model folder, is altered, or holds a model that reads pictures.
            MissingExtraError: The `tokenizers` library is not installed.
        """
        path = Path(folder)
        read_manifest(path, format_version=FORMAT_VERSION, kind="model")
        job = text_job(path)
        if job is None:
            raise ArtifactError(f"{path} holds a model that reads pictures; this one is for texts")
        labels = (path / "labels.txt").read_text(encoding="utf-8").splitlines() if job == "texts" else ()
        return cls(
            job,
            {name: (path / name).read_bytes() for name in FILES[job]},
            tokenizer=Tokenizer.load(path / "tokenizer.json"),
            max_tokens=read_json(path / "config.json")["max_tokens"],
            labels=labels,
            threads=threads,
        )

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text as it is read, at most `max_tokens`; for a translator with an end."""
        (found,) = self.tokenizer.encode([text])
        if self.job == "translation":
            return [*found[: self.max_tokens - 1], TOKENS["end"]]
        return found[: self.max_tokens] or [TOKENS["padding"]]

    def scores(self, text: str) -> Floats:
        """Return a classifier's scores of a text, `[classes]`.

        Raises:
            ConfigError: It is a translator.
        """
        self._require("texts", "scores")
        return self.classify_ids(self.ids(text))

    def classify_ids(self, ids: Sequence[int]) -> Floats:
        """Return a classifier's scores of the ids of a text, `[classes]`."""
        scores: Floats = self.sessions[0].run(None, {"ids": np.array([ids], np.int64)})[0][0]
        return scores

    def classify(self, texts: Sequence[str]) -> list[str]:
        """Return the class of each text.

        Raises:
            ConfigError: It is a translator.
        """
        return [self.labels[int(self.scores(text).argmax())] for text in texts]

    def translate(self, texts: Sequence[str]) -> list[str]:
        """Translate texts: the likeliest next token at every step, until the end or the most tokens.

        Raises:
            ConfigError: It is a classifier.
        """
        self._require("translation", "translate")
        return self.tokenizer.decode(self._write(self.ids(text)) for text in texts)

    def encode(self, source: Sequence[int]) -> Floats:
        """Return what a translator's encoder leaves, `[outputs, tokens, width]`, of the ids of a source."""
        memory: Floats = self.sessions[0].run(None, {"source": np.array([source], np.int64)})[0]
        return memory

    def next_scores(self, written: Sequence[int], memory: Floats) -> Floats:
        """Return a translator's scores of the token behind what is written, `[vocabulary]`.

        Args:
            written: Ids, the start first.
            memory: What `encode` returned.
        """
        feed = {"written": np.array([written], np.int64), "memory": memory}
        scores: Floats = self.sessions[1].run(None, feed)[0][0]
        return scores

    def _write(self, source: Sequence[int]) -> list[int]:
        memory = self.encode(source)
        written = [TOKENS["start"]]
        for _ in range(most_written(len(source), self.max_tokens)):
            scores = self.next_scores(written, memory)
            scores[TOKENS["padding"]] = -np.inf
            written.append(int(scores.argmax()))
            if written[-1] == TOKENS["end"]:
                break
        return written[1:]

    def _require(self, job: str, method: str) -> None:
        if self.job != job:
            has = "classify" if self.job == "texts" else "translate"
            raise ConfigError(f"this model is for {self.job}, so it cannot {method}; use {has}", path="job")


def text_job(folder: Path) -> str | None:
    """Return the job of a model folder that reads texts, a key of `FILES`; None for one that reads pictures.

    Raises:
        ArtifactError: The folder holds no model.
    """
    job: Any = read_json(folder / "config.json").get("job")
    return None if job is None else str(job)
