"""Detectors of centres: a residual backbone, a top-down neck, a head that scores centres and gives boxes.

The head and its training follow arXiv 1904.07850 (objects as points), the neck arXiv 1612.03144. Bricks are
groups of channels inside the blocks of the backbone, inside the block of the neck, and of the head's shared
layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from brickyard.bricks import ElasticBatchNorm2d, ElasticConv2d, residual_block
from brickyard.core.decision import Subset
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network
from brickyard.core.plain import TopDown
from brickyard.networks import NETWORKS
from brickyard.networks.detection.heads import center_head
from brickyard.networks.vision.heads import HeadKind
from brickyard.networks.vision.residual import residual_stages, stem

OUTPUTS = ("heat", "boxes")
"""Names of what a detector gives, in order."""
DETECTORS = ("center_small", "center_medium", "center_pico")
"""Names of the registered detectors."""


def center_detector(
    *,
    num_outputs: int,
    head_kind: HeadKind,
    in_channels: int,
    image_size: int | Sequence[int],
    stem_kernel: int,
    stride: int,
    widths: tuple[int, ...],
    blocks_per_stage: tuple[int, ...],
    inner_channels: tuple[int, ...],
    block_kernels: tuple[int, int],
    neck_channels: int,
    neck_inner: int,
    head_channels: int,
    group_channels: int,
) -> Network:
    """Build a centre detector.

    Every block owns one `Subset` `stage<i>.block<j>`; the neck owns `neck.block`, the head `head.shared`,
    and `classes` or `head.words`.

    Args:
        num_outputs: Classes of a `classes` head, words of a `presence` head.
        head_kind: See `brickyard.networks.detection.heads.center_head`.
        in_channels: Channels of a picture.
        image_size: Side of a picture in pixels, or its height and width; multiples of the deepest stage's
            stride.
        stem_kernel: Odd kernel of the first convolution.
        stride: Pixels per cell of the head's maps, which is the stride of the first convolution.
        widths: Channels of the residual stream in each stage; each stage but the first halves the map.
        blocks_per_stage: Blocks in each stage.
        inner_channels: Inner channels of the blocks of each stage.
        block_kernels: Odd kernels of a block's two convolutions.
        neck_channels: Channels of the neck.
        neck_inner: Inner channels of the neck's block.
        head_channels: Channels of the head's shared layer.
        group_channels: Channels per brick, everywhere.

    Returns:
        The network, with the outputs `heat` and `boxes`.

    Raises:
        ConfigError: The size of the picture does not fit the strides.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    deepest = stride * 2 ** (len(widths) - 1)
    if len(sides) != 2 or any(side < deepest or side % deepest for side in sides):
        raise ConfigError(
            f"image_size = {image_size!r} does not fit this detector; give one side, or height and width, "
            f"each a multiple of {deepest} pixels",
            path="image_size",
            value=image_size,
            allowed=f"multiples of {deepest}",
        )
    first = stem(in_channels, widths[0], stem_kernel, stride=stride)
    stages = residual_stages(
        widths=widths,
        blocks_per_stage=blocks_per_stage,
        groups_per_block=tuple(inner // group_channels for inner in inner_channels),
        group_channels=(group_channels,) * len(widths),
        block_kernels=block_kernels,
        strides=(1,) + (2,) * (len(widths) - 1),
    )
    laterals = [
        nn.Sequential(
            OrderedDict(conv=ElasticConv2d(width, neck_channels, 1), norm=ElasticBatchNorm2d(neck_channels))
        )
        for width in widths
    ]
    neck = residual_block(
        neck_channels,
        neck_channels,
        groups=Subset("neck.block", neck_inner // group_channels),
        group_channels=group_channels,
        kernel_sizes=block_kernels,
    )
    head = center_head(
        head_kind,
        neck_channels,
        num_outputs=num_outputs,
        groups=Subset("head.shared", head_channels // group_channels, minimum=1),
        group_channels=group_channels,
    )
    root = nn.Sequential(OrderedDict(stem=first, pyramid=TopDown(stages, laterals), neck=neck, head=head))
    return Network(root, input_shape=(in_channels, *sides), outputs=OUTPUTS)


@NETWORKS.add("center_pico")
def center_pico(
    *,
    num_outputs: int = 4,
    head_kind: HeadKind = "presence",
    in_channels: int = 3,
    image_size: int | Sequence[int] = 32,
) -> Network:
    """Build a centre detector of a few thousand parameters, for tests; cells of 4 pixels."""
    return center_detector(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_kernel=5,
        stride=4,
        widths=(8, 12),
        blocks_per_stage=(1, 1),
        inner_channels=(16, 16),
        block_kernels=(3, 1),
        neck_channels=8,
        neck_inner=8,
        head_channels=16,
        group_channels=4,
    )


@NETWORKS.add("center_small")
def center_small(
    *,
    num_outputs: int = 4,
    head_kind: HeadKind = "presence",
    in_channels: int = 3,
    image_size: int | Sequence[int] = 96,
) -> Network:
    """Build a centre detector of 0.33 M parameters for pictures of about 96 pixels; cells of 4 pixels."""
    return center_detector(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_kernel=7,
        stride=4,
        widths=(24, 48, 64),
        blocks_per_stage=(1, 3, 2),
        inner_channels=(48, 96, 128),
        block_kernels=(3, 1),
        neck_channels=32,
        neck_inner=64,
        head_channels=64,
        group_channels=4,
    )


@NETWORKS.add("center_medium")
def center_medium(
    *,
    num_outputs: int = 4,
    head_kind: HeadKind = "classes",
    in_channels: int = 3,
    image_size: int | Sequence[int] = (240, 320),
) -> Network:
    """Build a centre detector of 0.4 M parameters for pictures of about 320 x 240 pixels, in cells of 4."""
    return center_detector(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_kernel=7,
        stride=4,
        widths=(24, 48, 96),
        blocks_per_stage=(1, 2, 2),
        inner_channels=(32, 96, 192),
        block_kernels=(3, 1),
        neck_channels=32,
        neck_inner=32,
        head_channels=32,
        group_channels=8,
    )
