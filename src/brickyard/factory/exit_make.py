"""An encoder with exits and a budget become a model folder: the encoder is cut at an exit; needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from brickyard.core.errors import ArtifactError, BudgetError, DeviceError
from brickyard.core.files import new_folder, read_json, sha256, write_bytes, write_json, write_manifest
from brickyard.devices.measure import processor_name
from brickyard.devices.runtimes.base import check_threads
from brickyard.devices.runtimes.ort import ORT
from brickyard.factory.clock import Clock
from brickyard.factory.encoder_export import export_encoder
from brickyard.factory.exit_records import EXITS_FILE, ExitChoice, ExitReport
from brickyard.factory.exit_table import ExitTable, Progress, exit_costs, pick_exit
from brickyard.factory.folder import FORMAT_VERSION, versions
from brickyard.factory.records import Budget
from brickyard.modularize import MultiExitEncoder, load_exits

_LIMITS = ("latency_ms", "max_parameters")
_TOKENS = 32  # of the text that is timed where no table tells the usual number


def make_exit(
    folder: str | Path,
    *,
    budget: Budget,
    out: str | Path,
    device: str | Path | None = None,
    threads: int = 1,
    seconds: float = 10.0,
    progress: Progress = lambda stage, done, total: None,
) -> ExitReport:
    """Cut an encoder at the best exit that a budget allows, and write it as a model folder.

    The best exit is that with the highest MRR in the folder's table of exits; without a table it is the last.

    Args:
        folder: Network folder of an encoder with exits and a tokenizer.
        budget: Limits; an encoder knows `latency_ms`, of one text, and `max_parameters`.
        out: Folder to write, which sentence-transformers loads and which holds `model.onnx`; must not exist
            or be empty.
        device: Table of exits (`exits.json`) that `brickyard evaluate` wrote on the device whose times count;
            None for this machine, on which the exits are then timed.
        threads: Threads of ONNX Runtime, where this machine is timed.
        seconds: When no further round of timing starts.
        progress: Called with a stage, steps done and steps in all.

    Returns:
        The report, which lies in the folder too.

    Raises:
        BudgetError: A limit is none that an encoder knows.
        InfeasibleError: No exit keeps the limits.
        ArtifactError: `out` is taken, or `folder` or `device` cannot be read.
        DeviceError: `device` has other exits, or `threads` is below 1.
    """
    check_threads(threads)
    clock, target = Clock(), Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(f"{target} already exists; choose another folder or remove it first")
    for name, value in budget.model_dump(exclude_none=True).items():
        if name not in _LIMITS:
            raise BudgetError(
                f"{name} = {value} cannot be limited for an encoder with exits; known limits: "
                f"{', '.join(_LIMITS)}"
            )
    encoder = load_exits(folder)
    judged = _table(Path(folder) / EXITS_FILE, encoder)
    clock.lap("open")
    if device is None:
        tokens = min(_TOKENS, encoder.tokens.max_tokens) if judged is None else judged.tokens
        sizes, times = exit_costs(encoder, tokens, threads, seconds, progress)
        timed_on = f"{ORT.full_name()}, {processor_name()}"
    else:
        timed = _table(Path(device), encoder)
        if timed is None:
            raise ArtifactError(
                f"{device} is not a file; give the exits.json that `brickyard evaluate` wrote"
            )
        sizes = {row.exit: row.parameters for row in timed.rows}
        times = {row.exit: row.latency_ms for row in timed.rows}
        tokens, threads, timed_on = timed.tokens, timed.threads, f"{timed.runtime}, {timed.processor}"
    clock.lap("time")
    quality: Mapping[int, float] = {} if judged is None else {row.exit: row.mrr for row in judged.rows}
    choices = tuple(
        ExitChoice(exit=exit, mrr=quality.get(exit), latency_ms=times[exit], parameters=sizes[exit])
        for exit in encoder.exits
    )
    exit = pick_exit(choices, latency_ms=budget.latency_ms, max_parameters=budget.max_parameters)
    cut = encoder.truncate(exit)
    content = export_encoder(cut).SerializeToString()
    clock.lap("export")
    files = {"model": "model.onnx", "weights": "model.safetensors", "config": "config.json"}
    files |= {"modules": "modules.json", "report": "report.json"}
    if judged is not None:
        files["picture"] = "exits.png"
    with new_folder(target) as place:
        cut.save(place)
        write_bytes(place / files["model"], content)
        if judged is not None:
            rows = tuple(replace(row, latency_ms=times[row.exit]) for row in judged.rows)
            runtime, _, processor = timed_on.partition(", ")
            replace(
                judged, rows=rows, tokens=tokens, threads=threads, runtime=runtime, processor=processor
            ).write(place)
        clock.lap("write")
        report = ExitReport(
            factory=Path(folder).resolve().name,
            exit=exit,
            budget=budget,
            choices=choices,
            tokens=tokens,
            threads=threads,
            timed_on=timed_on,
            embed_dim=encoder.embed_dim,
            max_tokens=encoder.tokens.max_tokens,
            file_bytes=len(content),
            seconds=clock.total(),
            versions=versions("torch", "transformers"),
            sha256={file: sha256(place / file) for file in (files["model"], files["weights"])},
            files={role: str(target / file) for role, file in files.items()},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(place / files["report"], report.model_dump())
        write_manifest(place, format_version=FORMAT_VERSION, kind="model", fields={"name": target.name})
    return report


def _table(file: Path, encoder: MultiExitEncoder) -> ExitTable | None:
    """Read a table of an encoder's exits; None where there is no such file.

    Raises:
        DeviceError: It is of other exits.
    """
    if not file.is_file():
        return None
    table = ExitTable.from_json(read_json(file), name=str(file))
    found = tuple(row.exit for row in table.rows)
    if found != encoder.exits:
        raise DeviceError(
            f"{file} is of the exits {list(found)}, the encoder has {list(encoder.exits)}; evaluate it anew"
        )
    return table
