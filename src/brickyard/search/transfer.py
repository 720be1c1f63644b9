"""Transfer: what an earlier study of the same space, on another device or task, tells of this one.

Per objective, by the points that both studies measured (at least four; else the earlier one is left aside):

- Where both measured the same numbers, such as an error on two devices, every point that the earlier study
  measured is known.
- Where they differ, what the earlier study measured is brought to the scale of this one by a straight line
  and learnt from together with what this one measured; one more feature tells the studies apart, and its
  length scale says how far they are (a Gaussian process of two tasks). So an objective that is alike, such as
  a latency on two devices, is corrected as evaluations come, and one that is not is forgotten.

Until a quarter as many points are measured as the earlier study has, proposals come from among its points:
those are what it found worth measuring, and they are known best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ConfigError
from brickyard.search.fronts import hypervolume, non_dominated
from brickyard.search.genes import Genes, Rows
from brickyard.search.objective import Limit, Objective
from brickyard.search.predictors.base import Array, Together

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_CERTAIN = 1e-9
_SAME = 1e-9  # of the range of an objective: what differs by less does not differ
_PAIRS = 4
_AGAIN_SHARE = 0.25
_MARGIN = 0.1  # of the range of a front, by which its reference point is worse


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """One objective of an earlier study.

    Attributes:
        rows: Genes of its points, `[points, columns]`, each once.
        values: What it measured, `[points]`, the smaller the better.
    """

    rows: Rows
    values: Array

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {row.tobytes(): place for place, row in enumerate(self.rows)}

    def places(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return where points are among those of the study, -1 where it did not measure them."""
        rows = np.ascontiguousarray(rows, dtype=float)
        return np.array([self._places.get(row.tobytes(), -1) for row in rows], dtype=np.int64)

    def bridge(self, rows: Rows, values: Array) -> Bridge | None:
        """Compare with this study.

        Args:
            rows: Genes of this study, `[points, columns]`.
            values: What it measured, `[points]`.

        Returns:
            How to learn from both; None where they share too few points to tell.
        """
        places = self.places(rows)
        shared = places >= 0
        old, new = self.values[places[shared]], values[shared]
        if len(old) < _PAIRS:
            return None
        if np.abs(new - old).max() <= _SAME * np.ptp(self.values):
            return Bridge(self, self.values, same=True)
        slope = np.polyfit(old, new, 1)[0] if np.ptp(old) > 0 else 0.0
        return Bridge(self, new.mean() + slope * (self.values - old.mean()), same=False)


def told_first(earlier: Sequence[Earlier], count: int) -> Rows:
    """Return the points of an earlier study that are worth measuring before any others.

    Args:
        earlier: The objectives that it measured.
        count: Points that this study measured.

    Returns:
        Genes `[points, columns]`; none once a quarter as many are measured as the earlier study has.
    """
    if not earlier or count >= _AGAIN_SHARE * len(earlier[0].rows):
        return np.zeros((0, earlier[0].rows.shape[1] if earlier else 0))
    return earlier[0].rows


class Bridge:
    """From an earlier study to this one, for one objective.

    Args:
        earlier: The earlier study.
        values: Its values on the scale of this study, `[points]`.
        same: Whether both measure the same numbers.
    """

    def __init__(self, earlier: Earlier, values: Array, *, same: bool) -> None:
        self.earlier, self.values, self.same = earlier, values, same

    def joined(self, rows: Rows, values: Array) -> tuple[Rows, Array]:
        """Put the points of this study before those of the earlier one, each once if both measure the same.

        Args:
            rows: Genes of this study, `[points, columns]`.
            values: What it measured, `[points]`.

        Returns:
            Genes and values.
        """
        more = np.ones(len(self.values), dtype=bool)
        if self.same:
            places = self.earlier.places(rows)
            more[places[places >= 0]] = False
        return np.vstack([rows, self.earlier.rows[more]]), np.concatenate([values, self.values[more]])

    def features(self, features: Array, own: int) -> Array:
        """Tell the studies apart where they differ.

        Args:
            features: Features of points, `[points, width]`.
            own: How many of them are of this study; the others come after.
        """
        if self.same:
            return features
        return np.hstack([features, (np.arange(len(features)) < own)[:, None].astype(float)])

    def known(self, rows: Rows) -> tuple[npt.NDArray[np.bool_], Array]:
        """Tell which points are known without measuring them, and their values (elsewhere any)."""
        places = self.earlier.places(rows)
        return (places >= 0) & self.same, self.values[places]


