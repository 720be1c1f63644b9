"""Elastic batch normalisation, and how normalisation is folded into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
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
    so a subnet trained without per-sample gates needs them re-estimated before it is used. With several norm
    sets (`brickyard.core.norm_sets`), weight, bias and statistics are `[sets, channels]`.

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
        self.width, self.eps, self.momentum, self.sets = width, eps, momentum, 1
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def decisions(self) -> Iterator[Decision]:
        """Yield the width's decision."""
        if self.width is not None:
            yield self.width.decision

    def add_norm_sets(self, count: int) -> None:
        """Keep several sets of weight, bias and statistics, all equal to the one there is."""
        for name, tensor in [*self._parameters.items(), *self._buffers.items()]:
            assert tensor is not None
            copies = tensor.detach().repeat(count, 1)
            setattr(self, name, nn.Parameter(copies) if name in self._parameters else copies)
        self.sets = count

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cut of all four tensors."""
        rows = () if self.width is None else (self.width.cut(0 if self.sets == 1 else 1),)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), rows)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[batch, channels, height, width]`."""
        active = self.active()
        mean, variance = active["running_mean"], active["running_var"]
        assert mean is not None
        assert variance is not None
        if mean.numel() == 0:
            return x
        if self.norm_parts is None:
            y = self._normalise(x, active, self.norm_set)
        else:
            parts = enumerate(x.split(self.norm_parts))
            y = torch.cat([self._normalise(part, active, number) for number, part in parts if len(part)])
        is_copy = mean.untyped_storage().data_ptr() != self.running_mean.untyped_storage().data_ptr()
        if self.training and is_copy:
            assert self.width is not None
            rows = torch.from_numpy(self.width.cut(0).indices(self.width.decision.value)).to(mean.device)
            self.running_mean[..., rows], self.running_var[..., rows] = mean, variance
        return y

    def _normalise(self, x: Tensor, active: dict[str, Tensor | None], number: int) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self._of_set(active[name], number) for name in names)
        # A few samples may be alone in their set: one value per channel has no variance.
        training = self.training and (self.sets == 1 or x.numel() > x.shape[1])
        if self.training and not training:  # what comes before the gradients may change them
            mean, variance = mean.clone(), variance.clone()
        return F.batch_norm(x, mean, variance, weight, bias, training, self.momentum, eps=self.eps)

    def _of_set(self, tensor: Tensor | None, number: int) -> Tensor:
        assert tensor is not None
        return tensor if self.sets == 1 else tensor[number]

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.BatchNorm2d` with the active weights."""
        picked: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            row = self._of_set(tensor, self.norm_set)
            learned = self.sets > 1 and name in self._parameters
            picked[name] = nn.Parameter(row.detach().clone()) if learned else row
        plain = nn.BatchNorm2d(picked["weight"].numel(), eps=self.eps, momentum=self.momentum)
        plain.weight, plain.bias = picked["weight"], picked["bias"]  # type: ignore[assignment]
        plain.running_mean, plain.running_var = picked["running_mean"], picked["running_var"]
        return plain


def loose_norms(root: nn.Module, pairs: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Return the paths of the elastic normalisations that `fold_norms_` would leave.

    Args:
        root: Module; left as it is.
        pairs: As for `fold_norms_`.
    """
    shadow = copy.deepcopy(root).eval()
    fold_norms_(shadow, pairs)
    return [path for path, part in shadow.named_modules() if isinstance(part, ElasticBatchNorm2d)]


def fold_norms_(
    root: nn.Module, pairs: Iterable[tuple[str, str]] = ()
) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Fold every batch normalisation that follows a convolution in a sequence into it, in place.

    Works on networks of bricks and on plain modules alike; folding and cutting commute, since both act on
    channels. Where there are several norm sets, the convolution keeps its weight and gets the bias of the
    first set.

    Args:
        root: Module in evaluation mode; changed.
        pairs: Paths of further convolutions and of the normalisation that alone reads each.

    Returns:
        For convolutions with several norm sets, by path: what multiplies the weight's rows, and the bias,
        both `[sets, channels out]`.
    """
    found = list(pairs)
    for path, sequence in root.named_modules():
        if isinstance(sequence, nn.Sequential):
            prefix = f"{path}." if path else ""
            found += [(prefix + first, prefix + second) for first, second in pairwise(sequence._modules)]
    tables = {}
    for place, path in found:
        conv, norm = root.get_submodule(place), root.get_submodule(path)
        if not isinstance(conv, ElasticConv2d | nn.Conv2d):
            continue
        if isinstance(norm, ElasticBatchNorm2d) and norm.sets > 1:
            scale = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).detach()
            shift = (norm.bias - norm.running_mean * scale).detach()
            if conv.bias is not None:
                shift = shift + conv.bias.detach() * scale
            conv.bias = nn.Parameter(shift[0].clone())
            tables[place] = scale.numpy(), shift.numpy()
        elif isinstance(norm, ElasticBatchNorm2d | nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        else:
            continue
        root.set_submodule(path, nn.Identity())
    return tables
