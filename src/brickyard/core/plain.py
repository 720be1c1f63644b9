"""Plain torch containers that networks are built of and extraction leaves behind; they know no decisions."""

from __future__ import annotations

from torch import Tensor, nn


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
