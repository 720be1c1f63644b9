"""From the maps of a centre detector to boxes: in numpy, or appended to the graph.

As in arXiv 1904.07850, section 3, a place is a candidate where its score is the largest of its 3 x 3
neighbours. The best candidates of all maps become boxes in pixels of the model's input; those of one label
that overlap too much can be dropped, the worse one first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from brickyard.core.errors import ArtifactError, ConfigError

Floats = npt.NDArray[np.float32]
DETECTIONS = "detections"
"""Name of the output of a graph with the decoding inside."""


@dataclass(frozen=True, kw_only=True)
class Decode:
    """How maps become boxes.

    Attributes:
        height: Rows of the model's input, pixels.
        width: Columns of the model's input, pixels.
        top_k: Most boxes of a picture, all labels together.
        threshold: Least score of a box, above 0, below 1.
        nms_iou: Boxes of one label that share more than this (intersection over union, in (0, 1)) with a
            better one are dropped; None drops none, which centres rarely need.

    Raises:
        ConfigError: A value is out of range.
    """

    height: int
    width: int
    top_k: int = 100
    threshold: float = 0.3
    nms_iou: float | None = None

    def __post_init__(self) -> None:
        checks = {
            "top_k": (self.top_k >= 1, "at least 1"),
            "threshold": (0 < self.threshold < 1, "above 0, below 1"),
            "nms_iou": (self.nms_iou is None or 0 < self.nms_iou < 1, "above 0, below 1, or none"),
        }
        for name, (holds, allowed) in checks.items():
            if not holds:
                value = getattr(self, name)
                raise ConfigError(
                    f"{name} = {value} is not allowed; allowed: {allowed}",
                    path=name,
                    value=value,
                    allowed=allowed,
                )

    def to_json(self) -> dict[str, Any]:
        """Return a record that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Decode:
        """Read what `to_json` gave; further keys are refused.

        Raises:
            ArtifactError: Keys lack or are unknown.
        """
        names = {field.name for field in fields(cls)}
        if set(record) != names:
            raise ArtifactError(
                f"the decoding has entries {json.dumps(sorted(record))}; expected {sorted(names)}"
            )
        return cls(**record)


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one picture, best first.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels of the model's input, float32 `[N, 4]`.
        scores: In (0, 1), float32 `[N]`.
        labels: Index of the label, int64 `[N]`.
    """

    boxes: Floats
    scores: Floats
    labels: npt.NDArray[np.int64]

    def above(self, threshold: float) -> Detections:
        """Return those with at least this score."""
        keep = self.scores >= threshold
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])


def overlaps(box: Floats, boxes: Floats) -> Floats:
    """Return the intersection over union of a box with others `[N, 4]`: `[N]`."""
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inter = shared.clip(0).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    result: Floats = inter / np.maximum(area - inter, 1e-9)
    return result


def decode(heat: Floats, boxes: Floats, settings: Decode) -> Detections:
    """Turn the maps of one picture into boxes.

    Args:
        heat: Scores in (0, 1), `[labels, rows, columns]`.
        boxes: Width, height, offset x and y in cells, `[4, rows, columns]`.
        settings: How.

    Returns:
        The boxes, clipped to the picture.
    """
    rows, columns = heat.shape[1:]
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    largest = heat.copy()
    for down in range(3):
        for right in range(3):
            np.maximum(largest, padded[:, down : down + rows, right : right + columns], out=largest)
    scores = np.where(heat == largest, heat, np.float32(0)).reshape(-1)
    best = np.argsort(-scores, kind="stable")[: settings.top_k]
    best = best[scores[best] >= settings.threshold]
    label, cell = np.divmod(best, rows * columns)
    row, column = np.divmod(cell, columns)
    size_x, size_y, offset_x, offset_y = boxes.reshape(4, -1)[:, cell]
    scale_x, scale_y = settings.width / columns, settings.height / rows
    x, y = column + offset_x, row + offset_y
    corners = np.stack(
        [
            (x - size_x / 2) * scale_x,
            (y - size_y / 2) * scale_y,
            (x + size_x / 2) * scale_x,
            (y + size_y / 2) * scale_y,
        ],
        axis=1,
    ).astype(np.float32)
    corners = corners.clip(0, np.array([settings.width, settings.height] * 2, dtype=np.float32))
    found = Detections(corners, scores[best].astype(np.float32), label.astype(np.int64))
    return found if settings.nms_iou is None else _suppress(found, settings.nms_iou)


def _suppress(found: Detections, limit: float) -> Detections:
    keep = np.ones(len(found.scores), dtype=np.bool_)
    for place in range(len(keep)):
        if keep[place]:
            rivals = (found.labels == found.labels[place]) & (np.arange(len(keep)) > place)
            keep &= ~(rivals & (overlaps(found.boxes[place], found.boxes) > limit))
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


def read_detections(rows: Floats) -> Detections:
    """Read the output of a graph with the decoding inside, `[1, top_k, 6]`."""
    kept = rows[0][rows[0][:, 4] > 0]
    return Detections(kept[:, :4], kept[:, 4], kept[:, 5].astype(np.int64))


class _Graph:
    """Appends nodes to a graph under names of their own."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.count = graph, 0

    def constant(self, value: Any) -> str:
        name = self._name()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _name(self) -> str:
        self.count += 1
        return f"decode.{self.count}"

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [self._name() for _ in range(outputs)]
        self.graph.node.append(helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names


def append_decode(model: onnx.ModelProto, settings: Decode) -> onnx.ModelProto:
    """Append the decoding to a detector's graph.

    Args:
        model: A graph with the outputs `heat` and `boxes`; left as it is.
        settings: How.

    Returns:
        A graph with one output `detections`, float32 `[1, k, 6]`, k at most `top_k`: x0, y0, x1, y1 in
        pixels of the input, score, index of the label; best first. Rows that hold no box have score 0.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    add = _Graph(whole.graph)
    shapes = {
        entry.name: [size.dim_value for size in entry.type.tensor_type.shape.dim]
        for entry in model.graph.output
    }
    _, labels, rows, columns = shapes["heat"]
    cells, count = rows * columns, min(settings.top_k, labels * rows * columns)
    largest = add("MaxPool", "heat", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
    zero = add.constant(np.float32(0))
    peaks = add("Where", add("Equal", "heat", largest), "heat", zero)
    flat = add("Reshape", peaks, add.constant(np.array([-1], dtype=np.int64)))
    scores, place = add("TopK", flat, add.constant(np.array([count], dtype=np.int64)), outputs=2)
    label = add("Div", place, add.constant(np.int64(cells)))
    cell = add("Mod", place, add.constant(np.int64(cells)))
    row, column = (
        add("Div", cell, add.constant(np.int64(columns))),
        add("Mod", cell, add.constant(np.int64(columns))),
    )
    maps = add("Reshape", "boxes", add.constant(np.array([4, cells], dtype=np.int64)))
    picked = add("Gather", maps, cell, axis=1)
    size_x, size_y, offset_x, offset_y = add("Split", picked, outputs=4, axis=0, num_outputs=4)
    half = add.constant(np.float32(0.5))
    low, high = [], []
    for place_name, offset, size, scale in (
        (column, offset_x, size_x, settings.width / columns),
        (row, offset_y, size_y, settings.height / rows),
    ):
        center = add("Add", add("Cast", place_name, to=onnx.TensorProto.FLOAT), offset)
        reach = add("Mul", size, half)
        factor = add.constant(np.float32(scale))
        low.append(add("Mul", add("Sub", center, reach), factor))
        high.append(add("Mul", add("Add", center, reach), factor))
    corners = add("Transpose", add("Concat", *low, *high, axis=0), perm=[1, 0])
    ceiling = add.constant(np.array([settings.width, settings.height] * 2, dtype=np.float32))
    corners = add("Min", add("Max", corners, zero), ceiling)
    above = add("GreaterOrEqual", scores, add.constant(np.float32(settings.threshold)))
    scores = add("Where", above, scores, zero)
    if settings.nms_iou is not None:
        scores = _append_nms(add, corners, scores, label, labels=labels, count=count, limit=settings.nms_iou)
    scores, order = add("TopK", scores, add.constant(np.array([count], dtype=np.int64)), outputs=2)
    column_shape = add.constant(np.array([count, 1], dtype=np.int64))
    parts = [
        add("Gather", corners, order, axis=0),
        add("Reshape", scores, column_shape),
        add("Reshape", add("Cast", add("Gather", label, order), to=onnx.TensorProto.FLOAT), column_shape),
    ]
    joined = add("Concat", *parts, axis=1)
    shape = add.constant(np.array([1, count, 6], dtype=np.int64))
    whole.graph.node.append(helper.make_node("Reshape", [joined, shape], [DETECTIONS], name=DETECTIONS))
    del whole.graph.output[:]
    whole.graph.output.append(
        helper.make_tensor_value_info(DETECTIONS, onnx.TensorProto.FLOAT, [1, count, 6])
    )
    return whole


def _append_nms(
    add: _Graph, corners: str, scores: str, label: str, *, labels: int, count: int, limit: float
) -> str:
    """Append what sets the scores to 0 of boxes that a better one of their label covers."""
    own = add(
        "Equal",
        add.constant(np.arange(labels, dtype=np.int64)[:, None]),
        add("Reshape", label, add.constant(np.array([1, count], dtype=np.int64))),
    )
    by_label = add(
        "Where",
        own,
        add("Reshape", scores, add.constant(np.array([1, count], dtype=np.int64))),
        add.constant(np.float32(0)),
    )
    kept = add(
        "NonMaxSuppression",
        add("Reshape", corners, add.constant(np.array([1, count, 4], dtype=np.int64))),
        add("Reshape", by_label, add.constant(np.array([1, labels, count], dtype=np.int64))),
        add.constant(np.array([count], dtype=np.int64)),
        add.constant(np.array([limit], dtype=np.float32)),
        add.constant(np.array([0], dtype=np.float32)),
    )
    numbers = add("Gather", kept, add.constant(np.int64(2)), axis=1)
    return str(
        add(
            "ScatterElements",
            add.constant(np.zeros(count, dtype=np.float32)),
            numbers,
            add("Gather", scores, numbers),
        )
    )
