"""Residual CNNs whose bricks are groups of inner channels (arXiv 2308.15003, blocks of 1512.03385)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from brickyard.bricks import ElasticBatchNorm2d, ElasticConv2d, residual_block
from brickyard.core.brick import Width
from brickyard.core.decision import Subset
from brickyard.core.network import Network
from brickyard.networks import NETWORKS
from brickyard.networks.vision.heads import HeadKind, head


def stem(
    in_channels: int, channels: int, kernel: int, *, stride: int, width: Width | None = None
) -> nn.Sequential:
    """Build the first layer: convolution, normalisation, activation; whole unless `width` cuts it."""
    return nn.Sequential(
        OrderedDict(
            conv=ElasticConv2d(in_channels, channels, kernel, stride=stride, width_out=width),
            norm=ElasticBatchNorm2d(channels, width=width),
            act=nn.ReLU(),
        )
    )


def residual_stages(
    *,
    widths: tuple[int, ...],
    blocks_per_stage: tuple[int, ...],
    groups_per_block: tuple[int, ...],
    group_channels: tuple[int, ...],
    block_kernels: tuple[int, int],
    strides: tuple[int, ...],
) -> list[nn.Sequential]:
    """Build stages of residual blocks; every block owns one `Subset` named `stage<i>.block<j>`.

    Args:
        widths: Channels of the residual stream in each stage; the first is also what comes in.
        blocks_per_stage: Blocks in each stage.
        groups_per_block: Groups of inner channels per block, for each stage.
        group_channels: Channels per group, for each stage.
        block_kernels: Odd kernels of a block's two convolutions.
        strides: Stride of each stage's first block.

    Returns:
        One sequence of blocks per stage.
    """
    stages, channels = [], widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks_per_stage, strict=True)):
        blocks = []
        for block in range(count):
            blocks.append(
                residual_block(
                    channels,
                    width,
                    groups=Subset(f"stage{stage}.block{block}", groups_per_block[stage]),
                    group_channels=group_channels[stage],
                    kernel_sizes=block_kernels,
                    stride=strides[stage] if block == 0 else 1,
                )
            )
            channels = width
        stages.append(nn.Sequential(*blocks))
    return stages


def residual_cnn(
    *,
    num_outputs: int,
    head_kind: HeadKind,
    in_channels: int,
    image_size: int,
    widths: tuple[int, ...],
    blocks_per_stage: tuple[int, ...],
    groups_per_block: tuple[int, ...],
    group_channels: tuple[int, ...],
    stem_stride: int = 1,
    stem_kernel: int = 3,
    block_kernels: tuple[int, int] = (3, 3),
    stage_strides: tuple[int, ...] | None = None,
) -> Network:
    """Build a residual CNN; every block owns one `Subset` named `stage<i>.block<j>`.

    Args:
        num_outputs: Classes of a `classes` head, words of a `presence` head.
        head_kind: See `brickyard.networks.vision.heads.head`.
        in_channels: Channels of a picture.
        image_size: Height and width of a picture in pixels.
        widths: Channels of the residual stream in each stage.
        blocks_per_stage: Blocks in each stage.
        groups_per_block: Groups of inner channels per block, for each stage.
        group_channels: Channels per group, for each stage.
        stem_stride: Stride of the first convolution.
        stem_kernel: Odd kernel of the first convolution.
        block_kernels: Odd kernels of a block's two convolutions.
        stage_strides: Stride of each stage's first block; 1 then 2s if None.

    Returns:
        The network.
    """
    first = stem(in_channels, widths[0], stem_kernel, stride=stem_stride)
    stages = residual_stages(
        widths=widths,
        blocks_per_stage=blocks_per_stage,
        groups_per_block=groups_per_block,
        group_channels=group_channels,
        block_kernels=block_kernels,
        strides=stage_strides or (1,) + (2,) * (len(widths) - 1),
    )
    root = nn.Sequential(
        OrderedDict(
            stem=first,
            stages=nn.Sequential(*stages),
            head=head(head_kind, widths[-1], num_outputs=num_outputs),
        )
    )
    return Network(root, input_shape=(in_channels, image_size, image_size))


@NETWORKS.add("residual_cnn_pico")
def residual_cnn_pico(
    *, num_outputs: int = 4, head_kind: HeadKind = "presence", in_channels: int = 3, image_size: int = 16
) -> Network:
    """Build a residual CNN of about 4 k parameters, for tests."""
    return residual_cnn(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        widths=(8, 12),
        blocks_per_stage=(1, 2),
        groups_per_block=(4, 4),
        group_channels=(4, 4),
        stem_stride=2,
    )


@NETWORKS.add("residual_cnn_small")
def residual_cnn_small(
    *, num_outputs: int = 4, head_kind: HeadKind = "presence", in_channels: int = 3, image_size: int = 32
) -> Network:
    """Build a residual CNN of 0.2 M parameters for pictures of 32 to 96 pixels: five blocks, 108 bricks."""
    return residual_cnn(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        widths=(24, 48),
        blocks_per_stage=(1, 4),
        groups_per_block=(12, 24),
        group_channels=(4, 4),
        stem_stride=2,
        stem_kernel=5,
        block_kernels=(3, 1),
        stage_strides=(1, 2),
    )


@NETWORKS.add("residual_cnn_digits")
def residual_cnn_digits(
    *, num_outputs: int = 10, head_kind: HeadKind = "classes", in_channels: int = 1, image_size: int = 16
) -> Network:
    """Build a residual CNN of about 60 k parameters for grey pictures of 8 to 32 pixels, 48 bricks."""
    return residual_cnn(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        widths=(16, 32),
        blocks_per_stage=(1, 2),
        groups_per_block=(16, 16),
        group_channels=(4, 4),
        stage_strides=(1, 2),
    )


@NETWORKS.add("resnet20")
def resnet20(
    *, num_outputs: int = 10, head_kind: HeadKind = "classes", in_channels: int = 3, image_size: int = 32
) -> Network:
    """Build the ResNet-20 of CIFAR (arXiv 1512.03385, section 4.2), inner channels in groups of 4."""
    return residual_cnn(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        widths=(16, 32, 64),
        blocks_per_stage=(3, 3, 3),
        groups_per_block=(4, 8, 16),
        group_channels=(4, 4, 4),
    )
