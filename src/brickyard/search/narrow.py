"""Progressive narrowing: candidates come from the values that good points have.

The rule, applied anew to all evaluations each time points are proposed: good are the front, the front of
the rest, and so on, until they are a quarter of the evaluations, at least ten. Of each parameter those values
stay that

- a good point has,
- lie between those of good points or next to them, where the values have an order: so a domain widens as soon
  as the front touches its edge,
- or fewer than five evaluations had, so that nothing is dropped untried.

A continuous parameter keeps the range of the good points and a tenth of its width to either side. Evaluations
outside of the domains are kept, and predictors learn from them as from all others. The notion is the
shrinking of elastic domains in arXiv 2202.12954, which clusters the points of one finished search instead.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from brickyard.search.fronts import Values, non_dominated
from brickyard.search.genes import Genes, Rows

_LEAST, _SHARE = 10, 0.25
_TRIED = 5
_BEYOND = 0.1


class Domains:
    """The values of each parameter that are left.

    Args:
        genes: The space.
        rows: Genes of the evaluated points that meet all constraints, `[points, columns]`.
        values: Their objectives, `[points, objectives]`, the smaller the better.

    Attributes:
        left: Which values of each parameter are left; the lowest and the highest where it is continuous.
    """

    def __init__(self, genes: Genes, rows: Rows, values: Values) -> None:
        self.genes = genes
        good = rows[_good(values)]
        self.left = [self._left(column, rows[:, column], good[:, column]) for column in range(rows.shape[1])]

    def _left(self, column: int, tried: Values, good: Values) -> Values:
        gene = self.genes.columns[column]
        if not gene.size:
            if not len(good):
                return np.array([0.0, 1.0])
            low, high = max(0.0, good.min() - _BEYOND), min(1.0, good.max() + _BEYOND)
            return np.array([low, high])
        places = np.arange(gene.size)
        left = (tried[:, None] == places).sum(0) < _TRIED
        if len(good):
            near = (places >= good.min() - 1) & (places <= good.max() + 1)
            left |= near if gene.ordered else np.isin(places, good)
        found: Values = places[left].astype(float)
        return found if len(found) else places.astype(float)

    def draw(self, count: int, rng: np.random.Generator) -> Rows:
        """Draw points of the domains uniformly, `[count, columns]`."""
        columns = []
        for gene, left in zip(self.genes.columns, self.left, strict=True):
            columns.append(rng.choice(left, count) if gene.size else rng.uniform(left[0], left[1], count))
        return self.genes.settled(np.stack(columns, axis=1))

    def hold(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Tell which points lie in the domains, `[points]`."""
        held = np.ones(len(rows), dtype=bool)
        for column, (gene, left) in enumerate(zip(self.genes.columns, self.left, strict=True)):
            numbers = rows[:, column]
            inside = np.isin(numbers, left) if gene.size else (numbers >= left[0]) & (numbers <= left[1])
            held &= inside
        return held


def _good(values: Values) -> npt.NDArray[np.bool_]:
    """Tell which points belong to the first fronts, `[points]`."""
    wanted = max(_LEAST, int(np.ceil(_SHARE * len(values))))
    good = np.zeros(len(values), dtype=bool)
    while good.sum() < min(wanted, len(values)):
        rest = np.flatnonzero(~good)
        good[rest[non_dominated(values[rest])]] = True
    return good
