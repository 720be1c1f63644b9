"""MobileNetV3-style CNNs: expanded channels are `Subset`s, depth and kernel sizes are `Choice`s.

Blocks follow arXiv 1905.02244, the elastic depth and kernel arXiv 1908.09791.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from brickyard.bricks import ElasticBatchNorm2d, ElasticConv2d, ElasticDepth, inverted_residual
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.network import Network
from brickyard.networks import NETWORKS
from brickyard.networks.vision.heads import HeadKind, head

Expansion = Callable[[str, int, bool], Width]
"""From a block's name, its input channels, and whether it opens its stage, to its expanded channels."""


def mobile_network(
    *,
    num_outputs: int,
    head_kind: HeadKind,
    in_channels: int,
    image_size: int,
    stem_channels: int,
    stem_stride: int,
    widths: tuple[int, ...],
    depths: tuple[tuple[int, ...], ...],
    expansion: Expansion,
    kernel_sizes: tuple[int, ...],
    excite: tuple[bool, ...],
    strides: tuple[int, ...],
) -> Network:
    """Build a MobileNetV3-style CNN with expanded channels of any kind.

    Every block owns a `Choice` `stage<i>.block<j>.kernel` and whatever cuts its expanded channels; every
    stage owns a `Choice` `stage<i>.depth`. The first block of a stage mostly has no shortcut.

    Args:
        num_outputs: Classes of a `classes` head, words of a `presence` head.
        head_kind: See `brickyard.networks.vision.heads.head`.
        in_channels: Channels of a picture.
        image_size: Height and width of a picture in pixels.
        stem_channels: Channels behind the first convolution.
        stem_stride: Stride of the first convolution.
        widths: Channels of each stage.
        depths: Numbers of blocks of each stage, ascending.
        expansion: Gives the expanded channels of a block.
        kernel_sizes: Odd kernel sizes of the depthwise convolutions, ascending.
        excite: Whether a stage has squeeze-and-excitation.
        strides: Stride of each stage's first block.

    Returns:
        The network.
    """
    stem = nn.Sequential(
        OrderedDict(
            conv=ElasticConv2d(in_channels, stem_channels, 3, stride=stem_stride),
            norm=ElasticBatchNorm2d(stem_channels),
            act=nn.Hardswish(),
        )
    )
    stages: list[nn.Module] = []
    channels = stem_channels
    for stage, width in enumerate(widths):
        blocks = []
        for block in range(max(depths[stage])):
            name = f"stage{stage}.block{block}"
            expanded = expansion(name, channels, block == 0)
            blocks.append(
                inverted_residual(
                    channels,
                    width,
                    groups=expanded.decision,
                    group_channels=expanded.unit,
                    kernel=Choice(f"{name}.kernel", kernel_sizes),
                    stride=strides[stage] if block == 0 else 1,
                    squeezed_channels=max(4, expanded.full // 8) if excite[stage] else 0,
                    activation=nn.Hardswish if excite[stage] else nn.ReLU,
                )
            )
            channels = width
        stages.append(ElasticDepth(blocks, depth=Choice(f"stage{stage}.depth", depths[stage])))
    root = nn.Sequential(
        OrderedDict(
            stem=stem, stages=nn.Sequential(*stages), head=head(head_kind, channels, num_outputs=num_outputs)
        )
    )
    return Network(root, input_shape=(in_channels, image_size, image_size))


def mobile_cnn(
    *,
    num_outputs: int,
    head_kind: HeadKind,
    in_channels: int,
    image_size: int,
    stem_channels: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    expand_ratio: int,
    group_channels: int,
    kernel_sizes: tuple[int, ...],
    excite: tuple[bool, ...],
    strides: tuple[int, ...],
) -> Network:
    """Build a MobileNetV3-style CNN.

    Every block owns a `Subset` `stage<i>.block<j>` of expanded channels beside the choices of
    `mobile_network`. The first block of a stage has no shortcut and keeps one group.

    Args:
        num_outputs: Classes of a `classes` head, words of a `presence` head.
        head_kind: See `brickyard.networks.vision.heads.head`.
        in_channels: Channels of a picture.
        image_size: Height and width of a picture in pixels.
        stem_channels: Channels behind the first convolution, which has stride 2.
        widths: Channels of each stage.
        depths: Most blocks of each stage; the fewest is 1.
        expand_ratio: Expanded channels per channel of the stage.
        group_channels: Expanded channels per group.
        kernel_sizes: Odd kernel sizes of the depthwise convolutions, ascending.
        excite: Whether a stage has squeeze-and-excitation.
        strides: Stride of each stage's first block.

    Returns:
        The network.
    """

    def expansion(name: str, channels: int, is_first: bool) -> Width:
        groups = channels * expand_ratio // group_channels
        return Width.of(Subset(name, groups, minimum=1 if is_first else 0), group_channels)

    return mobile_network(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_channels=stem_channels,
        stem_stride=2,
        widths=widths,
        depths=tuple(tuple(range(1, depth + 1)) for depth in depths),
        expansion=expansion,
        kernel_sizes=kernel_sizes,
        excite=excite,
        strides=strides,
    )


@NETWORKS.add("mobile_cnn_pico")
def mobile_cnn_pico(
    *, num_outputs: int = 4, head_kind: HeadKind = "presence", in_channels: int = 3, image_size: int = 16
) -> Network:
    """Build a MobileNetV3-style CNN of a few thousand parameters, for tests."""
    return mobile_cnn(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_channels=8,
        widths=(8, 12),
        depths=(2, 2),
        expand_ratio=2,
        group_channels=4,
        kernel_sizes=(3, 5),
        excite=(False, True),
        strides=(1, 2),
    )


@NETWORKS.add("mobile_cnn_small")
def mobile_cnn_small(
    *, num_outputs: int = 4, head_kind: HeadKind = "presence", in_channels: int = 3, image_size: int = 32
) -> Network:
    """Build a MobileNetV3-style CNN for pictures of 32 to 96 pixels."""
    return mobile_cnn(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_channels=24,
        widths=(24, 40, 80),
        depths=(2, 3, 3),
        expand_ratio=4,
        group_channels=8,
        kernel_sizes=(3, 5),
        excite=(False, True, True),
        strides=(1, 2, 2),
    )
