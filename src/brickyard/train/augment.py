"""Random changes of pictures while training; where they have boxes, those follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F


def mirror_and_shift(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the pictures and shift each by up to an eighth of its side.

    Args:
        pictures: `[batch, channels, height, width]`.
        generator: Source of the draw.

    Returns:
        Pictures of the same shape; what comes in from outside is the reflected border.
    """
    batch, _, height, width = pictures.shape
    reach = max(1, height // 8)
    padded = F.pad(pictures, (reach, reach, reach, reach), mode="reflect")
    rows = torch.randint(0, 2 * reach + 1, (batch, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * reach + 1, (batch, 1), generator=generator) + torch.arange(width)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(pictures.device), columns.to(pictures.device)
    picked = padded[
        torch.arange(batch, device=pictures.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]
    ]
    return picked.permute(0, 3, 1, 2)


def shift(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift a whole batch by up to a sixteenth of its side, for pictures that must not be mirrored."""
    reach = max(1, pictures.shape[-1] // 16)
    row, column = (int(number) for number in torch.randint(-reach, reach + 1, (2,), generator=generator))
    padded = F.pad(pictures, (reach, reach, reach, reach), mode="replicate")
    height, width = pictures.shape[-2:]
    return padded[:, :, reach + row : reach + row + height, reach + column : reach + column + width]


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor] | None] = {
    "none": None,
    "mirror_and_shift": mirror_and_shift,
    "shift": shift,
}
"""The augmentations by name."""

Moved = tuple[Tensor, npt.NDArray[np.int16], npt.NDArray[np.float32]]
BoxAugment = Callable[[Tensor, npt.NDArray[np.int16], npt.NDArray[np.float32], np.random.Generator], Moved]
"""From pictures, objects and boxes (shares of the picture) to changed ones."""

_VISIBLE = 0.5


def _move(
    pictures: Tensor,
    objects: npt.NDArray[np.int16],
    boxes: npt.NDArray[np.float32],
    rng: np.random.Generator,
    *,
    upright: bool,
) -> Moved:
    """Mirror, scale by 0.75 to 1.33 and shift each picture; what comes in from outside is the mean colour.

    Args:
        pictures: Normalised, `[batch, channels, height, width]`.
        objects: `[batch, objects, groups]`, -1 where there is none.
        boxes: x0, y0, x1, y1 in shares of the picture, `[batch, objects, 4]`.
        rng: Source of the draw.
        upright: Whether top and bottom stay where they are.

    Returns:
        The same of the changed pictures; objects of which less than half is left are gone.
    """
    count = len(pictures)
    flips = np.where(rng.random((count, 2)) < 0.5, -1.0, 1.0)
    if upright:
        flips[:, 1] = 1.0
    gain = flips / np.exp(rng.uniform(-np.log(4 / 3), np.log(4 / 3), (count, 1)))
    shift = rng.uniform(-1, 1, (count, 2)) * (np.abs(1 - np.abs(gain)) + 0.1)
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = gain[:, 0], gain[:, 1], shift
    grid = F.affine_grid(torch.from_numpy(theta), list(pictures.shape), align_corners=False)
    pictures = F.grid_sample(pictures, grid, padding_mode="zeros", align_corners=False)
    corners = boxes.reshape(*boxes.shape[:2], 2, 2)
    corners = ((2 * corners - 1 - shift[:, None, None]) / gain[:, None, None] + 1) / 2
    low, high = corners.min(2), corners.max(2)
    inside = np.concatenate([low.clip(0, 1), high.clip(0, 1)], axis=2).astype(np.float32)
    area = (high - low).prod(2)
    left = (inside[..., 2:] - inside[..., :2]).prod(2)
    keep = (objects[:, :, 0] >= 0) & (left >= _VISIBLE * area) & (left > 0)
    return pictures, np.where(keep[..., None], objects, np.int16(-1)), inside * keep[..., None]


def mirror_and_move(
    pictures: Tensor,
    objects: npt.NDArray[np.int16],
    boxes: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> Moved:
    """Mirror left and right, scale and shift; see `_move` for the arguments."""
    return _move(pictures, objects, boxes, rng, upright=True)


def flip_and_move(
    pictures: Tensor,
    objects: npt.NDArray[np.int16],
    boxes: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> Moved:
    """Mirror both axes, scale and shift: for pictures without an upside, as through a microscope."""
    return _move(pictures, objects, boxes, rng, upright=False)


BOX_AUGMENTATIONS: dict[str, BoxAugment | None] = {
    "none": None,
    "mirror_and_move": mirror_and_move,
    "flip_and_move": flip_and_move,
}
"""The augmentations of pictures with boxes by name."""
