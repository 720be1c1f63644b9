"""A table of measured networks as a super-network: nothing is trained, an evaluation is a look into a row.

The layout is that of tabular benchmarks such as NAS-Bench-201 (arXiv 2001.00326) in an npz file: `ops`, an
integer `[N, columns]` that says what each point is, and any number of columns `[N]` that say what it reaches.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.config import Config
from brickyard.core.decision import Option
from brickyard.core.errors import ConfigError, DataError
from brickyard.core.space import Space


class Table:
    """A complete table: each combination of operations has one row.

    The decisions are the columns of `ops`: an `Option` named `op0`, `op1` and so on, whose values are names
    of operations, or their numbers as text where there are no names.

    Args:
        ops: Integers `[N, columns]`, one row for each point.
        columns: What was measured or is known, each `[N]`, numbers or texts.
        op_names: Name of operation 0, 1 and so on.

    Raises:
        DataError: `ops` has another type or shape, a column another length, an operation has no name, two
            rows are of the same point, or combinations are missing.
    """

    def __init__(
        self,
        ops: npt.NDArray[Any],
        columns: Mapping[str, npt.NDArray[Any]],
        *,
        op_names: Sequence[str] | None = None,
    ) -> None:
        if ops.ndim != 2 or not np.issubdtype(ops.dtype, np.integer) or not ops.size:
            raise DataError(f"ops is {ops.dtype} {list(ops.shape)}; a table needs integers [points, columns]")
        for name, column in columns.items():
            if column.shape != (len(ops),):
                raise DataError(f"column {name!r} is {list(column.shape)}; this table has {len(ops)} rows")
        if op_names is not None and not 0 <= ops.min() <= ops.max() < len(op_names):
            raise DataError(
                f"ops go from {ops.min()} to {ops.max()}, but op_names has {len(op_names)} names, from 0 on"
            )
        self.columns = dict(columns)
        self.space = Space(_decision(place, ops[:, place], op_names) for place in range(ops.shape[1]))
        self._rows: dict[tuple[str, ...], int] = {}
        for row, point in enumerate(ops.tolist()):
            key = tuple(_text(op, op_names) for op in point)
            if self._rows.setdefault(key, row) != row:
                raise DataError(f"rows {self._rows[key]} and {row} are both of {key}; keep one of them")
        whole = prod(decision.size for decision in self.space)
        if len(self._rows) != whole:
            raise DataError(
                f"the table has {len(self._rows)} of the {whole} combinations of its operations; a search "
                "needs all of them"
            )

    @classmethod
    def load(cls, path: Path | str) -> Table:
        """Read a table.

        Args:
            path: An npz file with `ops`, perhaps `op_names`, and columns; arrays of other shapes are ignored.

        Raises:
            DataError: It is no such file, or the table is malformed.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a table: {error}; expected an npz file with ops") from None
        if "ops" not in arrays:
            raise DataError(f"{path} has no array ops [points, columns]; it has {sorted(arrays)}")
        ops, names = arrays.pop("ops"), arrays.pop("op_names", None)
        columns = {name: array for name, array in arrays.items() if array.shape == ops.shape[:1]}
        return cls(ops, columns, op_names=None if names is None else [str(name) for name in names])

    def measuring(self, **columns: str) -> Table:
        """Return a table of these columns alone, under the names of objectives.

        Args:
            columns: A column for each name, such as `accuracy="c10_test"`.

        Raises:
            ConfigError: There is no such column, or it does not hold numbers.
        """
        for column in columns.values():
            if column not in self.columns:
                near = get_close_matches(column, self.columns, n=3) or sorted(self.columns)
                raise ConfigError(
                    f"column {column!r} is not in the table; nearest: {near}",
                    path="columns",
                    value=column,
                    allowed=sorted(self.columns),
                )
            if not _is_number(self.columns[column]):
                raise ConfigError(
                    f"column {column!r} holds {self.columns[column].dtype}, no numbers; numbers are in "
                    f"{[name for name, values in self.columns.items() if _is_number(values)]}",
                    path="columns",
                    value=column,
                )
        chosen = object.__new__(type(self))
        chosen.space, chosen._rows = self.space, self._rows
        chosen.columns = {name: self.columns[column] for name, column in columns.items()}
        return chosen

    def row(self, config: Mapping[str, Any]) -> int:
        """Return the number of a config's row.

        Raises:
            ConfigError: The config is not legal.
        """
        return self._rows[tuple(self.space.check(config).values())]

    def evaluate(self, config: Config) -> dict[str, float]:
        """Return the numbers of a config's row, by column.

        Raises:
            ConfigError: The config is not legal.
        """
        row = self.row(config)
        return {name: float(column[row]) for name, column in self.columns.items() if _is_number(column)}

    def extract(self, config: Config) -> dict[str, Any]:
        """Return the whole row of a config, texts too, and its number as `row`.

        Raises:
            ConfigError: The config is not legal.
        """
        row = self.row(config)
        return {"row": row, **{name: column[row].item() for name, column in self.columns.items()}}


def _is_number(column: npt.NDArray[Any]) -> bool:
    return np.issubdtype(column.dtype, np.number) and not np.issubdtype(column.dtype, np.complexfloating)


def _text(op: int, names: Sequence[str] | None) -> str:
    return str(op) if names is None else names[op]


def _decision(place: int, ops: npt.NDArray[Any], names: Sequence[str] | None) -> Option:
    return Option(f"op{place}", [_text(op, names) for op in np.unique(ops).tolist()])
