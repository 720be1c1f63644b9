"""What each exit of an encoder is worth: retrieval quality, latency and parameters; needs torch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor

from brickyard.core.errors import ArtifactError, DataError, InfeasibleError, MissingExtraError
from brickyard.core.files import write_bytes, write_json, write_text
from brickyard.devices.measure import medians, processor_name, round_robin
from brickyard.devices.runtimes.base import Fed, check_threads
from brickyard.devices.runtimes.ort import ORT
from brickyard.factory.encoder_export import export_encoder
from brickyard.modularize.exits import MultiExitEncoder

_COLUMNS = ("exit", "mrr", "recall_at_1", "latency_ms", "parameters")
_DOT, _LINE = "#d1495b", "#1f6feb"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExitRow:
    """One exit.

    Attributes:
        exit: Layers in front of it.
        mrr: Mean reciprocal rank of the document of a query among all documents, in (0, 1].
        recall_at_1: Share of queries whose document comes first.
        latency_ms: Median time of one text.
        parameters: Parameters of the encoder that is cut there.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    exit: PositiveInt
    mrr: Annotated[float, Field(ge=0, le=1)]
    recall_at_1: Annotated[float, Field(ge=0, le=1)]
    latency_ms: PositiveFloat
    parameters: PositiveInt


@dataclass(frozen=True)
class ExitTable:
    """All exits of an encoder.

    Attributes:
        rows: The exits, ascending.
        queries: Number of queries.
        documents: Number of different documents.
        tokens: Tokens of the text that was timed.
        threads: Threads it was timed with.
        runtime: Runtime and version.
        processor: Name of the processor.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    rows: Annotated[tuple[ExitRow, ...], Field(min_length=1)]
    queries: PositiveInt
    documents: PositiveInt
    tokens: PositiveInt
    threads: PositiveInt
    runtime: str
    processor: str

    def pick(self, *, latency_ms: float) -> int:
        """Return the exit with the highest MRR that keeps a limit; of equals the quickest.

        Args:
            latency_ms: Most time of one text, milliseconds.

        Raises:
            InfeasibleError: No exit is that quick.
        """
        return pick_exit(self.rows, latency_ms=latency_ms)

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON values."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, record: Any, *, name: str = "the table") -> ExitTable:
        """Build a table from the values of `to_json`.

        Args:
            record: The values.
            name: What they are called in errors.

        Raises:
            ArtifactError: They are not those of a table.
        """
        try:
            return TypeAdapter(cls).validate_json(json.dumps(record), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "all of it"
            raise ArtifactError(
                f"{name} is no table of exits, as `brickyard evaluate` writes it ({where}: {first['msg']})"
            ) from None

    def text(self) -> str:
        """Return the table as Markdown, with a line on how it was measured."""
        lines = ["| exit | MRR | recall@1 | ms | parameters |", "|---|---|---|---|---|"]
        lines += [
            f"| {row.exit} | {row.mrr:.3f} | {row.recall_at_1:.3f} | {row.latency_ms:.3g} "
            f"| {row.parameters:,} |"
            for row in self.rows
        ]
        how = (
            f"{self.queries} queries, {self.documents} documents; one text of {self.tokens} tokens, "
            f"{self.threads} thread(s), {self.runtime}, {self.processor}"
        )
        return "\n".join([*lines, "", how, ""])

    def write(self, folder: str | Path) -> None:
        """Write `exits.json`, `exits.csv`, `exits.md` and the picture `exits.png`.

        Args:
            folder: An existing folder.

        Raises:
            MissingExtraError: matplotlib is not installed; then nothing is written.
        """
        place, picture = Path(folder), self._picture()
        write_json(place / "exits.json", self.to_json())
        rows = [",".join(str(asdict(row)[name]) for name in _COLUMNS) for row in self.rows]
        write_text(place / "exits.csv", "\n".join([",".join(_COLUMNS), *rows, ""]))
        write_text(place / "exits.md", self.text())
        write_bytes(place / "exits.png", picture)

    def _picture(self) -> bytes:
        """Draw MRR over latency and over parameters, each exit with its number."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtraError("matplotlib", extra="train") from None
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        columns = [
            (f"ms for a text of {self.tokens} tokens", [row.latency_ms for row in self.rows]),
            ("parameters, millions", [row.parameters / 1e6 for row in self.rows]),
        ]
        quality = [row.mrr for row in self.rows]
        for axis, (label, across) in zip(figure.subplots(1, 2, sharey=True), columns, strict=True):
            axis.plot(across, quality, color=_LINE, linewidth=1.2)
            axis.plot(across, quality, "o", color=_DOT)
            for row, x, y in zip(self.rows, across, quality, strict=True):
                axis.annotate(
                    f"exit {row.exit}",
                    (x, y),
                    xytext=(7, -11),
                    textcoords="offset points",
                    fontsize=8,
                )
            axis.set_xlabel(label)
            axis.set_xlim(0, 1.15 * max(across))
            axis.margins(y=0.15)
            axis.grid(alpha=0.25)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
        figure.axes[0].set_ylabel(f"MRR, {self.documents} documents")
        held = io.BytesIO()
        figure.savefig(held, format="png", dpi=110, metadata={"Software": None})
        return held.getvalue()


