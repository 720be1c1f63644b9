"""Elastic depth: the first blocks of a stage stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from brickyard.core.brick import Brick, Extract
from brickyard.core.decision import Choice, Decision


class ElasticDepth(Brick):
    """A sequence of blocks of which the first `depth` are used.

    Args:
        blocks: Blocks whose outputs have the shape of their inputs, except where every depth keeps them.
        depth: How many blocks stay.
    """

    def __init__(self, blocks: Iterable[nn.Module], *, depth: Choice) -> None:
        super().__init__()
        for index, block in enumerate(blocks):
            self.add_module(str(index), block)
        self.depth = depth
        assert depth.largest() == len(self._modules)

    def decisions(self) -> Iterator[Decision]:
        """Yield the depth."""
        yield self.depth

    def forward(self, x: Tensor) -> Tensor:
        """Apply the active blocks in order."""
        for index in range(self.depth.value):
            x = self.get_submodule(str(index))(x)
        return x

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.Sequential` of the active blocks."""
        return nn.Sequential(*(recurse(self.get_submodule(str(index))) for index in range(self.depth.value)))
