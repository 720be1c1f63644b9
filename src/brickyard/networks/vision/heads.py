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


def head(kind: HeadKind, in_channels: int, *, num_outputs: int) -> nn.Sequential:
    """Build a head.

    Args:
        kind: `classes` averages over the picture and gives one score per class, whose rows a `Subset` named `classes`
            cuts; `presence` scores every place (`score`, `[batch, 1, height, width]`), takes the maximum, since one
            object anywhere answers the question, and gives the scores absent and present.
        in_channels: Channels of the features.
        num_outputs: Number of classes; 2 for `presence`.

    Returns:
        A module from `[batch, in_channels, height, width]` to `[batch, num_outputs]`.
    """
    if kind == "presence":
        answer = nn.Linear(1, 2)
        answer.weight.data = torch.tensor([[-0.5], [0.5]])
        answer.bias.data.zero_()
        score = ElasticConv2d(in_channels, 1, 1, bias=True)
        pool = nn.AdaptiveMaxPool2d(1)
        return nn.Sequential(OrderedDict(score=score, pool=pool, flatten=nn.Flatten(), answer=answer))
    classes = Width(Subset("classes", num_outputs, minimum=1), num_outputs)
    return nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=ElasticLinear(in_channels, num_outputs, width_out=classes),
        )
    )
