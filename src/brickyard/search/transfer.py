"""Transfer: what an earlier study of the same space, on another device or task, tells of this one.

What it measured joins the measurements of this study: first brought to the scale of this study by a
straight line through the points that both measured, then told apart by one more feature, whose length scale
the Gaussian process fits. So an objective that is the same in both studies is known from the start where the
earlier one measured it, and one that is merely alike is corrected as evaluations come (a multi-task Gaussian
process with one length scale for the task).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brickyard.core.errors import ConfigError
from brickyard.search.fronts import non_dominated
from brickyard.search.genes import Genes, Rows
from brickyard.search.objective import Limit, Objective
from brickyard.search.predictors.base import Array

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_PAIRS = 4  # points that both studies measured, for a line through them


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """One objective of an earlier study.

    Attributes:
        rows: Genes of its points, `[points, columns]`, each once.
        values: What it measured, `[points]`, the smaller the better.
    """

    rows: Rows
    values: Array

    def together_with(self, rows: Rows, values: Array) -> tuple[Rows, Array]:
        """Put the points of a study before those of the earlier one, whose values are brought to its scale.

        Args:
            rows: Genes of the study, `[points, columns]`.
            values: What it measured, `[points]`.

        Returns:
            Genes and values of all, those of the study first.
        """
        places = {row.tobytes(): place for place, row in enumerate(self.rows)}
        pairs = [
            (self.values[places[row.tobytes()]], value)
            for row, value in zip(rows, values, strict=True)
            if row.tobytes() in places
        ]
        old, new = np.array(pairs).reshape(-1, 2).T
        if len(old) < _PAIRS or np.ptp(old) == 0.0:
            old, new = self.values, values
            slope = new.std() / (old.std() or 1.0)
        else:
            slope = np.polyfit(old, new, 1)[0]
        brought = new.mean() + slope * (self.values - old.mean())
        return np.vstack([rows, self.rows]), np.concatenate([values, brought])


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
class Known:
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

    def front(self, num_objectives: int, count: int) -> list[int]:
        """Return points that no other beats in the objectives that it measured, spread along the front.

        Args:
            num_objectives: Number of objectives; what follows are constraints.
            count: How many at most.

        Returns:
            Their indices.
        """
        told = [found for found in self.values[:num_objectives] if found is not None]
        bounds = [found for found in self.values[num_objectives:] if found is not None]
        met = np.flatnonzero(np.all([np.ones(len(told[0]), dtype=bool), *(b <= 0 for b in bounds)], axis=0))
        values = np.stack(told, axis=1)[met]
        best = np.flatnonzero(non_dominated(values))
        best = best[np.argsort(values[best, -1], kind="stable")]
        spread = np.linspace(0, len(best) - 1, min(count, len(best))).round().astype(int)
        return [int(place) for place in met[best[spread]]]


def known_of(
    params: Sequence[Mapping[str, Any]],
    metrics: Sequence[Mapping[str, float]],
    *,
    objectives: Sequence[Objective],
    limits: Sequence[Limit],
) -> Known:
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
    return Known(params=tuple(params), values=(*signed, *excess))
