"""Plain torch containers that networks are built of and extraction leaves behind; they know no decisions."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F


class Constant(nn.Module):
    """A branch that has no bricks left: gives the same tensor for every input.

    Args:
        value: What it gives, `[1, channels, 1, 1]` or another shape that broadcasts.
    """

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the constant."""
        return self.value


class Fork(nn.Module):
    """A trunk and several branches that read what it gives.

    Args:
        trunk: Read first.
        **branches: What reads it, by name, in the order of the outputs.
    """

    def __init__(self, trunk: nn.Module, **branches: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.branches = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute what each branch gives."""
        y = self.trunk(x)
        return tuple(self.get_submodule(name)(y) for name in self.branches)


class Residual(nn.Module):
    """The sum of a body and a shortcut, then an activation.

    Args:
        body: Main branch.
        shortcut: Side branch, an `nn.Identity` where shapes agree.
        activation: Applied to the sum.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Compute `activation(shortcut(x) + body(x))`."""
        y: Tensor = self.activation(self.shortcut(x) + self.body(x))
        return y


class Scale(nn.Module):
    """Multiplies its input by a factor computed from it (squeeze-and-excitation, arXiv 1709.01507).

    Args:
        factor: Gives a tensor that broadcasts against the input.
    """

    def __init__(self, factor: nn.Module) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Compute `x * factor(x)`."""
        y: Tensor = x * self.factor(x)
        return y


class TopDown(nn.Module):
    """Stages one after the other, whose maps are summed from the deepest, smallest one up.

    Args:
        stages: Each but the first halves the map.
        laterals: One for each stage: brings its channels to those of the sum.
    """

    def __init__(self, stages: Iterable[nn.Module], laterals: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(laterals)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the sum, in the size of the first stage's map."""
        maps = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        y: Tensor = maps.pop()
        while maps:
            y = F.interpolate(y, scale_factor=2.0, mode="nearest") + maps.pop()
        return y
