"""Losses of centre detectors (arXiv 1904.07850, sections 3 and 4).

Heat is trained by the penalty-reduced focal loss, boxes by L1 at the centres of objects. What differs: the
spread of a centre follows from one case alone, a box that is moved; sizes are compared as shares of the true
size, so that small objects count as much as large ones; and every picture has its own task, whose maps alone
count.

Legend of shapes: B pictures, M objects per picture at most, K maps, H x W cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from brickyard.core.errors import TrainError
from brickyard.core.network import Network
from brickyard.train.joint import Batch, TrainSettings
from brickyard.train.places import score_maps
from brickyard.train.tasks import Questions, object_words

_OVERLAP = 0.7
_ALPHA, _BETA = 2, 4


def spreads(sizes: Tensor, *, overlap: float = _OVERLAP) -> Tensor:
    """Return how far around a centre a peak is nearly right, as the deviation of a Gaussian.

    A box of width w and height h that is moved by r along both axes still shares `overlap` of the union with
    where it was if (w - r)(h - r) >= 2 overlap / (1 + overlap) w h; r is taken as three deviations, and half
    a cell more.

    Args:
        sizes: Widths and heights in cells, `[N, 2]`.
        overlap: Least intersection over union.

    Returns:
        Deviations in cells, `[N]`.
    """
    total, area = sizes.sum(1), sizes.prod(1)
    reach = (total - (total.square() - 4 * area * (1 - overlap) / (1 + overlap)).clamp(min=0).sqrt()) / 2
    return (2 * reach + 1) / 6


class Places:
    """Where the objects of a batch lie on maps.

    Args:
        batch: Pictures with boxes.
        size: Height and width of the maps in cells.
        device: Where tensors shall lie.
    """

    def __init__(self, batch: Batch, size: tuple[int, int], device: torch.device) -> None:
        if batch.boxes is None:
            raise TrainError("a detector needs boxes, and these pictures have none")
        self.size, self.count = size, len(batch.objects)
        self.samples, self.objects = np.nonzero(batch.objects[:, :, 0] >= 0)
        cells = np.array([size[1], size[0]] * 2, dtype=np.float32)
        corners = torch.from_numpy(batch.boxes[self.samples, self.objects] * cells).to(device)
        self.sizes = (corners[:, 2:] - corners[:, :2]).clamp(min=1e-3)
        centers = (corners[:, 2:] + corners[:, :2]) / 2
        self.columns = centers[:, 0].long().clamp(0, size[1] - 1)
        self.rows = centers[:, 1].long().clamp(0, size[0] - 1)
        self.offsets = centers - torch.stack([self.columns, self.rows], dim=1)
        self.pictures = torch.from_numpy(self.samples).to(device)

    def heat(self, marks: npt.NDArray[np.float32]) -> Tensor:
        """Draw a Gaussian around each centre on the maps that an object belongs to.

        Args:
            marks: Whether an object belongs to a map, `[B, M, K]`.

        Returns:
            Targets in [0, 1], `[B, K, H, W]`, exactly 1 at centres.
        """
        height, width = self.size
        device, maps = self.rows.device, marks.shape[2]
        target = torch.zeros(self.count * maps, height * width, device=device)
        number, channel = np.nonzero(marks[self.samples, self.objects])
        if not len(number):
            return target.reshape(self.count, maps, height, width)
        scale = -0.5 / spreads(self.sizes).square()
        down = torch.exp((torch.arange(height, device=device) - self.rows[:, None]).square() * scale[:, None])
        across = torch.exp(
            (torch.arange(width, device=device) - self.columns[:, None]).square() * scale[:, None]
        )
        hills = (down[:, :, None] * across[:, None, :]).flatten(1)[torch.from_numpy(number).to(device)]
        rows = self.pictures[torch.from_numpy(number).to(device)] * maps + torch.from_numpy(channel).to(
            device
        )
        target.scatter_reduce_(0, rows[:, None].expand_as(hills), hills, "amax")
        return target.reshape(self.count, maps, height, width)

    def at(self, maps: Tensor) -> Tensor:
        """Read maps `[B, K, H, W]` at the centres: `[N, K]`."""
        return maps[self.pictures, :, self.rows, self.columns]


def focal_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute the penalty-reduced focal loss (arXiv 1904.07850, equation 1), alpha 2, beta 4.

    Args:
        logits: `[B, K, H, W]`.
        target: In [0, 1], 1 at centres, `[B, K, H, W]`.
        weight: Weight of each map, `[B, K]`; 0 leaves it out.

    Returns:
        The sum over all places by the number of centres, a scalar.
    """
    probability = logits.sigmoid()
    center = (target > 0.999).float()
    near = center * (1 - probability) ** _ALPHA * F.logsigmoid(logits)
    far = (1 - center) * (1 - target) ** _BETA * probability**_ALPHA * F.logsigmoid(-logits)
    if weight is not None:
        near, far = near * weight[:, :, None, None], far * weight[:, :, None, None]
        center = center * weight[:, :, None, None]
    return -(near.sum() + far.sum()) / center.sum().clamp(min=1)


