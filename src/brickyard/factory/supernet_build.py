"""From data to the folder of a trained supernet; needs torch."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save as save_torch

from brickyard.core.config import Config
from brickyard.core.errors import ArtifactError, DataError, TrainError
from brickyard.core.files import new_folder, sha256, write_bytes, write_json, write_manifest
from brickyard.core.network import Network
from brickyard.core.weights import distinct_state
from brickyard.data.source import DataSource
from brickyard.data.texts import PairSource, TextSource
from brickyard.data.tokens import Tokenizer
from brickyard.factory.folder import FORMAT_VERSION, versions
from brickyard.factory.supernet import TrainedSupernet
from brickyard.factory.supernet_jobs import Job, Pictures, TextClasses, Translation
from brickyard.factory.supernet_report import draw_training
from brickyard.networks import build
from brickyard.networks.detection import OUTPUTS
from brickyard.train.augment import AUGMENTATIONS
from brickyard.train.layout import fast_layout_
from brickyard.train.supernet import Sandwich, SupernetRecord, SupernetSettings, SupernetTraining

_CALIBRATION = 512  # examples that are kept
_RANDOM = 6  # random configs that are judged at the end

Source = DataSource | TextSource | PairSource


class Progress(Protocol):
    """Is told how far work is."""

    def __call__(self, stage: str, done: int, total: int, text: str, /) -> None:
        """Take note of `done` of `total` steps of a stage."""


@dataclass(frozen=True, kw_only=True)
class SupernetBuild:
    """Everything that decides a trained supernet besides its data.

    Attributes:
        network: Name of a registered network.
        augment: Name of an augmentation of pictures, or `none`.
        vocab_size: Most tokens of the vocabulary of texts; as many as the network has unless told otherwise
            if None.
        max_tokens: Most tokens of a text; likewise.
        heldout_count: Most held-out examples that are kept, and that subnets are judged by.
        threads: Threads of torch.
        train: The training and its seed.
    """

    network: str
    augment: str = "none"
    vocab_size: int | None = None
    max_tokens: int | None = None
    heldout_count: int = 2000
    threads: int = 1
    train: SupernetSettings = field(default_factory=SupernetSettings)

    def __post_init__(self) -> None:
        """Check the names and ranges.

        Raises:
            TrainError: A name is unknown or a number out of range.
        """
        if self.augment not in AUGMENTATIONS:
            raise TrainError(f"augment = {self.augment!r} is unknown; known: {', '.join(AUGMENTATIONS)}")
        if self.heldout_count < 2:
            raise TrainError(f"heldout_count = {self.heldout_count} must be at least 2")
        if self.threads < 1 or (self.max_tokens is not None and self.max_tokens < 2):
            raise TrainError(
                f"threads = {self.threads} must be at least 1 and max_tokens = {self.max_tokens} at least 2"
            )


def train_supernet(source: Source, settings: SupernetBuild, *, out: Path, progress: Progress) -> Path:
    """Train a supernet on data and write its folder.

    A checkpoint lies in `<out>.training` and lets a killed run go on, to the same weights bit for bit; the
    folder is removed when that of the supernet is written.

    Args:
        source: The data: pictures with classes, texts with classes, or texts with translations.
        settings: The build.
        out: Folder to write; must not exist.
        progress: Called while training.

    Returns:
        `out`.

    Raises:
        TrainError: Settings that do not fit, or a checkpoint of another run.
        DataError: The data do not fit the network.
        ArtifactError: `out` exists.
    """
    torch.set_num_threads(settings.threads)
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    blank = _checked(source, settings)
    Sandwich(blank.space, settings.train)
    work = out.absolute().with_name(out.name + ".training")
    work.mkdir(parents=True, exist_ok=True)
    job = _job(source, settings, blank, work)
    torch.manual_seed(settings.train.seed)
    network = fast_layout_(build(settings.network, **job.arguments()))
    rows = _train(source, settings, network, job, work=work, progress=progress)
    rng = np.random.default_rng(settings.train.seed)
    calibration = source.train.subset(rng.permutation(len(source.train))[:_CALIBRATION])
    heldout = source.heldout.subset(np.sort(rng.permutation(len(source.heldout))[: settings.heldout_count]))
    trained = TrainedSupernet(network, job, job.calibration(calibration), heldout)
    quality = _judge(trained, settings, progress)
    with new_folder(out) as folder:
        job.write(folder)
        job.save_examples(calibration, folder / "calibration")
        job.save_examples(heldout, folder / "heldout")
        _write(folder, source=source, settings=settings, trained=trained, rows=rows, quality=quality)
        write_manifest(
            folder,
            format_version=FORMAT_VERSION,
            kind="network",
            fields={"name": out.name, "seed": settings.train.seed},
        )
    shutil.rmtree(work)
    return out


def _checked(source: Source, settings: SupernetBuild) -> Network:
    """Return the network with its own arguments; refuse it where it is for other data."""
    network = build(settings.network)
    wanted = {DataSource: "pictures", TextSource: "texts with classes", PairSource: "translations"}
    reads = ("pictures", "texts with classes", "translations")[min(2, len(network.vocab_sizes))]
    found = wanted[type(source)]
    if network.outputs == OUTPUTS:
        raise TrainError(f"{settings.network} detects; a supernet here classifies or translates")
    if reads != found:
        raise DataError(f"{settings.network} is for {reads}; the data are {found}")
    if isinstance(source, DataSource) and source.vocabulary.kind != "classes":
        raise DataError(f"{source.name} has properties; a supernet needs pictures with one class each")
    for name, value in (("vocab_size", settings.vocab_size), ("max_tokens", settings.max_tokens)):
        if value is not None and isinstance(source, DataSource):
            raise TrainError(f"{name} = {value} is for texts, the data are pictures; leave it out")
    if settings.augment != "none" and not isinstance(source, DataSource):
        raise TrainError(f"augment = {settings.augment!r} is for pictures, the data are texts; leave it out")
    return network


def _job(source: Source, settings: SupernetBuild, blank: Network, work: Path) -> Job[Any]:
    if isinstance(source, DataSource):
        return Pictures(source.vocabulary, source.preprocess)
    max_tokens = settings.max_tokens or blank.input_shape[0]
    file = work / "tokenizer.json"
    if not file.is_file():
        texts = source.train.texts if isinstance(source, TextSource) else _both(source)
        Tokenizer.train(
            texts,
            vocab_size=settings.vocab_size or blank.vocab_sizes[0],
            lower=isinstance(source, TextSource),
        ).save(file)
    tokenizer = Tokenizer.load(file)
    if isinstance(source, TextSource):
        return TextClasses(source.vocabulary, tokenizer, max_tokens)
    return Translation(tokenizer, max_tokens)


def _both(source: PairSource) -> list[str]:
    return [*source.train.sources, *source.train.targets]


def _train(
    source: Source,
    settings: SupernetBuild,
    network: Network,
    job: Job[Any],
    *,
    work: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    train = settings.train
    tokenizer = work / "tokenizer.json"
    identity = {
        "data": dict(source.spec),
        "augment": settings.augment,
        "examples": len(source.train),
        "tokenizer": sha256(tokenizer) if tokenizer.is_file() else None,
        "space": _space_digest(network),
    }
    log = work / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    training = SupernetTraining(
        network,
        batches=job.batches(
            source.train, batch_size=train.batch_size, seed=train.seed, augment=settings.augment
        ),
        settings=train,
        folder=work,
        identity=identity,
    )
    for record in training.run():
        rows = [*(row for row in rows if row["step"] < record.step), asdict(record)]
        write_bytes(log, "".join(json.dumps(row) + "\n" for row in rows).encode())
        progress(
            "train",
            record.step,
            train.steps,
            f"loss {record.loss:.3f}, accuracy {record.accuracy:.3f}; smallest {record.smallest_loss:.3f}, "
            f"{record.smallest_accuracy:.3f}",
        )
    return rows


def _judge(trained: TrainedSupernet, settings: SupernetBuild, progress: Progress) -> dict[str, Any]:
    """Judge the largest config, the smallest and some random ones on the examples held out."""
    space = trained.space
    rng = random.Random(f"{settings.train.seed} test")

    def draws() -> Iterator[Config]:
        while True:
            yield space.sample(rng)

    drawn = islice(draws(), _RANDOM)
    chosen = list(dict.fromkeys([space.largest(), space.smallest(), *drawn]))
    found = []
    for number, config in enumerate(chosen, start=1):
        started = time.perf_counter()
        subnet = trained.subnet(config)
        value = trained.job.evaluate(subnet, trained.heldout)
        found.append(
            {
                "name": "largest" if number == 1 else "smallest" if number == 2 else "random",
                "config": dict(config),
                "parameters": sum(parameter.numel() for parameter in subnet.parameters()),
                trained.metric: value,
                "seconds": time.perf_counter() - started,
            }
        )
        progress("test", number, len(chosen), f"{found[-1]['name']}: {trained.metric} {value:.4g}")
    return {"metric": trained.metric, "examples": len(trained.heldout), "configs": found}


def _space_digest(network: Network) -> str:
    return hashlib.sha256(json.dumps(network.space.to_json()).encode()).hexdigest()


def _write(
    folder: Path,
    *,
    source: Source,
    settings: SupernetBuild,
    trained: TrainedSupernet,
    rows: Sequence[dict[str, Any]],
    quality: dict[str, Any],
) -> None:
    network = trained.network
    write_json(
        folder / "network.json",
        {
            "format_version": FORMAT_VERSION,
            "builder": network.builder,
            "arguments": network.arguments,
            "space": _space_digest(network),
            "job": trained.job.kind,
            "metric": trained.metric,
            "provenance": {
                "data": dict(source.spec),
                "settings": asdict(settings),
                "versions": versions("torch", "datasets", "tokenizers", "sacrebleu"),
                "machine": platform.processor() or platform.machine(),
            },
        },
    )
    write_bytes(folder / "model.safetensors", save_torch(distinct_state(network.root)))
    write_json(folder / "quality.json", quality)
    training = folder / "training"
    training.mkdir()
    with (training / "log.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=[column.name for column in fields(SupernetRecord)])
        writer.writeheader()
        writer.writerows(rows)
    draw_training(training / "curves.png", rows=rows, quality=quality)
