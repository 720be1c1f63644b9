"""Quality of detectors on labelled pictures, and pictures with boxes for the report; needs no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ConfigError
from brickyard.core.task import Task, Vocabulary
from brickyard.data.examples import Examples, Preprocess, some_of
from brickyard.data.geometry import GeometrySpec, task_scenes
from brickyard.devices.runtimes import Session
from brickyard.export.blueprint import Blueprint
from brickyard.export.decode import DETECTIONS, Decode, Detections, decode, read_detections
from brickyard.factory.precision import Truth, average_precision, can_rate
from brickyard.factory.quality import AnswerJudge, Floats, Judge, Rating, Sample
from brickyard.factory.records import Metric

_FLOOR = 0.02  # scores below take no part in the average precision
_CURVE_PICTURES = 100
_SHOWN = 4
_JPEG_QUALITY = 85


def detects(outputs: tuple[str, ...]) -> bool:
    """Tell whether a graph with these outputs is a detector."""
    return "heat" in outputs or DETECTIONS in outputs


def decode_with(
    given: Mapping[str, Any], outputs: tuple[str, ...], preprocess: Preprocess, *, name: str
) -> Decode | None:
    """Return how maps become boxes; None for factories that do not detect.

    Args:
        given: Options of a request, None where one was not given.
        outputs: Outputs of the factory's graph.
        preprocess: How its inputs are made.
        name: Its name.

    Raises:
        ConfigError: Options for a factory that does not detect, or out of range.
    """
    options = {option: value for option, value in given.items() if value is not None}
    if not detects(outputs):
        if options:
            raise ConfigError(
                f"{', '.join(options)}: the factory {name!r} does not detect; leave the options of "
                "detectors out",
                path=next(iter(options)),
            )
        return None
    if options.pop("decode", "outside") not in ("inside", "outside"):
        raise ConfigError(
            f"decode = {given['decode']!r} is not allowed; allowed: 'inside', 'outside'", path="decode"
        )
    return Decode(height=preprocess.height, width=preprocess.width, **options)


def judge_of(
    blueprint: Blueprint,
    vocabulary: Vocabulary,
    preprocess: Preprocess,
    *,
    heldout: Examples | None,
    geometry: GeometrySpec | None,
) -> Judge:
    """Return what measures quality for a network: of boxes for detectors, of answers for others."""
    kind = BoxJudge if detects(blueprint.outputs) else AnswerJudge
    return kind(vocabulary, preprocess, heldout, geometry)


def detect(session: Session, inputs: Floats, settings: Decode) -> list[Detections]:
    """Run a detector, with its decoding outside or inside, on inputs `[N, channels, height, width]`.

    Args:
        session: The model.
        inputs: Preprocessed pictures.
        settings: How maps become boxes; a graph with the decoding inside has its own.

    Returns:
        The boxes of each picture.
    """
    name = session.get_inputs()[0].name
    outputs = [entry.name for entry in session.get_outputs()]
    found = []
    for number in range(len(inputs)):
        feed = {name: inputs[number : number + 1]}
        if DETECTIONS in outputs:
            found.append(read_detections(session.run([DETECTIONS], feed)[0]))
        else:
            heat, boxes = session.run(["heat", "boxes"], feed)
            found.append(decode(heat[0], boxes[0], settings))
    return found


def decode_record(settings: Decode, *, inside: bool) -> dict[str, Any]:
    """Return what stands in `decode.json` of a model folder: how boxes are read, what the outputs are."""
    maps = {
        "heat": "[1, labels, rows, columns]: score in (0, 1) of a centre of an object there",
        "boxes": "[1, 4, rows, columns]: width and height of the box, offset of its centre from the upper "
        "left corner of the cell, x and y, in cells",
    }
    rows = {
        DETECTIONS: "[1, k, 6]: x0, y0, x1, y1 in pixels of the input, score, index of the label; best "
        "first; rows without a box have score 0"
    }
    return {
        "place": "inside" if inside else "outside",
        "outputs": rows if inside else maps,
        "settings": settings.to_json(),
    }


def boxes_of(examples: Examples, task: Task, vocabulary: Vocabulary) -> list[Truth]:
    """Return, for each picture, the boxes that a model for a task shall find, with their labels' indices."""
    assert examples.boxes is not None
    label = np.full(examples.objects.shape[:2], -1, dtype=np.int64)
    if task.kind == "properties":
        values = task.values(vocabulary)
        hit = np.all([examples.objects[:, :, group] == value for group, value in values.items()], axis=0)
        label[hit & (examples.objects[:, :, 0] >= 0)] = 0
    else:
        for place, index in enumerate(task.class_indices(vocabulary)):
            label[examples.objects[:, :, 0] == index] = place
    return [
        Truth(boxes[found >= 0], found[found >= 0])
        for boxes, found in zip(examples.boxes, label, strict=True)
    ]


