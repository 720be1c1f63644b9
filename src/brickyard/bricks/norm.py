"""Elastic batch normalisation, and how normalisation is folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from brickyard.bricks.conv import ElasticConv2d
from brickyard.core.brick import Brick, Extract, Width
from brickyard.core.cut import Cut
from brickyard.core.decision import Decision


class ElasticBatchNorm2d(Brick):
    """Batch normalisation whose channels can be decided.

    In training mode the running statistics of the active channels are updated; statistics belong to a config,
    so a subnet trained without per-sample gates needs them re-estimated before it is used.

    Args:
        num_features: Channels of the whole network.
        width: What cuts the channels, if anything does.
        eps: Added to the variance.
        momentum: Share of the new batch in the running statistics.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, *, width: Width | None = None, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.width, self.eps, self.momentum = width, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def decisions(self) -> Iterator[Decision]:
        """Yield the width's decision."""
        if self.width is not None:
            yield self.width.decision

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cut of all four tensors."""
        rows = () if self.width is None else (self.width.cut(0),)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), rows)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[batch, channels, height, width]`."""
        active = self.active()
        mean, variance = active["running_mean"], active["running_var"]
        assert mean is not None
        assert variance is not None
        if mean.numel() == 0:
            return x
        y = F.batch_norm(
            x, mean, variance, active["weight"], active["bias"], self.training, self.momentum, eps=self.eps
        )
        is_copy = mean.untyped_storage().data_ptr() != self.running_mean.untyped_storage().data_ptr()
        if self.training and is_copy:
            assert self.width is not None
            rows = torch.from_numpy(self.width.cut(0).indices(self.width.decision.value)).to(mean.device)
            self.running_mean[rows], self.running_var[rows] = mean, variance
        return y

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.BatchNorm2d` with the active weights."""
        weight = weights["weight"]
        assert weight is not None
        plain = nn.BatchNorm2d(weight.numel(), eps=self.eps, momentum=self.momentum)
        plain.weight, plain.bias = weight, weights["bias"]  # type: ignore[assignment]
        plain.running_mean, plain.running_var = weights["running_mean"], weights["running_var"]
        return plain


def fold_norms_(root: nn.Module, pairs: Iterable[tuple[str, str]] = ()) -> None:
    """Fold every batch normalisation that follows a convolution in a sequence into it, in place.

    Works on networks of bricks and on plain modules alike; folding and cutting commute, since both act on
    channels.

    Args:
        root: Module in evaluation mode; changed.
        pairs: Paths of further convolutions and of the normalisation that alone reads each.
    """
    found = [(root.get_submodule(conv), norm) for conv, norm in pairs]
    for path, sequence in root.named_modules():
        if isinstance(sequence, nn.Sequential):
            prefix = f"{path}." if path else ""
            found += [
                (sequence._modules[first], prefix + second) for first, second in pairwise(sequence._modules)
            ]
    for conv, path in found:
        norm = root.get_submodule(path)
        if isinstance(conv, ElasticConv2d | nn.Conv2d) and isinstance(
            norm, ElasticBatchNorm2d | nn.BatchNorm2d
        ):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            root.set_submodule(path, nn.Identity())
