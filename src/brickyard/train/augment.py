"""Random changes of pictures while training."""

from __future__ import annotations

from collections.abc import Callable

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
