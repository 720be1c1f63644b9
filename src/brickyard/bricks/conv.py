"""Elastic 2-d convolution: channels cut by subsets or choices, kernel by its middle.

The middle crop of a larger kernel is the elastic kernel of once-for-all (arXiv 1908.09791, section 3.2)
without its transform matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.brick import Brick, Extract, Width
from brickyard.core.cut import Cut
from brickyard.core.decision import Choice, Decision


class ElasticConv2d(Brick):
    """A convolution whose output and input channels and kernel can be decided.

    Per-sample gates of the input's width multiply the input; not that of a grouped convolution, whose
    channels that are off reach only outputs that are off too.

    Args:
        in_channels: Input channels of the whole network.
        out_channels: Output channels of the whole network.
        kernel_size: Largest kernel, odd.
        stride: Stride of both axes.
        padding: Zeros around both axes; half of the active kernel (`same`) if None.
        groups: Groups of channels that are convolved apart, `in_channels` for a depthwise convolution. With
            more than one, both widths must be of the same decision, and a unit of them be whole groups.
        bias: Whether there is a bias.
        width_in: What cuts the input channels, if anything does.
        width_out: What cuts the output channels, if anything does.
        kernel: Odd sizes to choose from, the largest equal to `kernel_size`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
        width_in: Width | None = None,
        width_out: Width | None = None,
        kernel: Choice | None = None,
    ) -> None:
        super().__init__()
        assert groups == 1 or _whole_groups(groups, (in_channels, width_in), (out_channels, width_out))
        assert kernel is None or (kernel.largest() == kernel_size and padding is None)
        self.stride, self.groups, self.same = (stride, stride), groups, padding is None
        self.kernel_size, self.dilation = (kernel_size, kernel_size), (1, 1)
        self.padding = (kernel_size // 2,) * 2 if padding is None else (padding, padding)
        self.width_in, self.width_out, self.kernel = width_in, width_out, kernel
        fan = in_channels // groups * kernel_size**2
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(shape) * math.sqrt(2.0 / fan))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)

    def decisions(self) -> Iterator[Decision]:
        """Yield the widths' decisions and the kernel's."""
        yield from (width.decision for width in (self.width_out, self.width_in) if width is not None)
        if self.kernel is not None:
            yield self.kernel

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cuts of weight (rows, columns, kernel) and bias (rows)."""
        rows = () if self.width_out is None else (self.width_out.cut(0),)
        columns = () if self.width_in is None or self.groups > 1 else (self.width_in.cut(1),)
        full = self.weight.shape[-1]
        kernel = (
            ()
            if self.kernel is None
            else tuple(Cut(axis, self.kernel.name, "center", full) for axis in (2, 3))
        )
        return {"weight": rows + columns + kernel, "bias": rows}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `[batch, channels in, height, width]` with the active weights."""
        weights = self.active()
        weight = weights["weight"]
        assert weight is not None
        if self.width_in is not None and self.groups == 1:
            x = self.width_in.gate(x)
        if weight.numel() == 0:
            return self._nothing(x, weight, weights["bias"])
        groups = self._groups(weight)
        return F.conv2d(x, weight, weights["bias"], self.stride, self._pads(weight), groups=groups)

    def _groups(self, weight: Tensor) -> int:
        """Return the groups of an active weight."""
        return max(1, self.groups * weight.shape[0] // self.weight.shape[0])

    def _pads(self, weight: Tensor) -> tuple[int, int]:
        return (weight.shape[-1] // 2,) * 2 if self.same else self.padding

    def _nothing(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = (
            (size + 2 * pad - kernel) // stride + 1
            for size, pad, kernel, stride in zip(
                x.shape[-2:], self._pads(weight), weight.shape[-2:], self.stride, strict=True
            )
        )
        y = x.new_zeros(x.shape[0], weight.shape[0], height, width)
        return y if bias is None else y + bias.reshape(1, -1, 1, 1)

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.Conv2d` with the active weights."""
        weight, bias = weights["weight"], weights["bias"]
        assert weight is not None
        out_channels, in_channels, kernel_size, _ = weight.shape
        groups = self._groups(weight)
        plain = nn.Conv2d(1, 1, kernel_size, self.stride, self._pads(weight), bias=bias is not None)
        plain.in_channels, plain.out_channels, plain.groups = in_channels * groups, out_channels, groups
        plain.weight = weight
        plain.bias = bias
        return plain


def _whole_groups(groups: int, *sides: tuple[int, Width | None]) -> bool:
    """Tell whether the widths of both sides cut whole groups, the same ones."""
    widths = [(channels, width) for channels, width in sides if width is not None]
    if any(channels % groups for channels, _ in sides) or len(widths) == 1:
        return False
    return (
        all(width.unit % (channels // groups) == 0 for channels, width in widths)
        and len({(width.decision.name, width.unit * groups // channels) for channels, width in widths}) <= 1
    )
