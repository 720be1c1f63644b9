"""Candidates: the points among which a batch is drawn.

A space that can be listed is scored whole, or, where it is not small, what lies next to the front and a part
drawn anew each time. In a larger one NSGA-II (pymoo) searches on predictions alone, from the
measured front and random points on; all points that it met are candidates, not only those that it ended with.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import MissingExtraError
from brickyard.search.fronts import Values
from brickyard.search.genes import Genes, Rows
from brickyard.search.narrow import Domains

_LISTED = 20_000
_SCORED = 2500
_POPULATION = 100
_GENERATIONS = 25
_KEPT = 3000


def candidates(
    genes: Genes,
    *,
    predict: Callable[[Rows], Values],
    best: Rows,
    num_objectives: int,
    known: Rows,
    rng: np.random.Generator,
    domains: Domains | None = None,
) -> Rows:
    """Collect points that may be worth measuring.

    Args:
        genes: The space.
        predict: From genes to predicted means of objectives and constraints, `[points, targets]`.
        best: Genes of the measured front, where the search starts.
        num_objectives: How many of the targets are objectives.
        known: Genes of points that are left out.
        rng: Source of all draws.
        domains: Where the candidates come from, as long as anything is left there; None for the whole space.

    Returns:
        Genes `[candidates, columns]`, each once.
    """
    count = genes.count
    if count is not None and count <= _LISTED:
        free = _within(domains, without(genes.all(), known))
        return free if len(free) <= _SCORED else _part(free, best, rng)
    met = [*_evolved(genes, predict, best, num_objectives=num_objectives, domains=domains, rng=rng)]
    free = _within(domains, without(np.unique(genes.settled(np.vstack(met)), axis=0), known))
    return np.asarray(rng.permutation(free)[:_KEPT]) if len(free) > _KEPT else free


def _part(free: Rows, best: Rows, rng: np.random.Generator) -> Rows:
    """Return the points that differ from one of the best in one gene, and others at random."""
    near = np.zeros(len(free), dtype=bool)
    for row in best:
        near |= (free != row).sum(1) == 1
    order = rng.permutation(len(free))
    first = np.concatenate([order[near[order]], order[~near[order]]])
    found: Rows = free[np.sort(first[:_SCORED])]
    return found


def _within(domains: Domains | None, rows: Rows) -> Rows:
    held = np.ones(len(rows), dtype=bool) if domains is None else domains.hold(rows)
    return rows[held] if held.any() else rows


def without(rows: Rows, known: Rows) -> Rows:
    """Leave out points that are known.

    Args:
        rows: Genes, `[points, columns]`.
        known: Genes of those to leave out, `[points, columns]`.
    """
    taken = {row.tobytes() for row in np.ascontiguousarray(known, dtype=float)}
    rows = np.ascontiguousarray(rows, dtype=float)
    free: Rows = rows[np.array([row.tobytes() not in taken for row in rows], dtype=bool)]
    return free


def _evolved(
    genes: Genes,
    predict: Callable[[Rows], Values],
    best: Rows,
    *,
    num_objectives: int,
    domains: Domains | None,
    rng: np.random.Generator,
) -> list[Rows]:
    """Return the populations of a search on predictions, and points drawn at random."""
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.evaluator import Evaluator
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.ux import UX
        from pymoo.problems.static import StaticProblem
        from pymoo.termination.max_gen import MaximumGenerationTermination
    except ImportError:
        raise MissingExtraError("pymoo", extra="search") from None

    draw = genes.draw if domains is None else domains.draw
    met = [draw(_KEPT // 4, rng)]
    columns = len(genes.columns)
    problem = Problem(
        n_var=columns, n_obj=num_objectives, xl=np.zeros(columns), xu=np.maximum(genes.sizes - 1, 1)
    )
    start = np.vstack([best[:_POPULATION], draw(max(2, _POPULATION - len(best)), rng)])
    algorithm = NSGA2(
        pop_size=_POPULATION,
        sampling=start,
        crossover=UX(),
        mutation=_mutation(genes, draw, rng),
        termination=MaximumGenerationTermination(_GENERATIONS),
    )
    algorithm.setup(problem, seed=int(rng.integers(2**31)), verbose=False)
    while algorithm.has_next():
        population = algorithm.ask()
        rows = population.get("X").astype(float)
        found = predict(rows)
        # what breaks a constraint is dominated by what does not; without, only objectives count
        broken = np.maximum(found[:, num_objectives:], 0.0).sum(1, keepdims=True)
        worse = found[:, :num_objectives] + broken * 1e3
        Evaluator().eval(StaticProblem(problem, F=worse), population)
        algorithm.tell(infills=population)
        met.append(rows)
    return met


def _mutation(
    genes: Genes, draw: Callable[[int, np.random.Generator], Rows], rng: np.random.Generator
) -> object:
    from pymoo.core.mutation import Mutation

    class Redraw(Mutation):  # type: ignore[misc]
        """Draws about one gene of each point anew; ordered genes move by one place half of the time."""

        def _do(
            self, problem: object, rows: npt.NDArray[np.float64], **more: object
        ) -> npt.NDArray[np.float64]:
            rows = rows.astype(float)
            fresh = draw(len(rows), rng)
            chosen = rng.random(rows.shape) < 1.0 / rows.shape[1]
            moved = rows + rng.choice([-1.0, 1.0], rows.shape)
            ordered = np.array([gene.ordered for gene in genes.columns]) & (genes.sizes > 0)
            near = ordered & (rng.random(rows.shape) < 0.5) & (moved >= 0) & (moved < genes.sizes)
            changed = np.where(near, moved, fresh)
            found: npt.NDArray[np.float64] = np.where(chosen, changed, rows)
            return found

    return Redraw()
