"""Discretisers: how logits become gates while training, behind one interface.

- `ceiling`: the budgeted top-k ceiling with the gradient of a sigmoid (straight-through); costs never
exceed the limit. - `semhash`: improved semantic hashing (arXiv 1801.09797): noise, then half of the
samples use the saturating sigmoid and
  half the hard step with the gradient of the former.
- `hard_concrete`: the stretched binary concrete of arXiv 1712.01312, section 2.2.

The last two need the hinge `penalty` to keep to the limit while training; when a model is made, all three
open bricks by the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from brickyard.assemble.ceiling import open_bricks

Discretiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From logits `[batch, bricks]`, costs `[bricks]`, limits `[batch]` to gates `[batch, bricks]` in [0, 1]."""

_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1


def _hard(logits: Tensor, costs: Tensor, limits: Tensor) -> Tensor:
    opened = open_bricks(
        logits.detach().float().cpu().numpy(), costs.float().cpu().numpy(), limits.float().cpu().numpy()
    )
    return torch.from_numpy(opened).to(logits)


def ceiling(logits: Tensor, costs: Tensor, limits: Tensor) -> Tensor:
    """Open bricks under the ceiling; the gradient is that of a sigmoid."""
    soft = torch.sigmoid(logits)
    return _hard(logits, costs, limits) + soft - soft.detach()


def semhash(logits: Tensor, costs: Tensor, limits: Tensor) -> Tensor:
    """Improved semantic hashing; limits are left to the penalty."""
    noisy = logits + torch.randn_like(logits)
    soft = (1.2 * torch.sigmoid(noisy) - 0.1).clamp(0, 1)
    hard = (noisy > 0).to(soft) + soft - soft.detach()
    use_soft = torch.rand(logits.shape[0], 1, device=logits.device) < 0.5
    return torch.where(use_soft, soft, hard)


def hard_concrete(logits: Tensor, costs: Tensor, limits: Tensor) -> Tensor:
    """Stretched binary concrete; limits are left to the penalty."""
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    binary = torch.sigmoid((uniform.log() - (-uniform).log1p() + logits) / _BETA)
    return (binary * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


DISCRETISERS: dict[str, Discretiser] = {
    "ceiling": ceiling,
    "semhash": semhash,
    "hard_concrete": hard_concrete,
}
"""The discretisers by name."""


def penalty(kind: str, logits: Tensor, gates: Tensor, costs: Tensor, limits: Tensor) -> Tensor:
    """Squared excess of the (expected) cost over the limit, averaged over the batch; zero for the ceiling.

    Args:
        kind: A name in `DISCRETISERS`.
        logits: `[batch, bricks]`.
        gates: What the discretiser made of them.
        costs: Cost share of each brick, `[bricks]`.
        limits: Share that the bricks may cost, `[batch]`.

    Returns:
        A scalar.
    """
    if kind == "ceiling":
        return logits.new_zeros(())
    is_open = torch.sigmoid(logits - _BETA * math.log(-_GAMMA / _ZETA)) if kind == "hard_concrete" else gates
    return ((is_open @ costs - limits).relu() ** 2).mean()
