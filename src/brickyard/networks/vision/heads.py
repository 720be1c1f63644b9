"""Heads: from a map of features to one score per output."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from brickyard.bricks import ElasticConv2d, ElasticLinear
from brickyard.core.brick import Width
from brickyard.core.decision import Subset

HeadKind = Literal["classes", "presence"]


def class_head(in_channels: int, *, num_outputs: int, width: Width | None = None) -> nn.Sequential:
    """Build a head that averages over the picture and gives one score per class.

    Args:
        in_channels: Channels of the features.
        num_outputs: Number of classes; a `Subset` named `classes` cuts their rows.
        width: What cuts the channels of the features, if anything does.

    Returns:
        A module from `[batch, in_channels, height, width]` to `[batch, classes]`.
    """
    classes = Width(Subset("classes", num_outputs, minimum=1), num_outputs)
    return nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=ElasticLinear(in_channels, num_outputs, width_in=width, width_out=classes),
        )
    )


def presence_head(in_channels: int, *, num_words: int, width: Width | None = None) -> nn.Sequential:
    """Build a head that tells whether an object with all words of a task is anywhere in the picture.

    At every place, `missing` says for each word how much it is missing there; the words whose bricks are on
    veto the place, so any combination of words is answered by the sum (`score`). The best place decides;
    `answer` only spreads its score over the two outputs and is not trained.

    Args:
        in_channels: Channels of the features.
        num_words: Words of the vocabulary, one brick each of a `Subset` named `head.words`.
        width: What cuts the channels of the features, if anything does.

    Returns:
        A module from `[batch, in_channels, height, width]` to the scores absent and present, `[batch, 2]`.
    """
    words = Width(Subset("head.words", num_words, minimum=1), num_words)
    missing = ElasticConv2d(in_channels, num_words, 1, bias=True, width_in=width, width_out=words)
    missing.weight.data.mul_(0.5)
    score = ElasticConv2d(num_words, 1, 1, bias=True, width_in=words)
    score.weight.data.fill_(-1.0)
    assert score.bias is not None
    score.bias.data.fill_(1.0)
    answer = nn.Linear(1, 2)
    answer.weight.data = torch.tensor([[-0.5], [0.5]])
    answer.bias.data.zero_()
    answer.requires_grad_(False)
    return nn.Sequential(
        OrderedDict(
            missing=missing,
            act=nn.ReLU(),
            score=score,
            pool=nn.AdaptiveMaxPool2d(1),
            flatten=nn.Flatten(),
            answer=answer,
        )
    )


def head(kind: HeadKind, in_channels: int, *, num_outputs: int, width: Width | None = None) -> nn.Sequential:
    """Build a head by its kind.

    Args:
        kind: `classes` for `class_head`, `presence` for `presence_head`.
        in_channels: Channels of the features.
        num_outputs: Classes, or words.
        width: What cuts the channels of the features, if anything does.

    Returns:
        The head.
    """
    if kind == "classes":
        return class_head(in_channels, num_outputs=num_outputs, width=width)
    return presence_head(in_channels, num_words=num_outputs, width=width)
