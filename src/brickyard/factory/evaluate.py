"""Quality of a made model on data that a user brings, as its file runs; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import DataError, TaskError
from brickyard.core.files import read_json, read_manifest
from brickyard.core.task import Task, Vocabulary
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.geometry import task_scenes
from brickyard.data.source import DataSource, load_data
from brickyard.factory.folder import FORMAT_VERSION
from brickyard.factory.quality import Labels, open_session, recalls, scores_of
from brickyard.factory.records import Record

_ABSENT_PRESENT = ("absent", "present")
_SEED = 40_000_000_000  # away from the seeds that training and reports draw scenes from


class Evaluation(Record):
    """Quality of a model on labelled data.

    Attributes:
        task: Text of the model's task.
        metric: `balanced_accuracy` for property tasks, `accuracy` for class tasks.
        value: The quality.
        per_class: Recall by label.
        counts: Pictures by label.
        examples: Number of pictures.
        source: Where they come from.
        data: The data as they were named.
        seed: Seed of scenes and splits.
    """

    task: str
    metric: Literal["balanced_accuracy", "accuracy"]
    value: float
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
        part: `heldout` for the part that training on these data with this seed holds out, `all` for all.
        pictures: Number of scenes to draw, half of which show what the task names.
        seed: Seed of scenes and splits.
        threads: Threads of the runtime.

    Returns:
        The quality.

    Raises:
        ArtifactError: The folder is no model folder, or is altered.
        DataError: The data are missing or malformed, lack words of the task, or show only one of its labels.
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
    source = _load(data, preprocess, attributes=attributes, label=label, image=image, seed=seed)
    task = _fitting_task(source.vocabulary, text, labels, kind=kind, data=data)
    images, truth, origin = _pictures(source, task, labels, part=part, count=pictures, seed=seed)
    session = open_session((folder / "model.onnx").read_bytes(), threads=threads)
    scores = scores_of(session, preprocess.apply(_channels(images, preprocess.channels)))
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


def _load(
    data: str,
    preprocess: Preprocess,
    *,
    attributes: Sequence[str],
    label: str | None,
    image: str | None,
    seed: int,
) -> DataSource:
    name, _, options = data.partition(":")
    if name == "geometry":
        given = {item.partition("=")[0].strip(): item for item in options.split(",") if item.strip()}
        # Scenes are drawn for the task later; the generator is all that is wanted here.
        for key, value in {"size": preprocess.height, "train": 1, "heldout": 1}.items():
            given.setdefault(key, f"{key}={value}")
        data = f"geometry:{','.join(given.values())}"
    size = None if name in ("geometry", "digits") else preprocess.height
    return load_data(
        data, attributes=attributes, label=label, image=image, size=size, crop=preprocess.crop, seed=seed
    )


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
        return drawn.images, present.astype(np.int64), f"fresh scenes, seed {seed}"
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
    whole = len(source.train) + len(source.heldout)
    return (
        images,
        truth,
        f"the held-out part of {whole}" if part == "heldout" else f"all of {whole}",
    )


def _truth(examples: Examples, task: Task, vocabulary: Vocabulary, labels: Sequence[str]) -> Labels:
    """Return the output index of each picture, -1 where its class is not among the labels."""
    if task.kind == "properties":
        return examples.holds(task.values(vocabulary)).astype(np.int64)
    place = np.full(len(vocabulary.words), -1, dtype=np.int64)
    for position, word in enumerate(labels):
        place[vocabulary.index(word)] = position
    truth: Labels = place[examples.classes]
    return truth


def _channels(images: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Bring pictures `[N, height, width, C]` to a number of channels: grey is repeated, colour averaged."""
    if images.shape[3] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=3)
    grey: npt.NDArray[np.uint8] = (images @ np.array([0.299, 0.587, 0.114]) + 0.5).astype(np.uint8)
    return grey[..., None]
