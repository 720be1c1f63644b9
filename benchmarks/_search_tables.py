"""Tables of evaluated cells as problems of search, and the record of what a method evaluates of one.

A table is an `.npz` file with `ops` `[cells, edges]`, the number of the operation on each edge, and columns
of one number per cell; `op_names` and `edges` (the two nodes of each edge) may tell more of the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from brickyard.core.decision import Option
from brickyard.core.space import Space
from brickyard.search.cells import Cells, Kind

if TYPE_CHECKING:
    from brickyard.search.model import Features

Values = npt.NDArray[np.float64]
LEVELS = (0.90, 0.95, 0.99)
_REPEATS = 20  # a method that asks for known cells only is stopped after so many calls per wanted cell


_KINDS: dict[str, Kind] = {
    "none": "absent",
    "skip_connect": "identity",
    "nor_conv_1x1": "weighted",
    "nor_conv_3x3": "weighted",
    "avg_pool_3x3": "plain",
}


class EnoughError(Exception):
    """Raised by a recorder when a method has seen what it may see; it ends the method."""


@dataclass(frozen=True)
class Table:
    """Every cell of a space with its numbers.

    Attributes:
        name: Name of the file without its ending.
        ops: Number of the operation on each edge, `[cells, edges]`.
        columns: Numbers of each cell by name, `[cells]` each.
        op_names: Names of the operations.
        edges: The two nodes of each edge, `[edges, 2]`; None where the file does not tell.
    """

    name: str
    ops: npt.NDArray[np.int64]
    columns: dict[str, Values]
    op_names: tuple[str, ...]
    edges: npt.NDArray[np.int64] | None

    @cached_property
    def place(self) -> dict[tuple[int, ...], int]:
        """Row of each cell."""
        return {tuple(row): index for index, row in enumerate(self.ops.tolist())}

    @cached_property
    def space(self) -> Space:
        """One option for each edge; the operations that the table has there are its values."""
        return Space(
            [
                Option(f"edge{edge}", [self.op_names[op] for op in np.unique(column)])
                for edge, column in enumerate(self.ops.T)
            ]
        )

    def cell(self, config: object) -> tuple[int, ...]:
        """Return the numbers of the operations of a config or of parameters, `[edges]`."""
        number = {name: op for op, name in enumerate(self.op_names)}
        return tuple(number[config[f"edge{edge}"]] for edge in range(self.ops.shape[1]))  # type: ignore[index]


def read_table(path: Path) -> Table:
    """Read a table.

    Args:
        path: File `.npz`.

    Raises:
        SystemExit: It is not there, lacks `ops`, or has a cell twice.
    """
    if not path.is_file():
        raise SystemExit(f"there is no table {path}")
    with np.load(path, allow_pickle=False) as file:
        held = {name: file[name] for name in file.files}
    if "ops" not in held or held["ops"].ndim != 2:
        raise SystemExit(f"{path} has {sorted(held)}; it needs ops [cells, edges]")
    ops = held["ops"].astype(np.int64)
    if len(np.unique(ops, axis=0)) != len(ops):
        raise SystemExit(f"{path} has a cell more than once; give each cell one row")
    columns = {
        name: column.astype(float)
        for name, column in held.items()
        if column.ndim == 1 and len(column) == len(ops) and np.issubdtype(column.dtype, np.number)
    }
    names = tuple(str(name) for name in held.get("op_names", np.arange(ops.max() + 1)))
    edges = held["edges"].astype(np.int64) if "edges" in held else None
    return Table(path.stem, ops, columns, names, edges)


def one_hot(ops: npt.NDArray[np.int64]) -> Values:
    """Give every operation of every edge a column, `[cells, columns]`."""
    return np.hstack([column[:, None] == np.unique(column) for column in ops.T]).astype(float)


def _encodings_of(table: Table) -> Features | None:
    """Return encodings that know more of the cells of a table; None for those of every space."""
    if table.edges is None or not set(table.op_names) <= set(_KINDS):
        return None
    if any(len(np.unique(column)) != len(table.op_names) for column in table.ops.T):
        return None
    kinds = [_KINDS[name] for name in table.op_names]
    edges = [(int(start), int(end)) for start, end in table.edges]
    return Cells(edges, kinds).encodings()


def error_of(table: Table, column: str) -> Values:
    """Read a column as an error, the smaller the better.

    `min:NAME` takes it as it is and `max:NAME` counts down from 100 (from 1 where no value is above 1);
    without a word in front, a name with `err` or `loss` in it is an error and any other an accuracy.

    Raises:
        SystemExit: There is no such column.
    """
    way, colon, name = column.rpartition(":")
    values = column_of(table, name)
    is_error = way == "min" if colon else any(word in name.lower() for word in ("err", "loss"))
    if is_error:
        return values
    whole = 1.0 if np.nanmax(values) <= 1.0 else 100.0
    return whole - values


def column_of(table: Table, name: str) -> Values:
    """Return a column.

    Raises:
        SystemExit: There is no such column.
    """
    if name not in table.columns:
        raise SystemExit(f"table {table.name} has no column {name!r}; it has {', '.join(table.columns)}")
    return table.columns[name]


class Problem:
    """A table and the columns to make smaller.

    Args:
        name: Its name.
        table: The table.
        values: Objectives, `[cells, objectives]`, the smaller the better. A row that is not finite counts as
            missing.

    Attributes:
        reference: Median of the first objective over the table and 1.1 times the largest of every other one
            on the front, `[objectives]`.
        best: Hypervolume of the true front; of one objective the least value.
    """

    def __init__(self, name: str, table: Table, values: Values) -> None:
        self.name, self.table, self.values = name, table, values
        self.num_objectives = values.shape[1]
        self.encodings = _encodings_of(table)
        whole = values[np.isfinite(values).all(1)]
        self.worst = whole.max(0)
        front = whole[front_of(whole)]
        self.reference = np.array([np.median(whole[:, 0]), *(1.1 * front[:, 1:].max(0))])
        self.best = volume(front, self.reference) if self.num_objectives > 1 else float(whole.min())

    @property
    def space(self) -> Space:
        """The space of the cells."""
        return self.table.space

    def share_of(self, front: Values) -> float:
        """Return the hypervolume of points over that of the true front.

        Args:
            front: Objectives, `[points, objectives]`.
        """
        return volume(front, self.reference) / self.best


def front_of(values: Values) -> npt.NDArray[np.bool_]:
    """Tell which points no other beats, `[points]`; equal points stay together."""
    keep = np.ones(len(values), dtype=bool)
    for index in np.lexsort(values.T[::-1]):
        if keep[index]:
            beaten = (values >= values[index]).all(1) & (values > values[index]).any(1)
            keep &= ~beaten
    return keep


def volume(values: Values, reference: Values) -> float:
    """Return the hypervolume of points (pymoo's, not the one of the package that is measured)."""
    from pymoo.indicators.hv import HV

    return float(HV(ref_point=reference)(values))


class Recorder:
    """Evaluates cells for a method and keeps which ones, in order, each once.

    A combination of operations that the table lacks gets the worst value of every objective and does not
    count.

    Args:
        problem: The problem.
        budget: Different cells that may be evaluated.
        until: Told the cells so far after each new one; ends the method where it says so.
    """

    def __init__(
        self, problem: Problem, budget: int, until: Callable[[Sequence[int]], bool] | None = None
    ) -> None:
        self.problem, self.budget, self.until = problem, min(budget, len(problem.values)), until
        self.order: list[int] = []
        self.calls = 0
        self._seen: set[int] = set()

    def __call__(self, cell: Sequence[int] | npt.NDArray[np.int64]) -> Values:
        """Evaluate a cell.

        Args:
            cell: Number of the operation on each edge.

        Returns:
            Objectives, `[objectives]`.

        Raises:
            EnoughError: That was the last cell of the budget, or the goal is reached, or the method asks for
                known cells only.
        """
        self.calls += 1
        index = self.problem.table.place.get(tuple(int(op) for op in cell))
        missing = index is None or not np.isfinite(self.problem.values[index]).all()
        if not missing and index not in self._seen:
            assert index is not None
            self._seen.add(index)
            self.order.append(index)
            if len(self.order) >= self.budget or (self.until is not None and self.until(self.order)):
                raise EnoughError
        if self.calls >= _REPEATS * self.budget:
            raise EnoughError
        return self.problem.worst if missing else self.problem.values[index]


PROBLEMS = {
    "A": ("c100_test", "lat_ms_help_raspi4"),
    "B": ("c10_test", "lat_ms_help_gold_6226"),
    "pixel3": ("c100_test", "lat_ms_help_pixel3"),
    "pi5": ("c100_test", "lat_ms_hw360_pi5_onnx"),
    "pi5 energy": ("c100_test", "lat_ms_hw360_pi5_onnx", "energy_mj_hw360_pi5_onnx"),
}
"""Columns of the NAS-Bench-201 table: the accuracy, then the costs."""

BEST_CELLS = {"c10": "c10_test", "c100": "c100_test"}
"""Accuracies whose best cell is looked for."""


def problem_of(name: str, table: Table, error: str, costs: Sequence[str]) -> Problem:
    """Return the problem of an error column and columns of costs; no costs for a single objective."""
    columns = [error_of(table, error), *(column_of(table, cost) for cost in costs)]
    return Problem(name, table, np.stack(columns, axis=1))
