"""Genes: the points of a search space as rows of numbers.

A search space is what Optuna knows it as, a distribution for each parameter. A gene is the index of a value
where a parameter has few values, and a number in [0, 1] where it has many or is continuous. Everything behind
this file (encodings, predictors, candidates) sees genes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Rows = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_MOST_VALUES = 64  # a parameter with more values is treated as continuous and rounded


@dataclass(frozen=True)
class Gene:
    """One column of genes.

    Attributes:
        name: Name of the parameter.
        values: Its values in order; empty where the gene is a number in [0, 1].
        ordered: Whether the order of the values means something.
    """

    name: str
    values: tuple[Any, ...]
    ordered: bool

    @property
    def size(self) -> int:
        """Number of values, 0 where the gene is continuous."""
        return len(self.values)


class Rests(Protocol):
    """Tells which genes play no part; see `brickyard.search.idle`."""

    def __call__(self, rows: Rows) -> Mask:
        """Tell which genes play no part, `[points, columns]`."""

    def settled(self, rows: Rows) -> Rows:
        """Return the points with idle genes at rest, `[points, columns]`."""


class Genes:
    """Translates between parameters and rows of genes.

    Rows are settled: points that compute the same have the same genes, as far as that is known.

    Args:
        search_space: Distribution of each parameter (Optuna's).

    Attributes:
        idle: Tells which genes play no part in a point; None where all of them do.
    """

    idle: Rests | None = None

    def __init__(self, search_space: Mapping[str, BaseDistribution]) -> None:
        self._distributions = dict(search_space)
        self.columns = tuple(_gene(name, found) for name, found in self._distributions.items())
        self._places = [{_key(value): place for place, value in enumerate(g.values)} for g in self.columns]
        self.sizes = np.array([gene.size for gene in self.columns])

    @property
    def count(self) -> int | None:
        """Number of points; None where a parameter is continuous."""
        if not self.columns or (self.sizes == 0).any():
            return None
        return int(np.prod([int(size) for size in self.sizes], dtype=object))

    def rows(self, params: Sequence[Mapping[str, Any]]) -> Rows:
        """Turn parameters into genes.

        Args:
            params: Values of each point.

        Returns:
            Genes `[points, columns]`.

        Raises:
            ConfigError: A point lacks a parameter, or has a value that its distribution does not know.
        """
        found = np.empty((len(params), len(self.columns)))
        for row, point in enumerate(params):
            for column, gene in enumerate(self.columns):
                if gene.name not in point:
                    raise ConfigError(f"point {dict(point)!r} lacks {gene.name!r}", path=gene.name)
                found[row, column] = self._number(column, point[gene.name])
        return self.settled(found)

    def params(self, row: npt.NDArray[np.float64]) -> dict[str, Any]:
        """Turn one row of genes into parameters."""
        return {
            gene.name: gene.values[int(number)] if gene.size else self._value(gene.name, float(number))
            for gene, number in zip(self.columns, row, strict=True)
        }

    def draw(self, count: int, rng: np.random.Generator) -> Rows:
        """Draw points uniformly.

        Args:
            count: Number of points.
            rng: Source of the draw.

        Returns:
            Genes `[count, columns]`.
        """
        numbers = rng.random((count, len(self.columns)))
        return self.settled(np.where(self.sizes > 0, np.floor(numbers * self.sizes), numbers))

    def all(self) -> Rows:
        """Return every point, `[points, columns]`; of those that compute the same, one.

        Raises:
            ConfigError: A parameter is continuous.
        """
        if self.count is None:
            raise ConfigError("a space with continuous parameters has no list of all points")
        grid = np.indices(tuple(self.sizes)).reshape(len(self.columns), -1)
        rows = grid.T.astype(float)
        return rows if self.idle is None else np.unique(self.settled(rows), axis=0)

    def settled(self, rows: Rows) -> Rows:
        """Return points with idle genes at rest, `[points, columns]`."""
        return rows if self.idle is None else self.idle.settled(rows)

    def active(self, rows: Rows) -> Mask:
        """Tell which genes play a part, `[points, columns]`."""
        return np.ones(rows.shape, dtype=bool) if self.idle is None else ~self.idle(rows)

    def _number(self, column: int, value: Any) -> float:
        gene = self.columns[column]
        if gene.size:
            place = self._places[column].get(_key(value))
            if place is None:
                raise ConfigError(
                    f"{gene.name} = {value!r} is not in the space; allowed: {list(gene.values)}",
                    path=gene.name,
                    value=value,
                    allowed=list(gene.values),
                )
            return float(place)
        low, high, log = self._range(gene.name)
        number = np.log(float(value)) if log else float(value)
        return float((number - low) / (high - low)) if high > low else 0.0

    def _range(self, name: str) -> tuple[float, float, bool]:
        found: Any = self._distributions[name]
        if found.log:
            return float(np.log(found.low)), float(np.log(found.high)), True
        return float(found.low), float(found.high), False

    def _value(self, name: str, number: float) -> Any:
        from optuna.distributions import IntDistribution

        low, high, log = self._range(name)
        found: Any = self._distributions[name]
        value = low + number * (high - low)
        value = float(np.exp(value)) if log else value
        if found.step is not None and not log:
            value = found.low + round((value - found.low) / found.step) * found.step
        if isinstance(found, IntDistribution):
            return int(min(max(round(value), found.low), found.high))
        return float(min(max(value, found.low), found.high))


def _key(value: Any) -> tuple[str, Any]:
    """Tell True from 1 and 1 from 1.0, which compare equal."""
    return type(value).__name__, value


def _gene(name: str, distribution: BaseDistribution) -> Gene:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        values = tuple(distribution.choices)
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return Gene(name, values, ordered=numeric and list(values) == sorted(values))  # type: ignore[type-var]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log or step is None or (high - low) / step + 1 > _MOST_VALUES:
        return Gene(name, (), ordered=True)
    count = round((high - low) / step) + 1
    values = tuple(low + place * step for place in range(count))
    return Gene(name, values, ordered=True)
