"""Elastic depth: the first blocks of a stage stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from brickyard.core.brick import Brick, Extract
from brickyard.core.decision import Choice, Decision


class ElasticDepth(Brick):
    """A sequence of blocks of which the first `depth` are used.

    Args:
        blocks: Blocks whose outputs have the shape of their inputs, except where every depth keeps them.
        depth: How many blocks stay.
        container: What the blocks are put into when extracted; `Layers` where they read a context too.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        depth: Choice,
        container: type[nn.Sequential] = nn.Sequential,
    ) -> None:
        super().__init__()
        self.container = container
        for index, block in enumerate(blocks):
            self.add_module(str(index), block)
        self.depth = depth
        assert depth.largest() == len(self._modules)

    def decisions(self) -> Iterator[Decision]:
        """Yield the depth."""
        yield self.depth

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Apply the active blocks in order; all read the same context, if there is any."""
        for index in range(self.depth.value):
            x = self.get_submodule(str(index))(x, *context)
        return x

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build a container of the active blocks, an `nn.Sequential` unless another was asked for."""
        blocks = (recurse(self.get_submodule(str(index))) for index in range(self.depth.value))
        return self.container(*blocks)
