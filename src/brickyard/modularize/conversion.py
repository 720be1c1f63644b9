"""Puts bricks into the places of a feed-forward network's layers, and the layers back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brickyard.bricks.experts import Bypass, ExpertGate, ExpertMatrix, Experts, ExpertSplit
from brickyard.modularize.intake import FeedForward


@dataclass(frozen=True, eq=False)
class Converted:
    """A feed-forward network in whose places bricks stand.

    Attributes:
        part: Paths of its layers.
        experts: The brick in the place of the first one.
        originals: What stood at each path.
        order: Original numbers of the neurons in the order in which they stand now.
    """

    part: FeedForward
    experts: Experts
    originals: Mapping[str, nn.Module]
    order: Tensor


def convert_(
    model: nn.Module, part: FeedForward, split: ExpertSplit, *, order: Tensor, gate: ExpertGate | None
) -> Converted:
    """Put bricks into the places of a feed-forward network's layers; neurons stay where they are.

    Args:
        model: Changed.
        part: Paths of the layers.
        split: Which neurons form experts.
        order: Original numbers of the neurons in the order in which they stand.
        gate: The gate, where it is learned.

    Returns:
        What is needed to put the layers back.
    """
    paths = [part.keys, part.activation, part.values, part.gated, part.dropout]
    originals = {path: model.get_submodule(path) for path in paths if path is not None}
    activation = Bypass(originals[part.activation], split)
    values = ExpertMatrix(originals[part.values], split, reads=True)
    gated = None if part.gated is None else ExpertMatrix(originals[part.gated], split)
    dropout = None if part.dropout is None else Bypass(originals[part.dropout], split)
    experts = Experts(
        originals[part.keys], activation, values, split=split, gated=gated, dropout=dropout, gate=gate
    )
    if gate is not None:
        gate.to(experts.get_parameter("weight"))
    for path, brick in zip(paths, (experts, activation, values, gated, dropout), strict=True):
        if path is not None and brick is not None:
            model.set_submodule(path, brick)
    return Converted(part, experts, originals, order)


def restore_(model: nn.Module, converted: Converted) -> None:
    """Put the layers back with the parameters that the bricks hold now, and neurons into their first order.

    Args:
        model: Changed.
        converted: What `convert_` returned.
    """
    for path, original in converted.originals.items():
        brick = model.get_submodule(path)
        if isinstance(brick, ExpertMatrix):
            original._parameters.update(brick._parameters)
        original.train(brick.training)
        model.set_submodule(path, original)
    reorder_(model, converted.part, converted.order.argsort())


@torch.no_grad()
def reorder_(model: nn.Module, part: FeedForward, order: Tensor) -> None:
    """Put the neurons of a feed-forward network into an order, those of gradients too.

    Args:
        model: Changed; computes the same afterwards.
        part: Paths of the layers.
        order: Numbers of the neurons in their new order.
    """
    makes = 1 if part.transposed else 0
    places = [(part.values, "weight", 1 - makes)]
    for path in (part.keys, *([] if part.gated is None else [part.gated])):
        places += [(path, "weight", makes), (path, "bias", 0)]
    for path, name, axis in places:
        parameter = model.get_submodule(path)._parameters.get(name)
        for tensor in () if parameter is None else (parameter.data, parameter.grad):
            if tensor is not None:
                tensor.copy_(tensor.index_select(axis, order.to(tensor.device)))