def evaluate_exits(
    encoder: MultiExitEncoder,
    pairs: Sequence[tuple[str, str]],
    *,
    tokens: int | None = None,
    threads: int = 1,
    seconds: float = 30.0,
    progress: Progress = lambda stage, done, total: None,
) -> ExitTable:
    """Measure all exits of an encoder.

    Args:
        encoder: The encoder, with a tokenizer; left as it is.
        pairs: Queries with their documents, kept out of training. A query is compared with all different
            documents.
        tokens: Tokens of the text that is timed; the median length of the queries if None.
        threads: Threads of ONNX Runtime, which times the exits in turns.
        seconds: When no further round of timing starts; six rounds at least are run.
        progress: Called with a stage, `texts` or `latency`, steps done and steps in all.

    Returns:
        The table.

    Raises:
        DataError: There are fewer than two different documents, `tokens` is out of range, or a text cannot be
            read.
        DeviceError: `threads` is below 1.
    """
    check_threads(threads)
    queries = [query for query, _ in pairs]
    documents = list(dict.fromkeys(document for _, document in pairs))
    if len(documents) < 2:
        raise DataError(f"{len(documents)} different documents came; a query needs at least 2 to choose from")
    lengths = [len(row) for row in encoder.tokens.ids(queries)]
    count = int(np.median(lengths)) if tokens is None else tokens
    most = encoder.tokens.max_tokens
    if not 1 <= count <= most:
        raise DataError(f"tokens = {count} is not allowed; allowed: 1 to max_tokens = {most}")
    places = {document: number for number, document in enumerate(documents)}
    right = torch.tensor([places[document] for _, document in pairs])
    total = len(queries) + len(documents)
    asked = encoder.encode_all(queries, progress=lambda done, _: progress("texts", done, total))
    there = encoder.encode_all(
        documents, progress=lambda done, _: progress("texts", len(queries) + done, total)
    )
    sizes, times = exit_costs(encoder, count, threads, seconds, progress)
    rows = []
    for exit in encoder.exits:
        ranks = ranks_of(asked[exit], there[exit], right)
        mrr, first = float((1 / ranks).mean()), float((ranks == 1).double().mean())
        rows.append(ExitRow(exit, mrr, first, times[exit], sizes[exit]))
    return ExitTable(
        rows=tuple(rows),
        queries=len(queries),
        documents=len(documents),
        tokens=count,
        threads=threads,
        runtime=ORT.full_name(),
        processor=processor_name(),
    )


class Candidate(Protocol):
    """An exit to choose from; `ExitRow` is one."""

    @property
    def exit(self) -> int:
        """Layers in front of it."""

    @property
    def mrr(self) -> float | None:
        """Quality; None where it is not known of any."""

    @property
    def latency_ms(self) -> float:
        """Median time of one text."""

    @property
    def parameters(self) -> int:
        """Parameters of the encoder that is cut there."""


def pick_exit(
    candidates: Sequence[Candidate], *, latency_ms: float | None = None, max_parameters: int | None = None
) -> int:
    """Return the exit with the highest MRR that keeps the limits; of equals the quickest.

    Args:
        candidates: The exits; where their MRR is not known, later ones count as better.
        latency_ms: Most time of one text, milliseconds.
        max_parameters: Most parameters.

    Raises:
        InfeasibleError: No exit keeps the limits.
    """
    fitting = list(candidates)
    limits = (
        ("latency_ms", latency_ms, "takes at most {:g} ms; the quickest takes {:.3g} ms"),
        ("parameters", max_parameters, "has at most {:,} parameters; the smallest has {:,}"),
    )
    for name, limit, told in limits:
        if limit is None:
            continue
        least = min(getattr(one, name) for one in candidates)
        fitting = [one for one in fitting if getattr(one, name) <= limit]
        if not fitting:
            raise InfeasibleError(
                f"no exit {told.format(limit, least)}. Allow that, or add an earlier exit",
                limit=name,
                requested=limit,
                smallest=least,
            )

    def worth(one: Candidate) -> tuple[float, float]:
        return (one.exit if one.mrr is None else one.mrr, -one.latency_ms)

    return max(fitting, key=worth).exit


def ranks_of(queries: Tensor, documents: Tensor, right: Tensor) -> Tensor:
    """Return the rank of the right document of each query, `[queries]`, from 1; of equals it is the last.

    Args:
        queries: Unit vectors `[queries, embed_dim]`.
        documents: Unit vectors `[documents, embed_dim]`.
        right: Number of the document of each query, `[queries]`.
    """
    scores = queries.double() @ documents.double().T
    own = scores.gather(1, right[:, None])
    return (scores >= own).sum(1).double()


def exit_costs(
    encoder: MultiExitEncoder, tokens: int, threads: int, seconds: float, progress: Progress
) -> tuple[Mapping[int, int], Mapping[int, float]]:
    """Count and time all exits of an encoder.

    Args:
        encoder: The encoder, with a tokenizer; left as it is.
        tokens: Tokens of the text that is timed.
        threads: Threads of ONNX Runtime, which times the exits in turns.
        seconds: When no further round starts; six rounds at least are run.
        progress: Called with `latency`, rounds done and rounds in all.

    Returns:
        Parameters, and median milliseconds of one text, by exit.
    """
    vocab_size = encoder.network.vocab_sizes[0]
    batch = encoder.tokens.batch([[(3 + place) % vocab_size for place in range(tokens)]])
    feed = {name: part.numpy() for name, part in batch.items()}
    sizes: dict[int, int] = {}
    sessions = []
    for exit in encoder.exits:
        cut = encoder.truncate(exit)
        sizes[exit] = sum(parameter.numel() for parameter in cut.module.parameters())
        content = export_encoder(cut).SerializeToString()
        sessions.append(Fed(ORT.open(content, threads=threads), feed))
    found, _ = medians(
        round_robin(sessions, most_seconds=seconds, report=lambda done, most: progress("latency", done, most))
    )
    return sizes, dict(zip(encoder.exits, found.tolist(), strict=True))
