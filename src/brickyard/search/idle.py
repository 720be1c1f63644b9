"""Idle genes: decisions that play no part in a point, such as the width of a layer that the depth leaves out.

A search is told which configs compute the same (`canonical`). Where one gene's value makes another idle, a
few hundred random points show it; so predictors see a layer that is left out as one that is not there, and
points that differ in it alone are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.search.genes import Genes, Mask, Rows

_DRAWN, _PER_VALUE = 400, 16
_LEAST = 6


@dataclass(frozen=True)
class Idle:
    """Which genes play no part, and what they are settled on.

    Attributes:
        makers: A column, a value in it, and the columns `[columns]` that this value makes idle.
        rest: The genes on which idle columns are settled, `[columns]`.
    """

    makers: tuple[tuple[int, float, Mask], ...]
    rest: npt.NDArray[np.float64]

    def __call__(self, rows: Rows) -> Mask:
        """Tell which genes play no part, `[points, columns]`."""
        found = np.zeros(rows.shape, dtype=bool)
        for column, value, idle in self.makers:
            found |= (rows[:, column] == value)[:, None] & idle
        return found

    def settled(self, rows: Rows) -> Rows:
        """Return the points with idle genes at rest, `[points, columns]`."""
        return np.where(self(rows), self.rest, rows)


def find_idle(genes: Genes, canonical: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Idle | None:
    """Find out which values of which genes make others idle.

    Args:
        genes: The space.
        canonical: From the parameters of a point to those of one that computes the same.

    Returns:
        What makes genes idle; None where nothing does. What needs two values at once to be idle is not found.
    """
    size = int(genes.sizes.max(initial=0))
    rows = genes.draw(max(_DRAWN, _PER_VALUE * size), np.random.default_rng(0))
    params = [genes.params(row) for row in rows]
    rows = genes.rows(params)  # as parameters round them
    same = genes.rows([{**point, **canonical(point)} for point in params])
    moved = same != rows
    rest = np.where(moved, same, 0.0).max(0)
    stays = ~moved & (rows != rest)
    makers = []
    for column, gene in enumerate(genes.columns):
        for value in range(gene.size):
            here = rows[:, column] == value
            idle = (moved[here].sum(0) >= _LEAST) & ~stays[here].any(0)
            idle[column] = False
            if idle.any():
                makers.append((column, float(value), idle))
    found = Idle(tuple(makers), rest)
    # a gene that does not always rest on one value is not settled by another's value alone
    kept = ~(found(rows) & (same != rest)).any(0)
    makers = [(column, value, idle & kept) for column, value, idle in makers if (idle & kept).any()]
    return Idle(tuple(makers), rest) if makers else None
