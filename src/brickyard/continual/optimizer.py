"""The optimizer of a phase: how its rates change, and its state from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def one_cycle(
    optimizer: torch.optim.Optimizer, steps: int, *, done: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Let learning rates rise to their peak over the first tenth of the steps, then fall to 0 by a cosine.

    Args:
        optimizer: The optimizer, whose rates are the peaks.
        steps: Steps in all.
        done: Steps that were made already.
    """

    def factor(step: int) -> float:
        progress = (step + 0.5) / steps
        return progress / 0.1 if progress < 0.1 else 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))

    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=done - 1)


def restore_adam(optimizer: torch.optim.Optimizer, kept: Mapping[str, Tensor]) -> None:
    """Give an optimizer its state.

    Args:
        optimizer: The optimizer.
        kept: The state: `adam.PLACE.FIELD`, by place of the parameter; other names are left.
    """
    state = optimizer.state_dict()
    for name, tensor in kept.items():
        if name.startswith("adam."):
            _, place, field = name.split(".")
            state["state"].setdefault(int(place), {})[field] = tensor
    optimizer.load_state_dict(state)
