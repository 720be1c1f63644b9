"""Residual blocks whose inner channel groups are a `Subset` (arXiv 2308.15003, the modules of the supernet).

Where the residual stream keeps its width, any subset is legal and slicing stays inside the block. With no
group on, the block becomes its shortcut plus the constant that the second normalisation makes of zero. The
paper's text is not public beyond its abstract; filter groups inside a residual block are this project's
reading of its "modules".
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from brickyard.bricks.conv import ElasticConv2d
from brickyard.bricks.norm import ElasticBatchNorm2d
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.plain import Residual


def shortcut(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    width_in: Width | None = None,
    width_out: Width | None = None,
) -> nn.Module:
    """Build the side branch: identity where shapes agree, else a 1x1 convolution with normalisation."""
    if stride == 1 and in_channels == out_channels and width_in == width_out:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(
            conv=ElasticConv2d(
                in_channels, out_channels, 1, stride=stride, width_in=width_in, width_out=width_out
            ),
            norm=ElasticBatchNorm2d(out_channels, width=width_out),
        )
    )


def residual_block(
    in_channels: int,
    out_channels: int,
    *,
    groups: Subset | Choice,
    group_channels: int,
    kernel_sizes: tuple[int, int] = (3, 3),
    stride: int = 1,
    width_in: Width | None = None,
    width_out: Width | None = None,
) -> Residual:
    """Build a two-convolution residual block with elastic inner channels.

    Args:
        in_channels: Channels of the incoming stream.
        out_channels: Channels of the outgoing stream.
        groups: Which groups of inner channels are on, or how many.
        group_channels: Inner channels per group; 8 suits real devices, 4 tiny networks.
        kernel_sizes: Odd kernels of the two convolutions.
        stride: Stride of the first convolution.
        width_in: What cuts the incoming stream, if anything does.
        width_out: What cuts the outgoing stream, if anything does.

    Returns:
        `relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`.
    """
    width = Width.of(groups, group_channels)
    inner = width.full
    body = nn.Sequential(
        OrderedDict(
            conv1=ElasticConv2d(
                in_channels, inner, kernel_sizes[0], stride=stride, width_in=width_in, width_out=width
            ),
            norm1=ElasticBatchNorm2d(inner, width=width),
            act1=nn.ReLU(),
            conv2=ElasticConv2d(inner, out_channels, kernel_sizes[1], width_in=width, width_out=width_out),
            norm2=ElasticBatchNorm2d(out_channels, width=width_out),
        )
    )
    side = shortcut(in_channels, out_channels, stride, width_in=width_in, width_out=width_out)
    return Residual(body, side, nn.ReLU())
