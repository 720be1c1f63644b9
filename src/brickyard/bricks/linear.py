"""Elastic fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.brick import Brick, Extract, Width
from brickyard.core.cut import Cut
from brickyard.core.decision import Decision


class ElasticLinear(Brick):
    """A linear layer whose output and input features can be decided.

    Per-sample gates of the input's width multiply the input. A subset of the outputs is how classes leave a
    head.

    Args:
        in_features: Input features of the whole network.
        out_features: Output features of the whole network.
        bias: Whether there is a bias.
        width_in: What cuts the input features, if anything does.
        width_out: What cuts the output features, if anything does.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        width_in: Width | None = None,
        width_out: Width | None = None,
    ) -> None:
        super().__init__()
        self.width_in, self.width_out = width_in, width_out
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)

    def decisions(self) -> Iterator[Decision]:
        """Yield the widths' decisions."""
        yield from (width.decision for width in (self.width_out, self.width_in) if width is not None)

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cuts of weight (rows, columns) and bias (rows)."""
        rows = () if self.width_out is None else (self.width_out.cut(0),)
        columns = () if self.width_in is None else (self.width_in.cut(1),)
        return {"weight": rows + columns, "bias": rows}

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., features in]` to `[..., features out]` with the active weights."""
        weights = self.active()
        weight = weights["weight"]
        assert weight is not None
        if self.width_in is not None:
            x = self.width_in.gate(x, axis=-1)
        return F.linear(x, weight, weights["bias"])

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.Linear` with the active weights."""
        weight, bias = weights["weight"], weights["bias"]
        assert weight is not None
        plain = nn.Linear(1, 1, bias=bias is not None)
        plain.out_features, plain.in_features = weight.shape
        plain.weight = weight
        plain.bias = bias  # type: ignore[assignment]
        return plain
