"""Elastic layer normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.brick import Brick, Extract, Width
from brickyard.core.cut import Cut
from brickyard.core.decision import Decision


class ElasticLayerNorm(Brick):
    """Layer normalisation (arXiv 1607.06450) over features that can be decided.

    Mean and variance are those of the active features, so no statistics are kept.

    Args:
        num_features: Features of the whole network.
        width: What cuts the features, if anything does.
        eps: Added to the variance.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, num_features: int, *, width: Width | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def decisions(self) -> Iterator[Decision]:
        """Yield the width's decision."""
        if self.width is not None:
            yield self.width.decision

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cut of weight and bias."""
        rows = () if self.width is None else (self.width.cut(0),)
        return {"weight": rows, "bias": rows}

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[..., features]`."""
        weights = self.active()
        weight = weights["weight"]
        assert weight is not None
        return F.layer_norm(x, weight.shape, weight, weights["bias"], self.eps)

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.LayerNorm` with the active weights."""
        weight = weights["weight"]
        assert weight is not None
        plain = nn.LayerNorm(weight.numel(), eps=self.eps)
        plain.weight, plain.bias = weight, weights["bias"]  # type: ignore[assignment]
        return plain
