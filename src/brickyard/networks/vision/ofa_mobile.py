"""MobileNetV3-style supernets for search, after once-for-all (arXiv 1908.09791): everything is a `Choice`.

Depth of each stage, kernel size and expand ratio of each block are elastic (section 3.2 of the paper). A
smaller kernel is the middle of the larger one without the paper's transform matrices, and expanded channels
keep their order rather than being sorted by importance.
"""

from __future__ import annotations

from brickyard.core.brick import Width
from brickyard.core.decision import Choice
from brickyard.core.network import Network
from brickyard.networks import NETWORKS
from brickyard.networks.vision.heads import HeadKind
from brickyard.networks.vision.mobile import mobile_network


def ofa_mobile(
    *,
    num_outputs: int,
    head_kind: HeadKind,
    in_channels: int,
    image_size: int,
    stem_channels: int,
    stem_stride: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    expand_ratios: tuple[int, ...],
    kernel_sizes: tuple[int, ...],
    excite: tuple[bool, ...],
    strides: tuple[int, ...],
) -> Network:
    """Build a MobileNetV3-style supernet.

    Every stage owns a `Choice` `stage<i>.depth`, every block the `Choice`s `stage<i>.block<j>.expand` and
    `.kernel`. The head's `Subset` is decided by the task rather than by a search.

    Args:
        num_outputs: Classes of a `classes` head, words of a `presence` head.
        head_kind: See `brickyard.networks.vision.heads.head`.
        in_channels: Channels of a picture.
        image_size: Height and width of a picture in pixels.
        stem_channels: Channels behind the first convolution.
        stem_stride: Stride of the first convolution.
        widths: Channels of each stage.
        depths: Numbers of blocks of every stage, ascending.
        expand_ratios: Expanded channels per input channel of a block, ascending.
        kernel_sizes: Odd kernel sizes of the depthwise convolutions, ascending.
        excite: Whether a stage has squeeze-and-excitation.
        strides: Stride of each stage's first block.

    Returns:
        The network.
    """
    return mobile_network(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_channels=stem_channels,
        stem_stride=stem_stride,
        widths=widths,
        depths=(depths,) * len(widths),
        expansion=lambda name, channels, _: Width.of(Choice(f"{name}.expand", expand_ratios), channels),
        kernel_sizes=kernel_sizes,
        excite=excite,
        strides=strides,
    )


@NETWORKS.add("ofa_mobile_pico")
def ofa_mobile_pico(
    *, num_outputs: int = 4, head_kind: HeadKind = "classes", in_channels: int = 3, image_size: int = 16
) -> Network:
    """Build a MobileNetV3-style supernet of a few thousand parameters, for tests."""
    return ofa_mobile(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_channels=4,
        stem_stride=2,
        widths=(6, 8),
        depths=(1, 2),
        expand_ratios=(1, 2, 3),
        kernel_sizes=(3, 5),
        excite=(False, True),
        strides=(1, 2),
    )


@NETWORKS.add("ofa_mobile_small")
def ofa_mobile_small(
    *, num_outputs: int = 10, head_kind: HeadKind = "classes", in_channels: int = 3, image_size: int = 32
) -> Network:
    """Build a MobileNetV3-style supernet of 0.42 M parameters for pictures of 28 to 32 pixels."""
    return ofa_mobile(
        num_outputs=num_outputs,
        head_kind=head_kind,
        in_channels=in_channels,
        image_size=image_size,
        stem_channels=16,
        stem_stride=2,
        widths=(24, 40, 64),
        depths=(1, 2, 3),
        expand_ratios=(3, 4, 6),
        kernel_sizes=(3, 5, 7),
        excite=(False, True, True),
        strides=(1, 2, 2),
    )
