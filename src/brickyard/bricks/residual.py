"""Residual blocks whose inner channel groups are a `Subset` (arXiv 2308.15003, the modules of the supernet).

The residual stream keeps its width, so any subset is legal and slicing stays inside the block. With no group
on, the block becomes its shortcut plus the constant that the second normalisation makes of zero. The paper's
text is not public beyond its abstract; filter groups inside a residual block are this project's reading of
its "modules".
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from brickyard.bricks.conv import ElasticConv2d
from brickyard.bricks.norm import ElasticBatchNorm2d
from brickyard.core.brick import Width
from brickyard.core.decision import Subset
from brickyard.core.plain import Residual


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build the side branch: identity where shapes agree, else a 1x1 convolution with normalisation."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(
            conv=ElasticConv2d(in_channels, out_channels, 1, stride=stride),
            norm=ElasticBatchNorm2d(out_channels),
        )
    )


def residual_block(
    in_channels: int,
    out_channels: int,
    *,
    groups: Subset,
    group_channels: int,
    kernel_sizes: tuple[int, int] = (3, 3),
    stride: int = 1,
) -> Residual:
    """Build a two-convolution residual block with elastic inner channels.

    Args:
        in_channels: Channels of the incoming stream.
        out_channels: Channels of the outgoing stream.
        groups: Which groups of inner channels are on.
        group_channels: Inner channels per group; 8 suits real devices, 4 tiny networks.
        kernel_sizes: Odd kernels of the two convolutions.
        stride: Stride of the first convolution.

    Returns:
        `relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`.
    """
    inner = groups.count * group_channels
    width = Width(groups, inner, group_channels)
    body = nn.Sequential(
        OrderedDict(
            conv1=ElasticConv2d(in_channels, inner, kernel_sizes[0], stride=stride, width_out=width),
            norm1=ElasticBatchNorm2d(inner, width=width),
            act1=nn.ReLU(),
            conv2=ElasticConv2d(inner, out_channels, kernel_sizes[1], width_in=width),
            norm2=ElasticBatchNorm2d(out_channels),
        )
    )
    return Residual(body, shortcut(in_channels, out_channels, stride), nn.ReLU())
