"""What the trials of a study tell a sampler: measured points, pending ones, and those not to be proposed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from brickyard.search.fronts import Values
from brickyard.search.genes import Genes, Rows
from brickyard.search.propose import Measured


@dataclass
class Known:
    """Sorts the trials of one study; a finished trial is read once, for it does not change.

    Attributes:
        genes: The space.
        signs: 1 for an objective that is minimized, -1 for one that is maximized, `[objectives]`.
        limits: Gives the constraints of a finished trial.
    """

    genes: Genes
    signs: Values
    limits: Callable[[FrozenTrial], Sequence[float]]
    _rows: dict[int, Rows] = field(default_factory=dict)
    _values: dict[int, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    _refused: dict[int, Rows] = field(default_factory=dict)
    _means: tuple[Rows, Values, Values] | None = None

    def __call__(self, trials: Sequence[FrozenTrial], but: int) -> Measured:
        """Sort trials.

        Args:
            trials: All trials of the study.
            but: Number of the trial that is asked for, which is left out.
        """
        pending = []
        for trial in trials:
            number = trial.number
            if number == but or number in self._values or number in self._refused:
                continue
            row = self._row(trial)
            if row is None:
                continue
            if trial.state in (TrialState.RUNNING, TrialState.WAITING):
                pending.append(row)
            elif trial.state == TrialState.COMPLETE and np.isfinite(trial.values).all():
                self._values[number] = trial.values, self.limits(trial)
                self._means = None
            else:
                self._refused[number] = row
        rows, values, limits = self._measured()
        return Measured(
            rows=rows,
            values=values,
            limits=limits,
            pending=self._stacked(pending),
            refused=self._stacked([self._refused[number] for number in sorted(self._refused)]),
        )

    def _row(self, trial: FrozenTrial) -> Rows | None:
        if trial.number not in self._rows:
            if any(gene.name not in trial.params for gene in self.genes.columns):
                return None  # as long as it runs, parameters may come
            self._rows[trial.number] = self.genes.rows([trial.params])[0]
        return self._rows[trial.number]

    def _stacked(self, rows: Sequence[Rows]) -> Rows:
        return np.array(rows, dtype=float).reshape(len(rows), len(self.genes.columns))

    def _measured(self) -> tuple[Rows, Values, Values]:
        if self._means is None:
            numbers = sorted(self._values)
            values = np.array([self._values[number][0] for number in numbers], dtype=float) * self.signs
            limits = np.array([self._values[number][1] for number in numbers], dtype=float)
            self._means = _means(
                self._stacked([self._rows[number] for number in numbers]),
                values.reshape(len(numbers), len(self.signs)),
                limits.reshape(len(numbers), -1 if numbers else 0),
            )
        return self._means


def _means(rows: Rows, values: Values, limits: Values) -> tuple[Rows, Values, Values]:
    """Keep each point once, with the means of what was measured there, in the order of their first trials."""
    if len(rows) < 2:
        return rows, values, limits
    _, first, places, counts = np.unique(
        rows, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) == len(rows):
        return rows, values, limits
    order = np.argsort(first)

    def mean(numbers: Values) -> Values:
        sums = np.zeros((len(first), numbers.shape[1]))
        np.add.at(sums, places.reshape(-1), numbers)
        found: Values = (sums / counts[:, None])[order]
        return found

    return rows[np.sort(first)], mean(values), mean(limits)
