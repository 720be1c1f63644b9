"""ResNet-style supernets for search, after the ResNet-50 of once-for-all (arXiv 1908.09791).

Depth and width of each stage and the expand ratio of each block are `Choice`s. Blocks have two convolutions
as in the ResNets of CIFAR (arXiv 1512.03385, section 4.2) rather than a bottleneck, a block's inner channels
are counted from the whole width of its stage rather than from the active one, and the first convolution
shares the width of the first stage.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from brickyard.bricks import ElasticDepth, residual_block
from brickyard.core.brick import Width
from brickyard.core.decision import Choice
from brickyard.core.network import Network
from brickyard.networks import NETWORKS
from brickyard.networks.vision.heads import HeadKind, head
from brickyard.networks.vision.residual import stem


def _parts(name: str, channels: int, shares: tuple[float, ...]) -> Choice:
    """Return a choice among numbers of channels that are shares of a whole."""
    return Choice(name, [round(channels * share) for share in shares])


def ofa_resnet(
    *,
    num_outputs: int,
    head_kind: HeadKind,
    in_channels: int,
    image_size: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    expand_ratios: tuple[float, ...],
    width_multipliers: tuple[float, ...],
    stem_stride: int = 1,
) -> Network:
    """Build a ResNet-style supernet.

    Every stage owns the `Choice`s `stage<i>.depth` and `stage<i>.width`, every block a `Choice`
    `stage<i>.block<j>.inner`; the values of both kinds of width are channels. The head's `Subset` is decided
    by the task rather than by a search.

    Args:
        num_outputs: Classes of a `classes` head, words of a `presence` head.
        head_kind: See `brickyard.networks.vision.heads.head`.
        in_channels: Channels of a picture.
        image_size: Height and width of a picture in pixels.
        widths: Channels of the residual stream in each stage, at a multiplier of 1.
        depths: Numbers of blocks of every stage, ascending.
        expand_ratios: Inner channels of a block per channel of its stage, ascending.
        width_multipliers: Shares of a stage's channels, ascending.
        stem_stride: Stride of the first convolution; that of every stage but the first is 2.

    Returns:
        The network.

    Raises:
        ConfigError: Two ratios or multipliers round to the same number of channels.
    """
    stream = Width.of(_parts("stage0.width", widths[0], width_multipliers))
    first = stem(in_channels, stream.full, 3, stride=stem_stride, width=stream)
    stages: list[nn.Module] = []
    for stage, width in enumerate(widths):
        out = stream if stage == 0 else Width.of(_parts(f"stage{stage}.width", width, width_multipliers))
        blocks = []
        for block in range(max(depths)):
            blocks.append(
                residual_block(
                    stream.full,
                    out.full,
                    groups=_parts(f"stage{stage}.block{block}.inner", width, expand_ratios),
                    group_channels=1,
                    stride=2 if stage > 0 and block == 0 else 1,
                    width_in=stream,
                    width_out=out,
                )
            )
            stream = out
        stages.append(ElasticDepth(blocks, depth=Choice(f"stage{stage}.depth", depths)))
    scores = head(head_kind, stream.full, num_outputs=num_outputs, width=stream)
    root = nn.Sequential(OrderedDict(stem=first, stages=nn.Sequential(*stages), head=scores))
    return Network(root, input_shape=(in_channels, image_size, image_size))


@NETWORKS.add("ofa_resnet_pico")
def ofa_resnet_pico(
    *, num_outputs: int = 4, head_kind: HeadKind = "classes", in_channels: int = 3, image_size: int = 16
) -> Network:
    """Build a ResNet-style supernet of a few thousand parameters, for tests."""
    return ofa_resnet(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        widths=(8, 12),
        depths=(1, 2),
        expand_ratios=(0.5, 1.0),
        width_multipliers=(0.5, 0.75, 1.0),
        stem_stride=2,
    )


@NETWORKS.add("ofa_resnet_small")
def ofa_resnet_small(
    *, num_outputs: int = 10, head_kind: HeadKind = "classes", in_channels: int = 3, image_size: int = 32
) -> Network:
    """Build a ResNet-style supernet for pictures of 28 to 32 pixels; its largest subnet is a ResNet-20."""
    return ofa_resnet(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        widths=(16, 32, 64),
        depths=(1, 2, 3),
        expand_ratios=(0.5, 0.75, 1.0),
        width_multipliers=(0.5, 0.75, 1.0),
    )
