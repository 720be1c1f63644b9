"""A point of a search's front as a model folder, of networks that read tokens; needs torch.

The files are compared with the subnet on held-out texts of different lengths, timed, and judged on the texts
that the search judged by, as they will be used: one text after the other through ONNX Runtime.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.files import (
    new_folder,
    read_json,
    sha256,
    write_bytes,
    write_json,
    write_manifest,
    write_text,
)
from brickyard.core.weights import distinct_state
from brickyard.data.texts import Pairs, Texts
from brickyard.devices.measure import measure_session, this_device_name
from brickyard.devices.runtimes.base import Fed
from brickyard.factory.clock import Clock
from brickyard.factory.folder import FORMAT_VERSION, find_factory, versions
from brickyard.factory.records import Latency
from brickyard.factory.searching import SearchSetup, open_subnets
from brickyard.factory.supernet import TrainedSupernet
from brickyard.factory.supernet_jobs import TextClasses, Translation
from brickyard.factory.text_export import check_files, export_files
from brickyard.factory.text_model import FILES, TOKENS, TextModel
from brickyard.factory.text_rating import Progress, accuracy, answer_all, bleu, class_recalls
from brickyard.factory.text_records import (
    TextChoice,
    TextCosts,
    TextExample,
    TextJob,
    TextQuality,
    TextReport,
)
from brickyard.factory.text_report_html import render_text
from brickyard.factory.text_subnets import TextSubnets, macs_of

_PARITY_TEXTS = 12
_EXAMPLES = 8

ROLES: Mapping[str, tuple[str, ...]] = {"texts": ("model",), "translation": ("encoder", "decoder")}
"""Roles of the ONNX files in a report, by job."""


def make_text_model(
    setup: SearchSetup,
    *,
    place: int,
    point: Mapping[str, Any],
    out: Path,
    key: str,
    progress: Progress,
) -> TextReport:
    """Write the model folder of a subnet that was found, all or nothing.

    Args:
        setup: What was searched.
        place: Place of the point on the front.
        point: Its config and metrics.
        out: Folder to write; must not exist or be empty.
        key: Hash of all that decides what is written.
        progress: Called with a stage, the texts that are judged, those in all, and a text.

    Returns:
        The report, which lies in the folder too.

    Raises:
        ExportError: The files compute something else than the subnet.
        MissingExtraError: A library that is needed is not installed.
    """
    clock = Clock()
    subnets = cast("TextSubnets", open_subnets(setup))
    trained = cast("TrainedSupernet", subnets.trained)
    job = cast("TextClasses | Translation", trained.job)
    config = subnets.config(point["config"])
    clock.lap("open")
    made = _Opened(job, trained.subnet(config), setup.threads)
    clock.lap("export")
    examples = _by_length(job, trained.heldout)
    error = check_files(made.model, made.module, examples)
    clock.lap("parity")
    inputs = subnets.full_inputs
    costs = made.costs(inputs)
    clock.lap("measure")
    whole = _Opened(job, trained.subnet(trained.network.space.largest()), setup.threads)
    whole_costs = whole.costs(inputs)
    clock.lap("whole")
    quality, latency, shown = _judge(made, whole, subnets.labelled, setup.threads, progress)
    clock.lap("quality")
    record = read_json(find_factory(setup.network) / "network.json")
    labels = job.vocabulary.words if isinstance(job, TextClasses) else ()
    files = {
        **dict(zip(ROLES[job.kind], FILES[job.kind], strict=True)),
        **{"weights": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"},
        **({"labels": "labels.txt"} if labels else {}),
        **{"request": "request.json", "report": "report.json", "page": "report.html"},
    }
    name = find_factory(setup.network).resolve().name
    with new_folder(out) as target:
        for file, content in made.files.items():
            write_bytes(target / file, content)
        write_bytes(target / files["weights"], save_safetensors(distinct_state(made.module)))
        write_json(
            target / files["config"],
            {
                "format_version": FORMAT_VERSION,
                "builder": record["builder"],
                "arguments": record["arguments"],
                "config": dict(config),
                "job": job.kind,
                "max_tokens": job.max_tokens,
                "tokens": TOKENS,
            },
        )
        job.tokenizer.save(target / files["tokenizer"])
        if labels:
            write_text(target / files["labels"], "\n".join(labels) + "\n")
        front = {"study": setup.name, "place": place, "metrics": dict(point["metrics"])}
        write_json(
            target / files["request"],
            {
                "key": key,
                "factory": name,
                "factory_sha256": setup.network_sha256,
                "task": "all",
                "budget": {},
                "format": "onnx",
                "device": None,
                "seed": setup.seed,
                "front": front,
            },
        )
        clock.lap("write")
        report = TextReport(
            job=cast("TextJob", job.kind),
            factory=name,
            study=setup.name,
            place=place,
            judged=front["metrics"],
            classes=len(labels) or None,
            max_tokens=job.max_tokens,
            vocabulary=job.tokenizer.vocab_size,
            costs=costs,
            whole=whole_costs,
            text_ms=latency,
            measured_on=this_device_name(setup.threads),
            quality=quality,
            examples=shown,
            choices=_choices(subnets, config),
            parity_error=error,
            parity_texts=len(examples),
            seconds=clock.total(),
            config_sha256=config.digest(),
            seed=setup.seed,
            versions={**versions("torch", "tokenizers"), "machine": platform.machine()},
            sha256={file: sha256(target / file) for file in (*made.files, files["weights"])},
            files={role: str(out / file) for role, file in files.items()},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(target / files["report"], report.model_dump())
        write_text(target / files["page"], render_text(report))
        write_manifest(target, format_version=FORMAT_VERSION, kind="model", fields={"name": out.name})
    return report


class _Opened:
    """A subnet in torch, its files, and the files in ONNX Runtime."""

    def __init__(self, job: TextClasses | Translation, module: nn.Module, threads: int) -> None:
        self.job, self.module, self.threads = job, module, threads
        self.files = export_files(module, max_tokens=job.max_tokens)
        self.model = TextModel(
            job.kind,
            self.files,
            tokenizer=job.tokenizer,
            max_tokens=job.max_tokens,
            labels=job.vocabulary.words if isinstance(job, TextClasses) else (),
            threads=threads,
        )

    def costs(self, inputs: Sequence[torch.Tensor]) -> TextCosts:
        """Count and time a pass over inputs without padding."""
        feeds = [[inputs[0]]]
        if self.job.kind == "translation":
            feeds.append([inputs[1], torch.from_numpy(self.model.encode(inputs[0][0].tolist()))])
        latency = {}
        for file, session, feed in zip(self.files, self.model.sessions, feeds, strict=True):
            names = [entry.name for entry in session.get_inputs()]
            fed = Fed(session, {name: part.numpy() for name, part in zip(names, feed, strict=True)})
            latency[file] = measure_session(fed, threads=self.threads).p50
        return TextCosts(
            macs=macs_of(self.module, inputs),
            parameters=sum(tensor.numel() for tensor in self.module.parameters()),
            file_bytes=sum(map(len, self.files.values())),
            latency=latency,
        )

    def evaluate(self, heldout: Texts | Pairs) -> float:
        """Judge the subnet in torch, many texts at a time."""
        return float(self.job.evaluate(self.module, heldout))  # type: ignore[arg-type]


def _by_length(job: TextClasses | Translation, heldout: Texts | Pairs) -> list[tuple[list[int], ...]]:
    """Return the ids of held-out texts from the shortest to the longest, and of one that is cut off."""
    rows: list[tuple[list[int], ...]]
    if isinstance(job, TextClasses):
        rows = [(ids,) for ids in job.ids(cast("Texts", heldout))]
    else:
        rows = list(zip(*job.sides(cast("Pairs", heldout)), strict=True))
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    places = np.unique(np.linspace(0, len(order) - 1, _PARITY_TEXTS).round().astype(int))
    chosen = [rows[order[place]] for place in places]
    longest = [ids * job.max_tokens for ids in chosen[-1] if ids]
    fits = [ids[: job.max_tokens - place] for place, ids in enumerate(longest)]  # targets have a start, too
    return [*chosen, *([tuple(fits)] if len(fits) == len(chosen[-1]) else [])]


def _judge(
    made: _Opened, whole: _Opened, heldout: Texts | Pairs, threads: int, progress: Progress
) -> tuple[TextQuality, Latency, tuple[TextExample, ...]]:
    """Judge the files, and pick texts to show: of a classifier, wrong answers first."""
    labels = made.model.labels
    if isinstance(heldout, Texts):
        texts, right = heldout.texts, [labels[label] for label in heldout.labels]
    else:
        texts, right = heldout.sources, list(heldout.targets)
    found, times = answer_all(made.model, texts, progress=progress)
    classifies = isinstance(heldout, Texts)
    rate = accuracy if classifies else bleu
    quality = TextQuality(
        metric="accuracy" if classifies else "bleu",
        value=rate(found, right),
        whole=whole.evaluate(heldout),
        per_class=class_recalls(found, right) if classifies else {},
        texts=len(texts),
    )
    p10, p50, p90 = np.percentile(times, [10, 50, 90]).round(6).tolist()
    latency = Latency(p10=p10, p50=p50, p90=p90, runs=len(times), warmup=0, threads=threads)
    drawn = np.random.default_rng(0).permutation(len(texts)).tolist()
    wrong = [place for place in drawn if classifies and found[place] != right[place]][: _EXAMPLES // 2]
    places = [*wrong, *[place for place in drawn if place not in wrong]][:_EXAMPLES]
    others = answer_all(whole.model, [texts[place] for place in places]).texts
    shown = tuple(
        TextExample(text=texts[place], right=right[place], whole=other, made=found[place])
        for place, other in zip(places, others, strict=True)
    )
    return quality, latency, shown


def _choices(subnets: TextSubnets, config: Config) -> tuple[TextChoice, ...]:
    """Return what was chosen where it matters."""
    idle = subnets.idle(config)
    return tuple(
        TextChoice(name=part.name, value=config[part.name], largest=part.largest())
        for part in subnets.space
        if isinstance(part, Choice) and part.name not in idle
    )
