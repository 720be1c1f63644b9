"""Elastic embedding of ids."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.brick import Brick, Extract, Width
from brickyard.core.cut import Cut
from brickyard.core.decision import Decision


class ElasticEmbedding(Brick):
    """A table of vectors whose width can be decided.

    Its weight `[ids, width]` may be that of an `ElasticLinear` too, which then scores ids; cut by the same
    width, both stay one tensor when extracted.

    Args:
        num_embeddings: Number of ids.
        embed_dim: Width of the whole network.
        width: What cuts the width, if anything does.
    """

    weight: nn.Parameter

    def __init__(self, num_embeddings: int, embed_dim: int, *, width: Width | None = None) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.randn(num_embeddings, embed_dim) / math.sqrt(embed_dim))

    def decisions(self) -> Iterator[Decision]:
        """Yield the width's decision."""
        if self.width is not None:
            yield self.width.decision

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cut of the table's columns."""
        return {"weight": () if self.width is None else (self.width.cut(1),)}

    def forward(self, ids: Tensor) -> Tensor:
        """Look ids `[...]` up as `[..., width]`."""
        weight = self.active()["weight"]
        assert weight is not None
        return F.embedding(ids, weight)

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.Embedding` with the active columns."""
        weight = weights["weight"]
        assert weight is not None
        plain = nn.Embedding(1, 1)
        plain.num_embeddings, plain.embedding_dim = weight.shape
        plain.weight = weight
        return plain
