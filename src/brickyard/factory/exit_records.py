"""The record of an encoder that was cut at an exit; `report.json` of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from brickyard.core.files import read_json
from brickyard.factory.records import Budget, Record

EXITS_FILE = "exits.json"
"""The table of exits in a network folder with exits, and in a model folder that was cut there."""


class ExitChoice(Record):
    """An exit that could be chosen.

    Attributes:
        exit: Layers in front of it.
        mrr: Mean reciprocal rank on pairs that were held out; None where there were none.
        latency_ms: Median time of one text.
        parameters: Parameters of the encoder that is cut there.
    """

    exit: int
    mrr: float | None
    latency_ms: float
    parameters: int


class ExitReport(Record):
    """Everything about one encoder that was cut at an exit.

    Attributes:
        job: What it does.
        factory: Name of the folder of the network.
        exit: Layers in front of the exit.
        budget: What was asked for.
        choices: All exits, ascending; times are those that the limit refers to.
        tokens: Tokens of the text that was timed.
        threads: Threads it was timed with.
        timed_on: Runtime and processor.
        embed_dim: Width of embeddings.
        max_tokens: Most tokens of a text.
        file_bytes: Size of the ONNX file.
        seconds: Time by part; `total` is all of it.
        versions: Versions of the libraries that took part.
        sha256: Hashes of the files.
        files: Paths by role.
        created: Time, ISO 8601, UTC.
    """

    job: Literal["embed"] = "embed"
    factory: str
    exit: int
    budget: Budget
    choices: tuple[ExitChoice, ...]
    tokens: int
    threads: int
    timed_on: str
    embed_dim: int
    max_tokens: int
    file_bytes: int
    seconds: dict[str, float]
    versions: dict[str, str]
    sha256: dict[str, str]
    files: dict[str, str]
    created: str

    @property
    def chosen(self) -> ExitChoice:
        """The exit that the model ends at."""
        return next(choice for choice in self.choices if choice.exit == self.exit)


def has_exits(folder: str | Path) -> bool:
    """Tell whether a folder holds an encoder with exits, as `save_exits` writes it."""
    file = Path(folder) / "network.json"
    return file.is_file() and "multi_exit" in read_json(file)


def is_cut(folder: str | Path) -> bool:
    """Tell whether a folder holds an encoder that was cut at an exit."""
    file = Path(folder) / "report.json"
    return file.is_file() and read_json(file).get("job") == "embed"
