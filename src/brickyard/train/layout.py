"""The order in memory that networks are trained in."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def fast_layout_(module: M) -> M:
    """Lay weights out with channels last, which trains faster.

    Networks with a strided 1x1 convolution over fewer than 8 channels stay as they are: its backward pass in
    that layout writes over foreign memory (torch 2.13, CPU).

    Args:
        module: Changed.

    Returns:
        The module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels < 8 and layer.kernel_size == (1, 1):
            return module
    return module.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]
