"""Heads of detectors: a map of scores for centres of objects, and four maps for their boxes."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from brickyard.bricks import ElasticBatchNorm2d, ElasticConv2d
from brickyard.core.brick import Width
from brickyard.core.decision import Subset
from brickyard.core.plain import Fork
from brickyard.networks.vision.heads import HeadKind

_PRIOR = -2.2  # logit of 0.1: most places hold no centre (arXiv 1708.02002, section 4.1)


def class_heat(channels: int, *, num_outputs: int, width: Width) -> nn.Sequential:
    """Build one map of probabilities per class.

    Args:
        channels: Channels of the features.
        num_outputs: Number of classes; a `Subset` named `classes` cuts their rows.
        width: What cuts the channels of the features.

    Returns:
        A module from `[batch, channels, height, width]` to `[batch, classes, height, width]` in (0, 1).
    """
    classes = Width(Subset("classes", num_outputs, minimum=1), num_outputs)
    score = ElasticConv2d(channels, num_outputs, 1, bias=True, width_in=width, width_out=classes)
    score.weight.data.mul_(0.3)
    assert score.bias is not None
    score.bias.data.fill_(_PRIOR)
    return nn.Sequential(OrderedDict(score=score, act=nn.Sigmoid()))


def words_heat(channels: int, *, num_words: int, width: Width) -> nn.Sequential:
    """Build one map of probabilities that the centre of an object with all words of a task is there.

    `missing` says for each word, as a logit, that it is missing there. Softplus makes of it the negative
    logarithm of the probability that the word is present, so the sum over the words of the task is that of
    all of them together, for any combination (`score`). A rectifier instead of softplus would score all
    places alike that miss no word, and a plateau has no peak.

    Args:
        channels: Channels of the features.
        num_words: Words of the vocabulary, one brick each of a `Subset` named `head.words`.
        width: What cuts the channels of the features.

    Returns:
        A module from `[batch, channels, height, width]` to `[batch, 1, height, width]` in (0, 1).
    """
    words = Width(Subset("head.words", num_words, minimum=1), num_words)
    missing = ElasticConv2d(channels, num_words, 1, bias=True, width_in=width, width_out=words)
    missing.weight.data.mul_(0.3)
    score = ElasticConv2d(num_words, 1, 1, bias=True, width_in=words)
    score.weight.data.fill_(-1.0)
    assert missing.bias is not None
    assert score.bias is not None
    missing.bias.data.fill_(-_PRIOR)
    score.bias.data.fill_(2.0)
    return nn.Sequential(OrderedDict(missing=missing, plus=nn.Softplus(), score=score, act=nn.Sigmoid()))


def center_head(
    kind: HeadKind, in_channels: int, *, num_outputs: int, groups: Subset, group_channels: int
) -> Fork:
    """Build the head of a centre detector.

    Args:
        kind: `classes` for a map per class, `presence` for one map that all words of a task share.
        in_channels: Channels of the features.
        num_outputs: Classes, or words.
        groups: Which groups of the shared convolution's channels are on; at least one must stay.
        group_channels: Channels per group.

    Returns:
        A module from features `[batch, in_channels, height, width]` to a tuple: heat, `[batch, classes or 1,
        height, width]`, and boxes, `[batch, 4, height, width]`: width and height of the box and the offset of
        its centre from the upper left corner of the cell, x and y, all in cells.
    """
    channels = groups.count * group_channels
    width = Width(groups, channels, group_channels)
    trunk = nn.Sequential(
        OrderedDict(
            conv=ElasticConv2d(in_channels, channels, 3, width_out=width),
            norm=ElasticBatchNorm2d(channels, width=width),
            act=nn.ReLU(),
        )
    )
    heat = (
        class_heat(channels, num_outputs=num_outputs, width=width)
        if kind == "classes"
        else words_heat(channels, num_words=num_outputs, width=width)
    )
    boxes = ElasticConv2d(channels, 4, 1, bias=True, width_in=width)
    boxes.weight.data.mul_(0.3)
    assert boxes.bias is not None
    boxes.bias.data[:2], boxes.bias.data[2:] = 4.0, 0.5
    return Fork(trunk, heat=heat, boxes=boxes)
