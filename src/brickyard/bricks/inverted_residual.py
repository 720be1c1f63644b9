"""Inverted residual blocks with elastic expansion (arXiv 1801.04381).

A group is a slice of the expanded channels: rows of the expanding convolution, channels of the depthwise one,
columns of the projecting one; squeeze-and-excitation (arXiv 1905.02244) works on the channels that stay.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from brickyard.bricks.conv import ElasticConv2d
from brickyard.bricks.norm import ElasticBatchNorm2d
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.plain import Residual, Scale


def squeeze_excite(width: Width, *, squeezed_channels: int) -> Scale:
    """Build squeeze-and-excitation over channels that a decision cuts.

    Args:
        width: The channels.
        squeezed_channels: Channels of the bottleneck, always on.

    Returns:
        A module that keeps the shape of its input.
    """
    return Scale(
        nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                reduce=ElasticConv2d(width.full, squeezed_channels, 1, bias=True, width_in=width),
                act=nn.ReLU(),
                expand=ElasticConv2d(squeezed_channels, width.full, 1, bias=True, width_out=width),
                gate=nn.Hardsigmoid(),
            )
        )
    )


def inverted_residual(
    in_channels: int,
    out_channels: int,
    *,
    groups: Subset | Choice,
    group_channels: int,
    kernel: Choice,
    stride: int = 1,
    squeezed_channels: int = 0,
    activation: type[nn.Module] = nn.Hardswish,
) -> nn.Module:
    """Build an inverted residual block with elastic expansion and kernel.

    Args:
        in_channels: Channels of the incoming stream.
        out_channels: Channels of the outgoing stream.
        groups: Which groups of expanded channels are on, or how many.
        group_channels: Expanded channels per group.
        kernel: Kernel sizes of the depthwise convolution.
        stride: Stride of the depthwise convolution.
        squeezed_channels: Bottleneck of squeeze-and-excitation, 0 for none.
        activation: Activation inside the block.

    Returns:
        A block with a linear output; with a shortcut where shapes allow one.
    """
    width = Width.of(groups, group_channels)
    inner = width.full
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        expand=ElasticConv2d(in_channels, inner, 1, width_out=width),
        norm1=ElasticBatchNorm2d(inner, width=width),
        act1=activation(),
        depthwise=ElasticConv2d(
            inner,
            inner,
            kernel.largest(),
            stride=stride,
            groups=inner,
            width_in=width,
            width_out=width,
            kernel=kernel,
        ),
        norm2=ElasticBatchNorm2d(inner, width=width),
        act2=activation(),
    )
    if squeezed_channels:
        layers["excite"] = squeeze_excite(width, squeezed_channels=squeezed_channels)
    layers["project"] = ElasticConv2d(inner, out_channels, 1, width_in=width)
    layers["norm3"] = ElasticBatchNorm2d(out_channels)
    body = nn.Sequential(layers)
    if stride == 1 and in_channels == out_channels:
        return Residual(body, nn.Identity(), nn.Identity())
    return body