def box_loss(boxes: Tensor, places: Places) -> Tensor:
    """Compute the L1 loss of boxes at centres: of sizes as shares of the true ones, and of offsets in cells.

    Args:
        boxes: Width, height, offset x and y in cells, `[B, 4, H, W]`.
        places: The objects.

    Returns:
        Mean over objects and axes, a scalar; 0 without objects.
    """
    if not len(places.samples):
        return boxes.sum() * 0
    found = places.at(boxes)
    size = ((found[:, :2] - places.sizes) / places.sizes).abs().mean()
    return size + (found[:, 2:] - places.offsets).abs().mean()


def class_marks(objects: npt.NDArray[np.int16], num_classes: int) -> npt.NDArray[np.float32]:
    """Return which class each object has, `[B, M, classes]`, zeros where there is no object."""
    return np.asarray(objects == np.arange(num_classes), dtype=np.float32)


def _found(logits: Tensor, marks: npt.NDArray[np.float32], places: Places) -> float:
    """Return the share of the marks at centres whose probability is above one half."""
    marked = torch.from_numpy(marks[places.samples, places.objects] > 0).to(logits.device)
    hits = (places.at(logits) > 0)[marked]
    return float(hits.float().mean()) if len(hits) else 1.0


class BackboneDetection:
    """The objective of stage 0: every class, or every word of every object, and all boxes.

    Args:
        group_sizes: Values of each property, None for classes.
    """

    def __init__(self, group_sizes: Sequence[int] | None) -> None:
        self.group_sizes = None if group_sizes is None else np.array(group_sizes)

    def __call__(
        self, network: Network, pictures: Tensor, batch: Batch, limits: Tensor, /
    ) -> tuple[Tensor, float]:
        """Compute the loss, and the share of the centres that are found."""
        with score_maps(network) as maps:
            _, boxes = network(pictures)
        logits = maps["score"] if self.group_sizes is None else -maps["missing"]
        places = Places(batch, (logits.shape[2], logits.shape[3]), logits.device)
        marks = (
            class_marks(batch.objects, logits.shape[1])
            if self.group_sizes is None
            else object_words(batch.objects, self.group_sizes)
        )
        loss = focal_loss(logits, places.heat(marks)) + box_loss(boxes.float(), places)
        return loss, _found(logits, marks, places)


class JointDetection:
    """The objective of joint training: only the maps of a picture's task count.

    For property tasks the heat is that of objects that have all words; besides, with the weight `places` of
    the settings, each word of the task is trained on its own map, which credits the right word.

    Args:
        settings: The run.

    Raises:
        TrainError: The settings ask for what detectors do not have.
    """

    def __init__(self, settings: TrainSettings) -> None:
        for name in ("distill", "label_smoothing"):
            if getattr(settings, name):
                raise TrainError(
                    f"{name} = {getattr(settings, name)} is for networks that classify; leave it 0 here"
                )
        self.settings = settings

    def __call__(
        self,
        outputs: Any,
        maps: Mapping[str, Tensor],
        batch: Batch,
        questions: Questions,
        teacher: Any,
        /,
        *,
        limits: Tensor,
    ) -> tuple[Tensor, Tensor, float]:
        """Compute the whole loss, what of it is shown, and the share of the centres that are found."""
        logits, boxes = maps["score"], outputs[1].float()
        places = Places(batch, (logits.shape[2], logits.shape[3]), logits.device)
        asked = torch.from_numpy(questions.tasks).to(logits.device)
        if questions.hits is None or questions.words is None:
            marks = class_marks(batch.objects, logits.shape[1]) * questions.tasks[:, None, :]
            loss = focal_loss(logits, places.heat(marks), asked)
        else:
            marks = questions.hits[:, :, None].astype(np.float32)
            loss = focal_loss(logits, places.heat(marks))
            if self.settings.places > 0:
                words = focal_loss(-maps["missing"], places.heat(questions.words), asked)
                loss = loss + self.settings.places * words
        loss = loss + box_loss(boxes, places)
        return loss, loss, _found(logits, marks, places)
