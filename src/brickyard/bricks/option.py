"""A place where one of several alternative modules stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from brickyard.core.brick import Brick, Extract
from brickyard.core.decision import Decision, Option


class Alternatives(Brick):
    """One of several modules with equal input and output shapes.

    Args:
        modules: The alternatives by name, the names equal to the option's values.
        option: Which one is active.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, option: Option) -> None:
        super().__init__()
        assert tuple(modules) == option.values
        self.alternatives = nn.ModuleDict(modules)
        self.option = option

    def decisions(self) -> Iterator[Decision]:
        """Yield the option."""
        yield self.option

    def forward(self, x: Tensor) -> Tensor:
        """Apply the active alternative."""
        y: Tensor = self.alternatives[self.option.value](x)
        return y

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Return the active alternative, cut out."""
        return recurse(self.alternatives[self.option.value])
