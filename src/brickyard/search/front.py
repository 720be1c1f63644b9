"""The result of a search: the front, all that was measured, and pictures of both."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brickyard.core.errors import MissingExtraError
from brickyard.core.files import json_bytes, new_folder, write_bytes
from brickyard.search.fronts import Values, hypervolume, non_dominated
from brickyard.search.objective import Limit, Objective
from brickyard.search.predictors.select import Quality, judge
from brickyard.search.study import Found

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """How a predictor did on points it was not fitted to.

    Attributes:
        objective: Name of the objective.
        quality: The predictor, the encoding and its figures.
        measured: Measured values, `[points]`.
        predicted: Predictions, `[points]`.
    """

    objective: str
    quality: Quality
    measured: Values
    predicted: Values


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a search found.

    Attributes:
        name: Name of the study.
        objectives: The objectives.
        limits: The limits.
        points: Every evaluated point, in order.
        predicted: Predictions of each objective on held-out points; none where there are too few points.
    """

    name: str
    objectives: tuple[Objective, ...]
    limits: tuple[Limit, ...]
    points: tuple[Found, ...]
    predicted: tuple[Predicted, ...] = ()

    def values(self, points: Sequence[Found]) -> Values:
        """Return objectives, all of them the smaller the better, `[points, objectives]`."""
        rows = [
            [-p.metrics[o.name] if o.maximize else p.metrics[o.name] for o in self.objectives] for p in points
        ]
        return np.array(rows, dtype=float).reshape(len(points), len(self.objectives))

    @property
    def front(self) -> tuple[Found, ...]:
        """The feasible points that no other beats, ordered by the last objective, the best of it first."""
        feasible = [point for point in self.points if point.feasible]
        values = self.values(feasible)
        places = np.flatnonzero(non_dominated(values))
        return tuple(feasible[place] for place in places[np.argsort(values[places, -1], kind="stable")])

    def hypervolumes(self, reference: Sequence[float] | None = None) -> Values:
        """Return the hypervolume after each evaluation, `[points]`.

        Args:
            reference: Worst value of each objective that counts; the worst that was measured if None.
        """
        if reference is None:
            worst = self.values(self.points).max(0)
        else:
            signs = np.array([-1.0 if objective.maximize else 1.0 for objective in self.objectives])
            worst = np.array(reference) * signs
        found: list[float] = []
        best = np.zeros((0, len(self.objectives)))
        for point, value in zip(self.points, self.values(self.points), strict=True):
            if point.feasible:
                best = np.vstack([best, value])
                best = best[non_dominated(best)]
            found.append(hypervolume(best, worst))
        return np.array(found)

    def write(self, folder: Path) -> None:
        """Write `front.csv`, `front.json`, `evaluations.csv` and pictures.

        Args:
            folder: Folder to make; must not exist.

        Raises:
            ArtifactError: The folder exists.
            MissingExtraError: matplotlib is not installed.
        """
        files = self.files()
        with new_folder(folder) as target:
            for name, content in files.items():
                write_bytes(target / name, content)

    def files(self) -> dict[str, bytes]:
        """Return the content of what `write` writes, by name of the file.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return {
            "front.csv": _table(self.front).encode(),
            "evaluations.csv": _table(self.points).encode(),
            "front.json": json_bytes(self.to_json()),
            **self._pictures(),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the front as JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "study": self.name,
            "objectives": [{"name": o.name, "maximize": o.maximize} for o in self.objectives],
            "limits": [{"name": m.name, "bound": m.bound, "at_least": m.at_least} for m in self.limits],
            "evaluations": len(self.points),
            "front": [
                {
                    "number": p.number,
                    "config": dict(p.config),
                    "metrics": dict(p.metrics),
                    "measurements": len(p.measurements),
                }
                for p in self.front
            ],
            "predictors": [{"objective": p.objective, **vars(p.quality)} for p in self.predicted],
        }

    def _pictures(self) -> dict[str, bytes]:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtraError("matplotlib", extra="search") from None

        pictures: dict[str, bytes] = {}

        def draw(name: str, count: int, fill: Any) -> None:
            figure = Figure(figsize=(5.0 * count, 4.0), layout="constrained")
            fill(np.atleast_1d(figure.subplots(1, count)))
            held = io.BytesIO()
            figure.savefig(held, format="png", dpi=110, metadata={"Software": None})
            pictures[name] = held.getvalue()

        draw("front.png", max(1, len(self.objectives) - 1), self._draw_front)
        draw("hypervolume.png", 1, lambda axes: self._draw_hypervolume(axes[0]))
        if self.predicted:
            draw("predictions.png", len(self.predicted), self._draw_predictions)
        return pictures

    def _draw_front(self, axes: Sequence[Axes]) -> None:
        names = [objective.name for objective in self.objectives]
        front = self.front
        for axis, name in zip(axes, names[1:] or ["evaluation"], strict=True):
            for points, label, style in ((self.points, "evaluated", "."), (front, "front", "o")):
                across = [p.number if name == "evaluation" else p.metrics[name] for p in points]
                axis.plot(across, [p.metrics[names[0]] for p in points], style, label=label)
            axis.set(xlabel=name, ylabel=names[0], title=f"{len(self.points)} evaluations")
            axis.legend()

    def _draw_hypervolume(self, axis: Axes) -> None:
        found = self.hypervolumes()
        axis.plot(np.arange(1, len(found) + 1), found)
        axis.set(xlabel="evaluations", ylabel="hypervolume", title="reference: the worst that was measured")

    def _draw_predictions(self, axes: Sequence[Axes]) -> None:
        for axis, part in zip(axes, self.predicted, strict=True):
            axis.plot(part.measured, part.predicted, ".")
            low, high = float(part.measured.min()), float(part.measured.max())
            axis.plot([low, high], [low, high], linewidth=1)
            quality = part.quality
            correlation = f"rank correlation {quality.rank_correlation:.2f}"
            axis.set(
                xlabel=f"{part.objective}, measured",
                ylabel="predicted without it",
                title=f"{quality.predictor} on {quality.encoding}: {correlation}",
            )


def _table(points: Sequence[Found]) -> str:
    held = io.StringIO()
    metrics = sorted({name for point in points for name in point.metrics})
    names = list(points[0].config) if points else []
    writer = csv.writer(held, lineterminator="\n")
    writer.writerow(["place", "number", "feasible", *metrics, *names])
    for place, point in enumerate(points):
        numbers = [point.metrics.get(name, "") for name in metrics]
        chosen = [_cell(value) for value in point.config.values()]
        writer.writerow([place, point.number, point.feasible, *numbers, *chosen])
    return held.getvalue()


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def held_out_quality(
    objective: str, *, measured: Values, predicted: Values, predictor: str, encoding: str, seed: int
) -> Predicted:
    """Sum up predictions of an objective on held-out points.

    Args:
        objective: Its name.
        measured: Measured values, `[points]`.
        predicted: Predictions, `[points]`.
        predictor: Name of the predictor.
        encoding: Name of the encoding.
        seed: Seed of the intervals.
    """
    quality = judge(predicted, measured, predictor=predictor, encoding=encoding, seed=seed)
    return Predicted(objective=objective, quality=quality, measured=measured, predicted=predicted)