class Certain:
    """Predictions that are certain at some points.

    Args:
        found: Predictions, which are changed.
        known: Where they are certain, `[points]`.
        values: The values there, `[points]`.
    """

    def __init__(self, found: Together, known: npt.NDArray[np.bool_], values: Array) -> None:
        self._found, self._known = found, known
        self.mean = np.where(known, values, found.mean)

    @property
    def deviation(self) -> Array:
        """Standard deviations, `[points]`."""
        return np.where(self._known, _CERTAIN, self._found.deviation)

    def suppose(self, index: int) -> None:
        """Take the value of a point as known; that of a certain one tells nothing new of the others."""
        if not self._known[index]:
            self._found.suppose(index)


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Which earlier study a search learns from.

    Attributes:
        storage: Its storage, see `brickyard.search.storage.open_storage`.
        name: Its name there.
    """

    storage: str | Path | BaseStorage
    name: str = "search"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What an earlier study measured, as `LinasSampler` learns from it.

    Attributes:
        params: Parameters of its points.
        values: What it measured of each objective, then of each constraint, of this study, `[points]` each,
            the smaller the better; None of what it did not measure.
    """

    params: tuple[Mapping[str, Any], ...]
    values: tuple[Array | None, ...]

    def earlier(self, genes: Genes) -> list[Earlier | None]:
        """Return each objective and constraint as models learn from it.

        Args:
            genes: The space.

        Raises:
            ConfigError: A point is not of the space.
        """
        rows, places = np.unique(genes.rows(self.params), axis=0, return_index=True)
        return [None if found is None else Earlier(rows=rows, values=found[places]) for found in self.values]

    def front(
        self, num_objectives: int, count: int, reference: Sequence[float | None] | None = None
    ) -> list[int]:
        """Return points that no other beats in the objectives that it measured.

        Where the front has more than are asked for, they are those that together dominate most, taken one
        after the other. Points that break a constraint, or are worse than the reference, are left out, unless
        all are: a bound for another device may be out of reach of this one.

        Args:
            num_objectives: Number of objectives; what follows are constraints.
            count: How many at most.
            reference: Worst values that count, one for each objective, the smaller the better; None, for one
                or for all, to follow from the front.

        Returns:
            Their indices, those that dominate most first.
        """
        objectives = zip(self.values[:num_objectives], reference or [None] * num_objectives, strict=True)
        told = [(found, edge) for found, edge in objectives if found is not None]
        bounds = [found <= 0 for found in self.values[num_objectives:] if found is not None]
        bounds += [found < edge for found, edge in told if edge is not None]
        met = np.flatnonzero(np.all([np.ones(len(told[0][0]), dtype=bool), *bounds], axis=0))
        if not len(met):
            met = np.arange(len(told[0][0]))
        values = np.stack([found for found, _ in told], axis=1)[met]
        best = np.flatnonzero(non_dominated(values))
        front = values[best]
        worst = front.max(0) + _MARGIN * np.where(np.ptp(front, axis=0) > 0, np.ptp(front, axis=0), 1.0)
        edges = [low if edge is None else max(low, edge) for low, (_, edge) in zip(worst, told, strict=True)]
        return [int(place) for place in met[best[_dominating(front, np.array(edges), count)]]]


def _dominating(front: Array, reference: Array, count: int) -> list[int]:
    """Return the points of a front that dominate most below a reference point, chosen one after the other.

    What a point adds to others never grows with their number, so what it added before is a bound for what it
    adds now, and only points whose bound leads are looked at again.
    """
    chosen: list[int] = []
    whole, bounds = 0.0, np.full(len(front), np.inf)
    while len(chosen) < min(count, len(front)):
        while True:
            place = int(np.argmax(bounds))
            gain = hypervolume(front[[*chosen, place]], reference) - whole
            if gain >= np.delete(bounds, place).max(initial=-np.inf):
                break
            bounds[place] = gain
        whole += gain
        bounds[place] = -np.inf
        chosen.append(place)
    return chosen


def lesson_of(
    params: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, float]],
    *,
    objectives: Sequence[Objective],
    limits: Sequence[Limit],
) -> Lesson:
    """Sort what an earlier study measured by the objectives and limits of this one, by name.

    A name up to its `@` will do where the whole name is not there: `latency_ms@pi4` tells of
    `latency_ms@pixel3`. What names no device tells of every device.

    Args:
        params: Parameters of its points.
        metrics: What it measured of each.
        objectives: Objectives of this study.
        limits: Limits of this study.

    Raises:
        ConfigError: It measured none of the objectives.
    """
    shared = [name for name in (metrics[0] if metrics else ()) if all(name in found for found in metrics)]

    def column(name: str) -> Array | None:
        like = [other for other in shared if other.partition("@")[0] == name.partition("@")[0]]
        source = name if name in shared else (like[0] if like else None)
        return None if source is None else np.array([found[source] for found in metrics], dtype=float)

    values = [column(objective.name) for objective in objectives]
    if not any(found is not None for found in values):
        raise ConfigError(
            f"the earlier study measured {sorted(shared)}, none of the objectives "
            f"{[objective.name for objective in objectives]}; a warm start needs one of the same name",
            path="warm_start",
            value=sorted(shared),
            allowed=[objective.name for objective in objectives],
        )
    signed = [
        found if found is None or not objective.maximize else -found
        for objective, found in zip(objectives, values, strict=True)
    ]
    bounds = [column(limit.name) for limit in limits]
    excess = [
        None if found is None else np.array([limit.excess(float(value)) for value in found])
        for limit, found in zip(limits, bounds, strict=True)
    ]
    return Lesson(params=tuple(params), values=(*signed, *excess))
