"""The edge search: the best strategy to assemble the bricks under a budget, without training.

Bisection on the limit finds the largest subnet of the assembler that fits; candidates come from limits
around it; repair closes bricks until a candidate fits, fill opens what still fits; the candidates are ranked
by the assembler's own score. Costs come from a function, so that any
quantity can be limited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from brickyard.assemble.assembler import Floats
from brickyard.assemble.assembly import Assembly, Mask
from brickyard.core.errors import InfeasibleError

Costing = Callable[[Mask], Mapping[str, float]]
"""From a mask `[bricks]` to the quantities that are limited."""

_STEPS = 12

# Limits of the candidates, as shares of the largest that fits. Noise on the logits was tried instead: it
# opens bricks out of the order that was trained, and costs 2 points of accuracy at a quarter of the MACs.
_FACTORS = (1.0, 0.97, 1.03, 0.94, 1.06, 0.9, 1.1)


@dataclass(frozen=True)
class Candidate:
    """A subnet that fits.

    Attributes:
        mask: Whether each brick is on, `[bricks]`.
        limit: Limit of the assembler it came from.
        score: Probabilities of its open bricks, weighted by their cost, summed.
        costs: Its limited quantities.
    """

    mask: Mask
    limit: float
    score: float
    costs: Mapping[str, float]


def _excess(costs: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """Return the largest ratio of cost to limit; at most 1 means that it fits."""
    return max((costs[name] / limit for name, limit in limits.items()), default=0.0)


def binding_limit(costs: Mapping[str, float], limits: Mapping[str, float]) -> str | None:
    """Return the limit whose ratio of cost to limit is largest, None without limits."""
    return max(limits, key=lambda name: costs[name] / limits[name], default=None)


def _score(mask: Mask, logits: Floats, costs: Floats) -> float:
    probability = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    return float((probability * costs)[mask].sum())


def _repair(
    mask: Mask, logits: Floats, costing: Costing, limits: Mapping[str, float], floors: Mask
) -> Mask | None:
    """Close the weakest bricks until the mask fits; bisection over how many, since costs fall with each."""
    if _excess(costing(mask), limits) <= 1:
        return mask
    order = np.flatnonzero(mask & ~floors)
    order = order[np.argsort(logits[order], kind="stable")]
    low, high = 0, len(order)

    def closed(count: int) -> Mask:
        smaller = mask.copy()
        smaller[order[:count]] = False
        return smaller

    if _excess(costing(closed(high)), limits) > 1:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _excess(costing(closed(middle)), limits) <= 1 else (middle, high)
    return closed(high)


def _fill(mask: Mask, logits: Floats, costing: Costing, limits: Mapping[str, float], *, tries: int) -> Mask:
    """Open closed bricks that the task wants, best first, while they fit."""
    filled = mask.copy()
    wanted = np.flatnonzero(~mask & (logits > 0))
    for brick in wanted[np.argsort(-logits[wanted], kind="stable")][:tries]:
        filled[brick] = True
        if _excess(costing(filled), limits) > 1:
            filled[brick] = False
    return filled


def search(
    assembly: Assembly,
    task: Floats,
    *,
    costing: Costing,
    limits: Mapping[str, float],
    candidates: int = 6,
) -> list[Candidate]:
    """Find the subnets for a task that fit a budget.

    Args:
        assembly: The assembler and its bricks.
        task: Multi-hot task `[words]`.
        costing: Gives the limited quantities of a mask.
        limits: Ceilings by quantity; none gives what the task opens at limit 1.
        candidates: How many strategies to compare.

    Returns:
        Candidates that fit, best first.

    Raises:
        InfeasibleError: Even the smallest subnet exceeds a limit.
    """
    floors = assembly.floors(assembly.logits(task, [assembly.fixed_cost])[0])
    least = costing(floors)
    if _excess(least, limits) > 1:
        name = binding_limit(least, limits)
        assert name is not None
        raise InfeasibleError(
            f"{name} = {limits[name]:g} cannot be met: the smallest model of this factory needs "
            f"{least[name]:g}; allow at least that",
            limit=name,
            requested=limits[name],
            smallest=least[name],
        )
    low, high = assembly.fixed_cost, 1.0
    logits = assembly.logits(task, [high])[0]
    if _excess(costing(assembly.masks(logits[None], [high])[0]), limits) > 1:
        for _ in range(_STEPS):
            middle = (low + high) / 2
            mask = assembly.masks(assembly.logits(task, [middle]), [middle])[0]
            low, high = (middle, high) if _excess(costing(mask), limits) <= 1 else (low, middle)
        high = low
    found: dict[bytes, Candidate] = {}
    for factor in _FACTORS[:candidates]:
        limit = float(min(max(high * factor, assembly.fixed_cost + 1e-6), 1.0))
        logits = assembly.logits(task, [limit])[0]
        opened = assembly.masks(logits[None], [limit])[0]
        mask = _repair(opened, logits, costing, limits, assembly.floors(logits))
        if mask is None:
            continue
        mask = _fill(mask, logits, costing, limits, tries=12)
        score = _score(mask, logits, assembly.costs)
        found.setdefault(mask.tobytes(), Candidate(mask, limit, score, costing(mask)))
    return sorted(found.values(), key=lambda candidate: -candidate.score)
