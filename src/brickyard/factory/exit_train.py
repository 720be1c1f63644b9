"""From a pretrained encoder and pairs of texts to the folder of an encoder with exits; needs torch."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from brickyard.core.errors import ArtifactError, DataError, MissingExtraError
from brickyard.core.files import json_bytes, write_bytes
from brickyard.data.code_pairs import CodePair
from brickyard.factory.exit_records import EXITS_FILE
from brickyard.factory.exit_table import ExitTable, evaluate_exits
from brickyard.factory.folder import versions
from brickyard.modularize import MultiExitEncoder, add_exits, load_transformer, save_exits
from brickyard.modularize.exit_folder import whole_backbone
from brickyard.modularize.exits import HeadKind
from brickyard.train.context import ContextTexts
from brickyard.train.exits import ExitRecord, ExitSettings, ExitTraining, TextPairs

PICTURE = "training/curves.png"
_COLORS = ("#d1495b", "#c77d0a", "#2e8b57", "#1f6feb", "#8b5cf6", "#555555")
_TIMED_SECONDS = 5.0

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class ExitBuild:
    """Everything that decides an encoder with exits besides its pairs.

    Attributes:
        model: Folder or hub id of an encoder of transformers with a tokenizer.
        exits: After how many layers there are exits, ascending, from 1.
        head: `own`, `shared` or `none`; see `add_exits`.
        embed_dim: Width of embeddings; that of the backbone if None.
        max_tokens: Most tokens of a text.
        batch_size: Pairs of a step, and rows of context.
        threads: Threads of torch and of the runtime that times the exits.
        train: The training and its seed.
    """

    model: str
    exits: tuple[int, ...]
    head: HeadKind = "own"
    embed_dim: int | None = None
    max_tokens: int = 128
    batch_size: int = 32
    threads: int = 1
    train: ExitSettings = field(default_factory=ExitSettings)


def train_exits(
    pairs: Sequence[CodePair], build: ExitBuild, *, out: str | Path, progress: Progress
) -> ExitTable | None:
    """Give a pretrained encoder exits, train them, judge them on held-out pairs, and write the folder.

    A checkpoint lies in `<out>.training` and lets a stopped run go on, to the same weights bit for bit; it is
    removed when the folder is written.

    Args:
        pairs: Pairs with their splits; those of `train` are trained on, and their documents with their
            sources are the context, if that is asked for; with their files where there is one source.
        build: The build.
        out: Network folder to write; must not exist.
        progress: Called with a stage, steps done, steps in all, and a text.

    Returns:
        The table of exits, which lies in the folder too; None where fewer than two documents are held out.

    Raises:
        ArtifactError: `out` exists.
        DataError: There are too few pairs.
        ModularizeError: The model cannot get such exits.
        TrainError: A setting is out of range, or a checkpoint is of another run.
        MissingExtraError: A library that is needed is not installed.
    """
    target = Path(out)
    if target.exists():
        raise ArtifactError(f"{target} already exists; choose another folder or remove it first")
    torch.set_num_threads(build.threads)
    learned = [pair for pair in pairs if pair.split == "train"]
    held = [(pair.query, pair.document) for pair in pairs if pair.split == "heldout"]
    if len(learned) < build.batch_size:
        raise DataError(
            f"{len(learned)} pairs to train on came, fewer than a batch of {build.batch_size}; give more, or "
            "a smaller batch_size"
        )
    model, tokenizer = load_transformer(build.model)
    if not hasattr(tokenizer, "convert_tokens_to_ids"):
        raise DataError(f"{build.model} comes without a tokenizer; give the encoder's own folder or hub id")
    torch.manual_seed(build.train.seed)
    encoder = add_exits(
        whole_backbone(getattr(model, "base_model", model)),
        exits=build.exits,
        tokenizer=tokenizer,
        head=build.head,
        embed_dim=build.embed_dim,
        max_tokens=build.max_tokens,
        seed=build.train.seed,
    )
    work = target.absolute().with_name(target.name + ".training")
    work.mkdir(parents=True, exist_ok=True)
    try:
        rows = _train(encoder, learned, build, work, progress)
    except BaseException:
        with suppress(OSError):  # goes only if nothing lies in it yet
            work.rmdir()
        raise
    table = None
    if len({document for _, document in held}) > 1:
        table = evaluate_exits(
            encoder,
            held,
            threads=build.threads,
            seconds=_TIMED_SECONDS,
            progress=lambda stage, done, total: progress(stage, done, total, ""),
        )
    files = {PICTURE: _picture(rows, table), "training/log.json": json_bytes(rows)}
    if table is not None:
        files[EXITS_FILE] = json_bytes(table.to_json())
    settings = {**asdict(build), "train": {**asdict(build.train), "weights": str(build.train.weights)}}
    provenance = {
        "settings": settings,
        "pairs": {"train": len(learned), "heldout": len(held), "sha256": _digest(pairs)},
        "versions": versions("torch", "transformers"),
    }
    save_exits(encoder, target, provenance=provenance, files=files)
    shutil.rmtree(work)
    return table


def _train(
    encoder: MultiExitEncoder, learned: Sequence[CodePair], build: ExitBuild, work: Path, progress: Progress
) -> list[dict[str, Any]]:
    settings = build.train
    batches = context = None
    if settings.contrast > 0:
        texts = [(pair.query, pair.document) for pair in learned]
        batches = TextPairs(texts, encoder.tokens, batch_size=build.batch_size, seed=settings.seed)
    if settings.mlm + settings.same_source > 0:
        several = len({pair.source for pair in learned}) > 1
        context = ContextTexts(
            [pair.document for pair in learned],
            [pair.source if several else pair.file for pair in learned],
            encoder.tokens.tokenizer,
            max_tokens=build.max_tokens,
            batch_size=build.batch_size,
            seed=settings.seed,
        )
    identity = {
        "pairs": _digest(learned),
        **{name: value for name, value in asdict(build).items() if name not in ("train", "threads")},
    }
    log = work / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    training = ExitTraining(
        encoder, batches=batches, context=context, settings=settings, folder=work, identity=identity
    )
    for record in training.run():
        row = json.loads(json.dumps(asdict(record)))  # exits become texts, as in the file
        rows = [*(one for one in rows if one["step"] < record.step), row]
        write_bytes(log, "".join(json.dumps(one) + "\n" for one in rows).encode())
        progress("train", record.step, settings.steps, _words(record))
    return rows


def _words(record: ExitRecord) -> str:
    parts = (("InfoNCE", record.by_exit), ("hidden tokens", record.mlm), ("sources", record.same_source))
    told = [
        f"{name} {' '.join(f'{exit}:{loss:.2f}' for exit, loss in found.items())}"
        for name, found in parts
        if found
    ]
    return f"loss {record.loss:.3f}; {', '.join(told)}"


def _digest(pairs: Sequence[CodePair]) -> str:
    text = json.dumps([[pair.query, pair.document, pair.source, pair.split] for pair in pairs])
    return hashlib.sha256(text.encode()).hexdigest()


def _picture(rows: Sequence[dict[str, Any]], table: ExitTable | None) -> bytes:
    """Draw the losses of each exit over the steps, and the MRR of each exit."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", extra="train") from None
    titles = {"by_exit": "InfoNCE", "mlm": "hidden tokens", "same_source": "common source"}
    shown = [name for name in titles if rows and rows[0][name]]
    count = len(shown) + (table is not None)
    figure = Figure(figsize=(3.8 * count, 3.3), layout="constrained")
    axes = cast("Any", figure.subplots(1, count, squeeze=False))[0]
    steps = [row["step"] for row in rows]
    for axis, name in zip(axes, shown, strict=False):
        for place, exit in enumerate(rows[0][name]):
            color = _COLORS[place % len(_COLORS)]
            axis.plot(steps, [row[name][exit] for row in rows], color=color, label=f"exit {exit}")
        axis.set_title(f"{titles[name]}, in training", fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.legend(frameon=False, fontsize=8)
    if table is not None:
        exits = [row.exit for row in table.rows]
        axes[-1].plot(exits, [row.mrr for row in table.rows], "o-", color="#1f6feb")
        axes[-1].set_xticks(exits)
        axes[-1].set_title(f"MRR on {table.queries} pairs held out", fontsize=10)
        axes[-1].set_xlabel("exit", fontsize=9)
    for axis in axes:
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=90, metadata={"Software": None})
    return held.getvalue()
