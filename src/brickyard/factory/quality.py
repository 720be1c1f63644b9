"""Quality of made models on held-out pictures, run through ONNX Runtime as a user would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from brickyard.assemble.assembly import Assembly
from brickyard.core.config import Config
from brickyard.core.errors import TaskError
from brickyard.core.space import CLASSES, WORDS
from brickyard.core.task import Task, Vocabulary
from brickyard.data.examples import Examples, Preprocess, some_of
from brickyard.data.geometry import GeometrySpec, task_scenes
from brickyard.devices.runtimes import Session
from brickyard.export.blueprint import Blueprint
from brickyard.factory.folder import FactoryFolder
from brickyard.factory.records import CurvePoint, Metric

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_CURVE_PICTURES = 200


def open_session(model: onnx.ModelProto | bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """Open a model for running on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def outputs_of(session: Session, inputs: Floats, **fixed: Floats) -> list[Floats]:
    """Run a model of batch 1 on inputs `[N, channels, height, width]`.

    Args:
        session: The model.
        inputs: Inputs.
        **fixed: Further inputs by name, the same for each.

    Returns:
        Each output, `[N, ...]`.
    """
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: inputs[i : i + 1], **fixed}) for i in range(len(inputs))]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def scores_of(session: Session, inputs: Floats) -> Floats:
    """Run a model of batch 1 on inputs `[N, channels, height, width]`; scores `[N, outputs]`."""
    return outputs_of(session, inputs)[0]


