"""The model folder: the files of a made model, what is known of it, and its report."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.numpy import save as save_safetensors

from brickyard.assemble.search import binding_limit
from brickyard.core.decision import Choice
from brickyard.core.files import new_folder, sha256, write_bytes, write_json, write_manifest, write_text
from brickyard.core.task import Task
from brickyard.devices.measure import this_device_name
from brickyard.factory.boxes import decode_record
from brickyard.factory.clock import Clock
from brickyard.factory.folder import FORMAT_VERSION, versions
from brickyard.factory.formats.production import size_of
from brickyard.factory.made import Model
from brickyard.factory.make import Maker
from brickyard.factory.quality import curve_of, known_task
from brickyard.factory.records import Block, Budget, Report
from brickyard.factory.report_html import render


def write_model(
    maker: Maker,
    model: Model,
    *,
    task: Task,
    budget: Budget,
    out: Path,
    seed: int,
    started: float,
    key: str,
    front: Mapping[str, Any] | None = None,
) -> Report:
    """Write the model folder of a made model, all or nothing.

    Args:
        maker: What made it.
        model: The model.
        task: Its task.
        budget: The request's ceilings.
        out: Folder to write; must not exist or be empty.
        seed: Seed of the request.
        started: `time.perf_counter()` at the start of the request.
        key: The request's key, see `Factory.request_key`.
        front: For a model that a search found, which point of which front it is.

    Returns:
        The report, which lies in the folder too.
    """
    folder, form = maker.folder, maker.production.form
    limits = budget.limits(whole_macs=maker.whole.macs)
    clock = Clock()
    sample = maker.sample(task, seed=seed)
    quality = None
    if sample is not None and maker.judge.available():
        quality = maker.quality(task, model.session, sample)
    pictures = [] if sample is None else maker.pictures(task, model, sample)
    clock.lap("quality")
    check = maker.check(task, model, quality, sample)
    clock.lap("check")
    whole_ms = maker.whole_ms()
    clock.lap("whole")
    reached = model.predicted.model_dump(exclude_none=True)
    if maker.here:
        reached["latency_ms"] = model.measured.p50
    if model.energy is not None:
        reached["energy_mj"] = model.energy.mj
    if model.memory is not None:
        reached["runtime_memory_bytes"] = model.memory
    roles = ("model", "model_weights")  # a second file of a model holds its weights
    files = {
        **dict(zip(roles, model.files, strict=False)),
        "weights": "model.safetensors",
        "config": "config.json",
        "labels": "labels.txt",
        "preprocess": "preprocess.json",
        "request": "request.json",
        "report": "report.json",
        "page": "report.html",
    }
    if model.decode is not None:
        files |= {"decode": "decode.json", "pictures": "pictures.json"}
    with new_folder(out) as target:
        for name, content in model.files.items():
            write_bytes(target / name, content)
        write_bytes(target / files["weights"], save_safetensors(dict(model.weights)))
        write_json(
            target / files["config"],
            {
                "format_version": FORMAT_VERSION,
                "builder": folder.network["builder"],
                "arguments": folder.network["arguments"],
                "config": dict(model.config),
                "norms": "folded",
            },
        )
        write_text(target / files["labels"], "\n".join(maker.judge.labels(task)) + "\n")
        write_text(target / files["preprocess"], folder.preprocess.to_json())
        if model.decode is not None:
            write_json(target / files["decode"], decode_record(model.decode, inside=model.inside))
            write_json(target / files["pictures"], pictures)
        write_json(
            target / files["request"],
            {
                "key": key,
                "factory": folder.name,
                "factory_sha256": sha256(folder.path / "manifest.json"),
                "task": task.text,
                "budget": budget.model_dump(exclude_none=True),
                "format": form.name,
                "device": None if maker.device is None else maker.device.name,
                "seed": seed,
                **({"decode": "inside" if model.inside else "outside"} if model.decode is not None else {}),
                **({} if front is None else {"front": dict(front)}),
            },
        )
        clock.lap("write")
        seconds = {**model.seconds, **clock.seconds, "total": time.perf_counter() - started}
        report = Report(
            task=task.text,
            known_task=known_task(folder, task),
            factory=folder.name,
            budget=budget,
            format=form.name,
            device=None if maker.device is None else maker.device.name,
            binding_limit=binding_limit(reached, limits),
            predicted=model.predicted,
            measured=model.measured,
            measured_on=this_device_name(maker.threads, maker.production.runtime),
            whole_measured=whole_ms,
            rounds=model.rounds,
            parameters=model.predicted.parameters,
            macs=model.predicted.macs,
            macs_share=model.predicted.macs / maker.whole.macs,
            whole=maker.costs(
                maker.blueprint.space.largest(), limits=tuple(limits), file_bytes=maker.whole.file_bytes
            ),
            file_bytes=size_of(model.files),
            peak_memory_bytes=model.predicted.peak_memory_bytes,
            runtime_memory_bytes=model.memory,
            energy=model.energy,
            seconds={part: round(value, 4) for part, value in seconds.items()},
            parity_error=model.parity_error,
            parity_reference=maker.parity_reference,
            format_check=check,
            quality=quality,
            curve=curve_of(folder, task),
            blocks=tuple(
                Block(name=s.name, bricks=tuple(i in model.config[s.name] for i in range(s.count)))
                for s in maker.assembly.subsets
            ),
            choices={d.name: model.config[d.name] for d in maker.blueprint.space if isinstance(d, Choice)},
            config_sha256=model.config.digest(),
            seed=seed,
            versions={
                **versions(form.runtime.library, maker.production.runtime.library),
                "machine": platform.machine(),
            },
            sha256={name: sha256(target / name) for name in (*model.files, files["weights"])},
            files={role: str(out / name) for role, name in files.items()},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(target / files["report"], report.model_dump())
        write_text(target / files["page"], render(report, pictures))
        write_manifest(target, format_version=FORMAT_VERSION, kind="model", fields={"name": out.name})
    return report
