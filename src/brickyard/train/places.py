"""Maps of scores by place, where the objects lie in them, and the loss there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.network import Network
from brickyard.train.tasks import Questions

if TYPE_CHECKING:
    from brickyard.train.joint import Batch


@contextmanager
def score_maps(network: Network) -> Iterator[dict[str, Tensor]]:
    """Collect, inside a `with` block, what the layers `missing` and `score` of a head give by place."""
    maps: dict[str, Tensor] = {}
    handles = []
    for path, layer in network.root.named_modules():
        head, _, name = path.rpartition(".")
        if head.split(".")[0] == "head" and name in ("missing", "score"):

            def keep(_module: nn.Module, _inputs: Any, output: Tensor, name: str = name) -> None:
                maps[name] = output.float()

            handles.append(layer.register_forward_hook(keep))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def object_places(
    scores: Tensor, batch: Batch, samples: npt.NDArray[np.int64], objects: npt.NDArray[np.int64]
) -> tuple[tuple[npt.NDArray[np.int64], ...], Tensor]:
    """Find the cells of a map that hold the centres of objects, and those without any object near.

    Args:
        scores: Map `[batch, words, height, width]`.
        batch: Pictures with boxes.
        samples: Picture of each object.
        objects: Number of each object in its picture.

    Returns:
        Picture, row and column of each object; and whether a cell `[batch, height, width]` is empty.
    """
    assert batch.boxes is not None
    height, width = scores.shape[2:]
    boxes = batch.boxes[samples, objects]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    rows = np.minimum((centers[:, 1] * height).astype(np.int64), height - 1)
    columns = np.minimum((centers[:, 0] * width).astype(np.int64), width - 1)
    empty = np.ones((len(scores), height, width), dtype=np.bool_)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            empty[samples, np.clip(rows + row, 0, height - 1), np.clip(columns + column, 0, width - 1)] = (
                False
            )
    return (samples, rows, columns), torch.from_numpy(empty).to(scores.device)


def place_loss(maps: Mapping[str, Tensor], batch: Batch, questions: Questions) -> Tensor | float:
    """Cross entropy at objects' centres and empty places: of the answer, and of each word of the task.

    A box says where an object is, so the question can be answered there; this credits the right place and
    the right word and trains several times faster than the maximum over the picture alone.
    """
    if not maps or batch.boxes is None or questions.hits is None or questions.words is None:
        return 0.0
    scores, present = maps["score"], -maps["missing"]
    samples, objects = np.nonzero(batch.objects[:, :, 0] >= 0)
    at, empty = object_places(scores, batch, samples, objects)
    hit = torch.from_numpy(questions.hits[samples, objects].astype(np.float32)).to(scores.device)
    answer = F.binary_cross_entropy_with_logits(scores[at[0], 0, at[1], at[2]], hit)
    answer = answer + 0.5 * F.softplus(scores[:, 0][empty]).mean()
    asked = torch.from_numpy(questions.tasks).to(scores.device)
    right = torch.from_numpy(questions.words[samples, objects]).to(scores.device)
    words = F.binary_cross_entropy_with_logits(present[at[0], :, at[1], at[2]], right, reduction="none")
    elsewhere = F.softplus(present).movedim(1, 3) * asked[:, None, None, :]
    return (
        answer
        + 2 * (words * asked[samples]).sum() / asked[samples].sum().clamp(min=1)
        + 0.5 * elsewhere[empty].sum() / (empty.sum((1, 2)).to(asked) @ asked.sum(1)).clamp(min=1)
    )