def task_labels(task: Task, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return what the outputs of a model for a task mean, in order."""
    return ("absent", "present") if task.kind == "properties" else task.words


def task_examples(
    task: Task,
    vocabulary: Vocabulary,
    *,
    heldout: Examples | None,
    geometry: GeometrySpec | None,
    count: int,
    seed: int,
) -> tuple[npt.NDArray[np.uint8], Labels] | None:
    """Return held-out pictures with the labels they have in a task.

    Args:
        task: The task.
        vocabulary: Its words.
        heldout: Labelled pictures; None where scenes are drawn.
        geometry: Generator of scenes, used when there are no `heldout` pictures.
        count: Most pictures; for scenes, half of them show what the task names.
        seed: Seed of scenes, and of the choice of pictures where there are more.

    Returns:
        Pictures `[N, height, width, channels]` and output indices `[N]`; None where nothing is labelled
        for the task.
    """
    if heldout is None:
        if geometry is None or not task.words:
            return None
        drawn, present = task_scenes(geometry, task.values(vocabulary), count, seed)
        return drawn.images, present.astype(np.int64)
    if task.kind == "properties":
        labels = heldout.holds(task.values(vocabulary)).astype(np.int64)
        keep = some_of(np.arange(len(heldout)), count, seed)
    else:
        classes = task.class_indices(vocabulary)
        position = {index: place for place, index in enumerate(classes)}
        labels = np.array([position.get(int(index), -1) for index in heldout.classes], dtype=np.int64)
        keep = some_of(np.flatnonzero(labels >= 0), count, seed)
    return (heldout.images[keep], labels[keep]) if len(keep) else None


def recalls(scores: Floats, labels: Labels) -> dict[int, float]:
    """Return the share of right answers of each label that occurs."""
    answers = scores.argmax(1)
    return {int(label): float((answers[labels == label] == label).mean()) for label in np.unique(labels)}


def rate(
    task: Task, vocabulary: Vocabulary, scores: Floats, labels: Labels
) -> tuple[float, dict[str, float]]:
    """Return the quality of answers and the recall of each label by name.

    Args:
        task: The task.
        vocabulary: Its words.
        scores: `[N, outputs]`.
        labels: `[N]`.

    Returns:
        Balanced accuracy for property tasks, accuracy for class tasks; and the recalls.
    """
    names = task_labels(task, vocabulary)
    by_label = recalls(scores, labels)
    named = {names[label]: value for label, value in by_label.items()}
    if task.kind == "properties":
        return float(np.mean(list(by_label.values()))), named
    return float((scores.argmax(1) == labels).mean()), named


@dataclass(frozen=True, eq=False)
class Sample:
    """Labelled pictures for a task.

    Attributes:
        images: uint8 `[N, height, width, channels]`.
        truth: What is right: output indices `[N]`, or for detectors the boxes of each picture.
    """

    images: npt.NDArray[np.uint8]
    truth: Any


@dataclass(frozen=True)
class Rating:
    """What a model is worth on a sample.

    Attributes:
        value: The metric.
        by_label: The same, or the recall, of each label by name.
        ap: For detectors, the average precision over overlaps of 0.5 to 0.95.
    """

    value: float
    by_label: dict[str, float]
    ap: float | None = None


class Judge(Protocol):
    """Measures the quality of models of one job."""

    @property
    def curve_pictures(self) -> int:
        """Pictures per task for the curve of a factory."""

    def metric(self, task: Task) -> Metric:
        """Return the name of the metric."""

    def labels(self, task: Task) -> tuple[str, ...]:
        """Return what the outputs of a model mean, in order."""

    def available(self) -> bool:
        """Tell whether what measures is installed."""

    def draw(self, task: Task, *, count: int, seed: int) -> Sample | None:
        """Return labelled held-out pictures, None where nothing is labelled for the task."""

    def rate(self, session: Session, task: Task, sample: Sample) -> Rating:
        """Run a model on labelled pictures."""

    def telling(self, sample: Sample) -> bool:
        """Tell whether a sample can tell good from bad."""


@dataclass(frozen=True, eq=False)
class AnswerJudge:
    """Measures models that give one answer per picture.

    Attributes:
        vocabulary: Words of the factory.
        preprocess: How pictures become inputs.
        heldout: Labelled pictures; None where scenes are drawn.
        geometry: Generator of scenes, used without `heldout`.
    """

    vocabulary: Vocabulary
    preprocess: Preprocess
    heldout: Examples | None
    geometry: GeometrySpec | None

    @property
    def curve_pictures(self) -> int:
        """Pictures per task for the curve of a factory."""
        return _CURVE_PICTURES

    def metric(self, task: Task) -> Metric:
        """Return the name of the metric."""
        return "balanced_accuracy" if task.kind == "properties" else "accuracy"

    def labels(self, task: Task) -> tuple[str, ...]:
        """Return what the outputs of a model mean, in order."""
        return task_labels(task, self.vocabulary)

    def available(self) -> bool:
        """Nothing more is needed."""
        return True

    def draw(self, task: Task, *, count: int, seed: int) -> Sample | None:
        """Return labelled pictures, see `task_examples`."""
        found = task_examples(
            task, self.vocabulary, heldout=self.heldout, geometry=self.geometry, count=count, seed=seed
        )
        return None if found is None else Sample(*found)

    def rate(self, session: Session, task: Task, sample: Sample) -> Rating:
        """Return the quality of answers and the recalls, see `rate`."""
        scores = scores_of(session, self.preprocess.apply(sample.images))
        return Rating(*rate(task, self.vocabulary, scores, sample.truth))

    def telling(self, sample: Sample) -> bool:
        """Tell whether pictures of two labels are there."""
        return len(np.unique(sample.truth)) >= 2


def task_config(
    blueprint: Blueprint, assembly: Assembly, task: Task, vocabulary: Vocabulary, mask: Any
) -> Config:
    """Return the config of a mask: the head keeps the task's words or classes, choices are at their largest.

    Raises:
        TaskError: A property task without words.
    """
    others = dict(blueprint.space.largest())
    if task.kind == "classes":
        others[CLASSES] = task.class_indices(vocabulary)
    elif not task.words:
        raise TaskError(
            "this factory answers whether an object with given properties is there; name one property or "
            "more, of " + ", ".join(vocabulary.words)
        )
    else:
        others[WORDS] = tuple(sorted(vocabulary.index(word) for word in task.words))
    return assembly.config(mask, others)


def measure_curve(
    judge: Judge,
    blueprint: Blueprint,
    assembly: Assembly,
    *,
    vocabulary: Vocabulary,
    split: Any,
    limits: Sequence[float],
    seed: int,
    progress: Callable[[int, int, str], None],
) -> Mapping[str, Any]:
    """Measure quality at each limit for the tasks of a factory.

    Args:
        judge: Gives labelled pictures and measures.
        blueprint: The exported network.
        assembly: The trained assembler.
        vocabulary: Words of tasks.
        split: Known and unseen tasks of a property vocabulary; None for classes, where 12 random subsets
            of 2 to 5 classes and the task of all classes stand for the rest; for detectors single classes,
            too.
        limits: Shares of all MACs.
        seed: Seed of scenes and subsets.
        progress: Called with tasks done, tasks in all, and a short text.

    Returns:
        JSON record: `metric`, `limits`, and by task `known`, `quality` and `macs_share` at each limit, for
        detectors `ap` too.
    """
    known: dict[Task, bool | None]
    if split is None:
        rng = np.random.default_rng(seed)
        words = np.array(vocabulary.words)
        known = {vocabulary.all(): None}
        if judge.metric(vocabulary.all()) == "ap50":
            known |= {vocabulary.task([word]): None for word in vocabulary.words[:20]}
        for _ in range(12):
            size = int(rng.integers(2, min(5, len(words)) + 1)) if len(words) > 2 else len(words)
            known[vocabulary.task(rng.choice(words, size, replace=False).tolist())] = None
    else:
        known = {**dict.fromkeys(split.known, True), **dict.fromkeys(split.unseen, False)}
    tasks: dict[str, Any] = {}
    whole = blueprint.count(blueprint.space.largest()).macs
    for number, (task, is_known) in enumerate(known.items()):
        progress(number, len(known), f"quality of {task.text}")
        sample = judge.draw(task, count=judge.curve_pictures, seed=seed + 90_000 + number)
        if sample is None or not judge.telling(sample):
            continue
        masks = assembly.masks(assembly.logits(task.vector(vocabulary), limits), limits)
        row: dict[str, Any] = {"known": is_known, "quality": [], "macs_share": []}
        for mask in masks:
            config = task_config(blueprint, assembly, task, vocabulary, mask)
            rating = judge.rate(open_session(blueprint.cut(config)), task, sample)
            row["quality"].append(round(rating.value, 4))
            row["macs_share"].append(round(blueprint.count(config).macs / whole, 4))
            if rating.ap is not None:
                row.setdefault("ap", []).append(round(rating.ap, 4))
        tasks[task.text] = row
    progress(len(known), len(known), "quality at each limit")
    metric = judge.metric(next(iter(known)))
    return {
        "metric": metric,
        "limits": list(limits),
        "examples": judge.curve_pictures,
        "seed": seed,
        "tasks": tasks,
    }


def curve_of(folder: FactoryFolder, task: Task) -> tuple[CurvePoint, ...]:
    """Return the factory's curve from limit to quality: of the task itself, else the mean of all tested."""
    record = folder.quality
    tested = record["tasks"]
    rows = [tested[task.text]] if task.text in tested else list(tested.values())
    return tuple(
        CurvePoint(
            limit=limit,
            macs_share=float(np.mean([row["macs_share"][place] for row in rows])),
            quality=float(np.mean([row["quality"][place] for row in rows])),
        )
        for place, limit in enumerate(record["limits"])
    )


def known_task(folder: FactoryFolder, task: Task) -> bool | None:
    """Tell whether a property task was trained; None for classes."""
    if task.kind == "classes":
        return None
    if len(task.words) < 2:
        return True
    unseen = [set(text.split()) for text, row in folder.quality["tasks"].items() if row["known"] is False]
    return len(task.words) <= 3 and not any(pair <= set(task.words) for pair in unseen)