def joined(parts: Sequence[Examples]) -> Examples:
    """Put the pictures with boxes of several parts together; all have room for as many objects."""
    boxes = [part.boxes for part in parts if part.boxes is not None]
    assert len(boxes) == len(parts)
    return Examples(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.objects for part in parts]),
        np.concatenate(boxes),
    )


@dataclass(frozen=True, eq=False)
class BoxJudge:
    """Measures detectors by average precision.

    Attributes:
        vocabulary: Words of the factory.
        preprocess: How pictures become inputs.
        heldout: Labelled pictures with boxes; None where scenes are drawn.
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
        return "ap50"

    def labels(self, task: Task) -> tuple[str, ...]:
        """Return what the maps of the heat mean, in order."""
        return (task.text,) if task.kind == "properties" else task.words

    def available(self) -> bool:
        """Tell whether what measures is installed."""
        return can_rate()

    @property
    def decode(self) -> Decode:
        """How maps become boxes unless asked otherwise."""
        return Decode(height=self.preprocess.height, width=self.preprocess.width)

    def draw(self, task: Task, *, count: int, seed: int) -> Sample | None:
        """Return labelled pictures; for scenes, half of them show what the task names."""
        if self.heldout is not None:
            examples = self.heldout.subset(some_of(np.arange(len(self.heldout)), count, seed))
        elif self.geometry is not None and task.words:
            examples, _ = task_scenes(self.geometry, task.values(self.vocabulary), count, seed)
        else:
            return None
        truth = boxes_of(examples, task, self.vocabulary)
        return Sample(examples.images, truth) if any(len(part.labels) for part in truth) else None

    def rate(self, session: Session, task: Task, sample: Sample) -> Rating:
        """Run a detector on labelled pictures."""
        settings = replace(self.decode, threshold=_FLOOR)
        found = detect(session, self.preprocess.apply(sample.images), settings)
        names = self.labels(task)
        precision = average_precision(sample.truth, found, labels=len(names))
        by_label = {names[label]: value for label, value in precision.by_label.items()}
        return Rating(precision.ap50, by_label, precision.ap)

    def telling(self, sample: Sample) -> bool:
        """Tell whether a sample can tell good from bad."""
        return True


def show_boxes(
    judge: BoxJudge,
    sample: Sample,
    sessions: Mapping[str, Session],
    settings: Decode,
) -> list[dict[str, Any]]:
    """Return a few pictures with the boxes that are there and those that models find, as JSON values.

    Args:
        judge: Of the factory.
        sample: Labelled pictures.
        sessions: Models by name.
        settings: How maps become boxes.

    Returns:
        For each picture `picture` (JPEG, base64), `width`, `height`, `truth` as x0, y0, x1, y1, label, and
        for each model boxes as x0, y0, x1, y1, label, score.
    """
    holding = [number for number, part in enumerate(sample.truth) if len(part.labels)]
    chosen = holding[:: max(1, len(holding) // _SHOWN)][:_SHOWN]
    images = sample.images[chosen]
    inputs = judge.preprocess.apply(images)
    shown = [
        {
            "picture": _jpeg(image),
            "width": image.shape[1],
            "height": image.shape[0],
            "truth": _rows(sample.truth[number].boxes, sample.truth[number].labels),
        }
        for number, image in zip(chosen, images, strict=True)
    ]
    for name, session in sessions.items():
        for record, found in zip(shown, detect(session, inputs, settings), strict=True):
            record[name] = _rows(found.boxes, found.labels, found.scores)
    return shown


def _rows(boxes: Floats, labels: npt.NDArray[np.int64], *further: Floats) -> list[list[float]]:
    columns = [*np.round(boxes, 1).T, labels, *(np.round(part, 3) for part in further)]
    return [[float(round(float(value), 3)) for value in row] for row in zip(*columns, strict=True)]


def _jpeg(image: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    plain = image if image.shape[2] == 3 else image[:, :, 0]
    Image.fromarray(plain).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
