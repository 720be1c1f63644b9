"""The time that the sampler itself takes for a batch."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from _record import Ledger, say
from _search_arms import OURS, own_digest
from _search_tables import Problem

_BATCH, _FIRST, _LAST = 50, 400, 650
_AROUND = (450, 500, 550, 600)


def sampler_time(ledger: Ledger, problem: Problem, *, seeds: int) -> None:
    """Measure the sampler's own time for batches of 50 around 500 evaluations.

    A study starts with 400 random cells and goes on by batches. The first one, in which everything is fitted
    from nothing, is left out; those at 450, 500, 550 and 600 cells count with their mean, since predictors
    are tuned in some batches and not in others.

    Args:
        ledger: Takes the rows, seconds of wall time and of processor time.
        problem: Problem of the cells.
        seeds: Number of studies.
    """
    for seed in range(seeds):
        wall, processor = _batches(problem, seed)
        more = {"group": problem.name, "seed": seed, "count": len(_AROUND)}
        note = f"brickyard.search {own_digest()}"
        for metric, found in (
            ("seconds per batch of 50", wall),
            ("processor seconds per batch of 50", processor),
        ):
            mean = float(np.mean([found[place] for place in _AROUND]))
            ledger.add("sampler-time", OURS, metric, mean, note=note, **more)
        say(
            f"   seed {seed}: " + ", ".join(f"at {place}: {seconds:.2f} s" for place, seconds in wall.items())
        )


def _batches(problem: Problem, seed: int) -> tuple[dict[int, float], dict[int, float]]:
    """Return the wall and processor seconds of each batch, by the evaluations before it."""
    import optuna

    from brickyard.search import LinasSampler
    from brickyard.search.params import distributions

    class Timed(LinasSampler):
        """Adds up the time in which it is asked."""

        wall = processor = 0.0

        def _timed(self, ask: Any, *arguments: Any) -> Any:
            wall, processor = time.perf_counter(), time.process_time()
            found = ask(*arguments)
            self.wall += time.perf_counter() - wall
            self.processor += time.process_time() - processor
            return found

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self._timed(super().infer_relative_search_space, study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._timed(super().sample_relative, study, trial, search_space)

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    table, found = problem.table, distributions(problem.space)
    sampler = Timed(batch_size=_BATCH, encodings=problem.encodings, seed=seed)
    study = optuna.create_study(sampler=sampler, directions=["minimize"] * problem.num_objectives)
    for index in np.random.default_rng(seed).permutation(len(table.ops))[:_FIRST]:
        params = {f"edge{edge}": table.op_names[op] for edge, op in enumerate(table.ops[index])}
        values = problem.values[index].tolist()
        study.add_trial(optuna.trial.create_trial(params=params, distributions=found, values=values))
    walls, processors = {}, {}
    for done in range(_FIRST, _LAST, _BATCH):
        sampler.wall = sampler.processor = 0.0
        trials = [study.ask(found) for _ in range(_BATCH)]
        walls[done], processors[done] = sampler.wall, sampler.processor
        for trial in trials:
            index = table.place[table.cell(trial.params)]
            study.tell(trial, problem.values[index].tolist())
    return walls, processors
