"""Quality of a made model on data that a user brings, as its file runs; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import DataError, TaskError
from brickyard.core.files import read_json, read_manifest
from brickyard.core.task import Task, Vocabulary
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.geometry import task_scenes
from brickyard.data.source import DataSource, Job, load_data
from brickyard.devices.runtimes import Session
from brickyard.factory.boxes import BoxJudge, joined
from brickyard.factory.folder import FORMAT_VERSION
from brickyard.factory.formats import format_named
from brickyard.factory.quality import Labels, recalls, scores_of
from brickyard.factory.records import Metric, Record

_ABSENT_PRESENT = ("absent", "present")
_SEED = 40_000_000_000  # away from the seeds that training and reports draw scenes from


class Evaluation(Record):
    """Quality of a model on labelled data.

    Attributes:
        task: Text of the model's task.
        metric: `balanced_accuracy` for property tasks, `accuracy` for class tasks, `ap50` for detectors,
            `bleu` for translators.
        value: The quality.
        ap: For detectors, the average precision over overlaps of 0.5 to 0.95.
        per_class: Recall by label; AP50 for detectors; empty for translators.
        counts: Pictures or texts by label; boxes for detectors; empty for translators.
        examples: Number of pictures or texts.
        source: Where they come from.
        data: The data as they were named.
        seed: Seed of scenes and splits.
    """

    task: str
    metric: Metric
    value: float
    ap: float | None = None
    per_class: dict[str, float]
    counts: dict[str, int]
    examples: int
    source: str
    data: str
    seed: int


def evaluate_model(
    folder: Path,
    data: str,
    *,
    attributes: Sequence[str] = (),
    label: str | None = None,
    image: str | None = None,
    objects: str | None = None,
    image_folder: str | None = None,
    part: Literal["heldout", "all"] = "heldout",
    pictures: int = 2000,
    seed: int = 0,
    threads: int = 1,
) -> Evaluation:
    """Run the file of a made model on labelled data.

    Args:
        folder: The model folder; its hashes are verified.
        data: What `load_data` takes. Options of `geometry` that are left out have their defaults, but the
            size is the model's.
        attributes: Columns that hold properties.
        label: Column of the class.
        image: Column of the image.
        objects: For detectors, column of boxes.
        image_folder: For detectors, folder of the pictures of a COCO json.
        part: `heldout` for the part that training on these data with this seed holds out, `all` for all.
        pictures: Number of scenes to draw, half of which show what the task names.
        seed: Seed of scenes and splits.
        threads: Threads of the runtime.

    Returns:
        The quality.

    Raises:
        ArtifactError: The folder is no model folder, or is altered.
        DataError: The data are missing or malformed, lack words of the task, or show only one of its labels
            (for detectors, none of its boxes).
        MissingExtraError: pycocotools is needed and not installed.
    """
    read_manifest(folder, format_version=FORMAT_VERSION, kind="model")
    preprocess = Preprocess.from_json((folder / "preprocess.json").read_text())
    labels = tuple((folder / "labels.txt").read_text().splitlines())
    text = str(read_json(folder / "request.json")["task"])
    kind = (
        "properties"
        if read_json(folder / "config.json")["arguments"]["head_kind"] == "presence"
        else "classes"
    )
    detects = (folder / "decode.json").is_file()
    source = load_fitting(
        data,
        preprocess,
        seed=seed,
        attributes=attributes,
        label=label,
        image=image,
        objects=objects,
        image_folder=image_folder,
        job="detect" if detects else "classify",
    )
    task = _fitting_task(source.vocabulary, text, labels, kind=kind, data=data)
    if detects:
        return _evaluate_boxes(
            folder, source, task, part=part, count=pictures, seed=seed, threads=threads, data=data
        )
    images, truth, origin = _pictures(source, task, labels, part=part, count=pictures, seed=seed)
    session = _opened(folder, threads=threads)
    scores = scores_of(session, preprocess.apply(with_channels(images, preprocess.channels)))
    by_label = recalls(scores, truth)
    accuracy = float((scores.argmax(1) == truth).mean())
    return Evaluation(
        task=text,
        metric="balanced_accuracy" if kind == "properties" else "accuracy",
        value=float(np.mean(list(by_label.values()))) if kind == "properties" else accuracy,
        per_class={labels[index]: value for index, value in by_label.items()},
        counts={labels[index]: int((truth == index).sum()) for index in by_label},
        examples=len(truth),
        source=origin,
        data=data,
        seed=seed,
    )


def _opened(folder: Path, *, threads: int) -> Session:
    """Open the files of a model folder in the runtime of their format."""
    form = format_named(read_json(folder / "request.json").get("format", "onnx"))
    return form.open({name: (folder / name).read_bytes() for name in form.files}, threads=threads)


def _evaluate_boxes(
    folder: Path,
    source: DataSource,
    task: Task,
    *,
    part: str,
    count: int,
    seed: int,
    threads: int,
    data: str,
) -> Evaluation:
    """Measure a detector: by average precision, of the boxes that its file gives."""
    drawn = source.geometry is not None
    parts = [source.heldout] if part == "heldout" else [source.train, source.heldout]
    judge = BoxJudge(source.vocabulary, source.preprocess, None if drawn else joined(parts), source.geometry)
    sample = judge.draw(task, count=count if drawn else sum(map(len, parts)), seed=_SEED + seed)
    if sample is None:
        raise DataError(f"{data} shows no box of {task.text}; give data that show some")
    session = _opened(folder, threads=threads)
    preprocess = Preprocess.from_json((folder / "preprocess.json").read_text())
    images = with_channels(sample.images, preprocess.channels)
    rating = replace(judge, preprocess=preprocess).rate(session, task, replace(sample, images=images))
    labels = judge.labels(task)
    counts = np.bincount(np.concatenate([there.labels for there in sample.truth]), minlength=len(labels))
    return Evaluation(
        task=task.text,
        metric="ap50",
        value=rating.value,
        ap=rating.ap,
        per_class=rating.by_label,
        counts=dict(zip(labels, map(int, counts), strict=True)),
        examples=len(images),
        source=_origin(source, part, seed),
        data=data,
        seed=seed,
    )


def _origin(source: DataSource, part: str, seed: int) -> str:
    if source.geometry is not None:
        return f"fresh scenes, seed {seed}"
    whole = len(source.train) + len(source.heldout)
    return f"the held-out part of {whole}" if part == "heldout" else f"all of {whole}"


def load_fitting(
    data: str, preprocess: Preprocess, *, seed: int, job: Job, scenes: int = 1, **options: Any
) -> DataSource:
    """Load data in the size that a network takes.

    Args:
        data: What `load_data` takes.
        preprocess: How the network's inputs are made.
        seed: Seed of scenes and splits.
        job: `classify` or `detect`.
        scenes: Scenes to train on that are drawn for `geometry` unless it says otherwise; those to test on
            are drawn for a task later.
        **options: Further options of `load_data`.
    """
    name, _, fields = data.partition(":")
    if name == "geometry":
        given = {item.partition("=")[0].strip(): item for item in fields.split(",") if item.strip()}
        for key, value in {"size": preprocess.height, "train": scenes, "heldout": 1}.items():
            given.setdefault(key, f"{key}={value}")
        data = f"geometry:{','.join(given.values())}"
    size: int | tuple[int, int] | None = preprocess.height
    if name in ("geometry", "digits"):
        size = None
    elif job == "detect":
        size = preprocess.height, preprocess.width
    return load_data(data, size=size, crop=preprocess.crop, seed=seed, job=job, **options)


def _fitting_task(vocabulary: Vocabulary, text: str, labels: Sequence[str], *, kind: str, data: str) -> Task:
    if vocabulary.kind != kind:
        hint = "; name its columns of properties with --attributes" if kind == "properties" else ""
        raise DataError(f"the model's task {text!r} is about {kind}, but {data} has {vocabulary.kind}{hint}")
    try:
        return vocabulary.parse(text) if kind == "properties" else vocabulary.task(labels)
    except TaskError as error:
        raise DataError(f"{data} does not fit the model's task {text!r}: {error}") from None


def _pictures(
    source: DataSource, task: Task, labels: Sequence[str], *, part: str, count: int, seed: int
) -> tuple[npt.NDArray[np.uint8], Labels, str]:
    """Return pictures, the index of each one's label, and where they come from."""
    vocabulary = source.vocabulary
    if source.geometry is not None and task.words:
        drawn, present = task_scenes(source.geometry, task.values(vocabulary), count, _SEED + seed)
        return drawn.images, present.astype(np.int64), _origin(source, part, seed)
    parts = [source.heldout] if part == "heldout" else [source.train, source.heldout]
    truths = [_truth(examples, task, vocabulary, labels) for examples in parts]
    images = np.concatenate(
        [examples.images[truth >= 0] for examples, truth in zip(parts, truths, strict=True)]
    )
    truth = np.concatenate([truth[truth >= 0] for truth in truths])
    if len(np.unique(truth)) < 2:
        shown = sorted({labels[index] for index in truth})
        raise DataError(
            f"of the labels {', '.join(labels)} these data show {', '.join(shown) or 'none'}; "
            "give data that show at least two"
        )
    return images, truth, _origin(source, part, seed)


def _truth(examples: Examples, task: Task, vocabulary: Vocabulary, labels: Sequence[str]) -> Labels:
    """Return the output index of each picture, -1 where its class is not among the labels."""
    if task.kind == "properties":
        return examples.holds(task.values(vocabulary)).astype(np.int64)
    place = np.full(len(vocabulary.words), -1, dtype=np.int64)
    for position, word in enumerate(labels):
        place[vocabulary.index(word)] = position
    truth: Labels = place[examples.classes]
    return truth


def with_channels(images: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Bring pictures `[N, height, width, C]` to a number of channels: grey is repeated, colour averaged."""
    if images.shape[3] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=3)
    grey: npt.NDArray[np.uint8] = (images @ np.array([0.299, 0.587, 0.114]) + 0.5).astype(np.uint8)
    return grey[..., None]
