"""Average precision of boxes, by pycocotools (metrics of COCO, arXiv 1405.0312)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import MissingExtraError
from brickyard.export.decode import Detections

MOST = 100  # detections per picture and label that count


@dataclass(frozen=True)
class Truth:
    """The boxes that are there.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, float32 `[N, 4]`.
        labels: Index of the label, int64 `[N]`.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Precision:
    """Average precision.

    Attributes:
        ap: Mean over overlaps of 0.5 to 0.95 and over labels.
        ap50: Mean over labels at an overlap of 0.5.
        by_label: AP50 of each label of which there is a box.
    """

    ap: float
    ap50: float
    by_label: dict[int, float]


def can_rate() -> bool:
    """Tell whether pycocotools is installed."""
    return find_spec("pycocotools") is not None


def average_precision(truth: Sequence[Truth], found: Sequence[Detections], *, labels: int) -> Precision:
    """Compare boxes with those that are there.

    Args:
        truth: Of each picture.
        found: Of each picture, in the same order.
        labels: Number of labels.

    Returns:
        The precision; nan where no picture holds a box.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtraError("pycocotools", extra="detection") from None
    there = _records([(part.boxes, part.labels, None) for part in truth])
    given = _records([(part.boxes, part.labels, part.scores) for part in found])
    if not there:
        return Precision(float("nan"), float("nan"), {})
    if not given:
        present = {int(label) for part in truth for label in part.labels}
        return Precision(0.0, 0.0, dict.fromkeys(sorted(present), 0.0))
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints
        parts = []
        for annotations in (there, given):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": number} for number in range(1, len(truth) + 1)],
                "categories": [{"id": label} for label in range(labels)],
                "annotations": annotations,
            }
            coco.createIndex()
            parts.append(coco)
        judge = COCOeval(*parts, iouType="bbox")
        judge.params.maxDets = [MOST]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    values = judge.eval["precision"][:, :, :, 0, 0]  # overlaps, recalls, labels; -1 where a label has no box
    known = [label for label in range(labels) if (values[:, :, label] > -1).any()]
    return Precision(
        ap=float(values[:, :, known].mean()),
        ap50=float(values[0][:, known].mean()),
        by_label={label: float(values[0, :, label].mean()) for label in known},
    )


def _records(parts: Sequence[tuple[Any, Any, Any]]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for picture, (boxes, labels, scores) in enumerate(parts, start=1):
        for place in range(len(boxes)):
            x0, y0, x1, y1 = (float(side) for side in boxes[place])
            record = {
                "id": len(records) + 1,
                "image_id": picture,
                "category_id": int(labels[place]),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": 0,
            }
            records.append(record if scores is None else {**record, "score": float(scores[place])})
    return records
