"""Which bricks of a trained network matter: the order in which it can do without them.

A gate at a brick tells by its gradient how the loss of one picture changes when the brick fades. The mean of
its square over pictures, a diagonal of the Fisher information, stands for what the brick is worth (Fisher
pruning, arXiv 1801.05787, section 2.2). What is worth least for its cost goes first; since the worth of the
others changes with it, it is measured again every few bricks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from brickyard.core.network import Network
from brickyard.core.space import block_subsets
from brickyard.train.joint import Batches, split_gates

_ROUNDS = 16
_BATCHES = 8


def fisher_ranking(
    network: Network,
    costs: npt.NDArray[np.float32],
    *,
    batches: Batches,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.float32]:
    """Rank the bricks of a trained classifier.

    Args:
        network: The network, in evaluation mode; left as it is.
        costs: Share of all MACs of each brick, `[bricks]`.
        batches: Gives labelled pictures.
        seed: Seed of the pictures.
        progress: Called with rounds done and rounds in all.

    Returns:
        Logits `[bricks]` from 1, the last that would go, to 0.2, the first.
    """
    subsets = block_subsets(network.space)
    block_of = np.repeat(np.arange(len(subsets)), [subset.count for subset in subsets])
    least = np.array([max(1, subset.minimum) for subset in subsets])
    on = np.ones(len(costs), dtype=np.bool_)
    gone: list[int] = []
    total = float(costs.sum())
    end = float(sum(count * costs[block_of == block].mean() for block, count in enumerate(least)))
    for number, target in enumerate(np.geomspace(total, max(end, 1e-3 * total), _ROUNDS + 1)[1:]):
        progress(number, _ROUNDS)
        worth = _worth(network, on, batches, seed=seed + number) / np.maximum(costs, 1e-12)
        for brick in np.argsort(worth, kind="stable"):
            block = block_of[brick]
            if costs[on].sum() <= target:
                break
            if on[brick] and on[block_of == block].sum() > least[block]:
                on[brick] = False
                gone.append(int(brick))
    rest = np.flatnonzero(on)
    gone += rest[np.argsort(worth[rest], kind="stable")].tolist()
    ranking = np.empty(len(costs), dtype=np.float32)
    ranking[gone] = np.linspace(0.2, 1.0, len(costs))
    return ranking


def _worth(
    network: Network, on: npt.NDArray[np.bool_], batches: Batches, *, seed: int
) -> npt.NDArray[np.float64]:
    subsets = block_subsets(network.space)
    device = next(network.parameters()).device
    worth = np.zeros(len(on))
    for step in range(_BATCHES):
        batch = batches(step, np.random.default_rng([seed, step, 2]))
        labels = torch.from_numpy(batch.objects[:, 0, 0].astype(np.int64)).to(device)
        open_gates = torch.from_numpy(on.astype(np.float32)).to(device)
        gates = open_gates.expand(len(labels), -1).clone().requires_grad_(True)
        with network.gated(split_gates(gates, subsets)):
            loss = F.cross_entropy(network(batch.pictures.to(device)).float(), labels, reduction="sum")
        (slopes,) = torch.autograd.grad(loss, gates)
        worth += slopes.double().square().sum(0).cpu().numpy()
    return worth
