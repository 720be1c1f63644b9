"""Elastic span: how many of an encoder's last layers are read."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from brickyard.core.brick import Brick, Extract
from brickyard.core.decision import Choice, Decision
from brickyard.core.sequence import Memory, Span


class ElasticSpan(Brick):
    """Reads the last outputs of an encoder as one long sequence (arXiv 2005.14187, section 2).

    Args:
        span: How many outputs; the memory must hold as many as the largest value.
    """

    def __init__(self, *, span: Choice) -> None:
        super().__init__()
        self.span = span

    def decisions(self) -> Iterator[Decision]:
        """Yield the span."""
        yield self.span

    def forward(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the sequence `[batch, span * tokens, width]` and its mask."""
        return memory.last(self.span.value)

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build a `Span` of the active number."""
        return Span(self.span.value)
