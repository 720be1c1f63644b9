"""Peers for a single objective, in a few lines each."""

from __future__ import annotations

from collections import deque

import numpy as np
from _search_tables import Recorder, one_hot

_POPULATION, _SAMPLE = 50, 10  # small, since a few hundred cells are evaluated
_FIRST, _ROUND, _TOP = 10, 10, 100


def regularised_evolution(recorder: Recorder, seed: int) -> None:
    """Evolve by ageing (arXiv 1802.01548): the best of a random sample has a mutant, the oldest dies.

    A mutant has one operation changed.

    Args:
        recorder: Evaluates.
        seed: Seed of all draws.
    """
    rng = np.random.default_rng(seed)
    ops = recorder.problem.table.ops
    choices = [np.unique(column) for column in ops.T]
    population: deque[tuple[float, np.ndarray]] = deque(maxlen=_POPULATION)
    for index in rng.permutation(len(ops))[:_POPULATION]:
        population.append((float(recorder(ops[index])[0]), ops[index]))
    while True:
        drawn = rng.choice(len(population), size=min(_SAMPLE, len(population)), replace=False)
        parent = min((population[place] for place in drawn), key=lambda member: member[0])[1]
        child = parent.copy()
        edge = rng.integers(len(choices))
        others = choices[edge][choices[edge] != parent[edge]]
        child[edge] = rng.choice(others if len(others) else choices[edge])
        population.append((float(recorder(child)[0]), child))


def weak_predictors(recorder: Recorder, seed: int) -> None:
    """Fit weak predictors round by round (WeakNAS, arXiv 2102.10490) with random forests.

    Ten random cells first; then each round fits a forest on one-hot features, ranks the whole table, and
    draws ten new cells from the hundred that are predicted best.

    Args:
        recorder: Evaluates.
        seed: Seed of all draws.
    """
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(seed)
    ops = recorder.problem.table.ops
    features = one_hot(ops)
    done = [int(index) for index in rng.permutation(len(ops))[:_FIRST]]
    values = [float(recorder(ops[index])[0]) for index in done]
    while len(done) < len(ops):
        forest = RandomForestRegressor(n_estimators=100, random_state=int(rng.integers(2**31)))
        predicted = forest.fit(features[done], values).predict(features)
        predicted[done] = np.inf
        top = np.argsort(predicted, kind="stable")[: min(_TOP, len(ops) - len(done))]
        for index in rng.choice(top, size=min(_ROUND, len(top)), replace=False):
            values.append(float(recorder(ops[index])[0]))
            done.append(int(index))
