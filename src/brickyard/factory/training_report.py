"""The report of a factory's training: curves, quality of known and unseen tasks at each limit, settings.

Needs matplotlib, which only training installs; `mean_quality` does without.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import MissingExtraError
from brickyard.core.files import write_text
from brickyard.core.task import Vocabulary
from brickyard.factory.records import METRIC_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LIMIT = 0.25
_COLORS = ("#1f6feb", "#d1495b", "#2e8b57", "#8b5cf6", "#c77d0a")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid #8884; }
img { max-width: 100%; background: #fff; border-radius: 6px; }
code { font-size: .9em; } small { opacity: .75; }
"""


def task_groups(curve: Mapping[str, Any]) -> dict[str, list[str]]:
    """Sort the tasks of a factory's quality record into groups for tables and curves.

    Args:
        curve: The record, `quality.json`.

    Returns:
        Tasks by `known` and `unseen` for properties, by `all classes` and `N classes` for classes.
    """
    groups: dict[str, list[str]] = {}
    texts = sorted(curve["tasks"], key=lambda text: text.count(","))
    largest = texts[-1] if texts else ""
    for text in texts:
        known = curve["tasks"][text]["known"]
        if known is not None:
            group = "known" if known else "unseen"
        else:
            group = "all classes" if text == largest else f"{text.count(',') + 1} classes"
        groups.setdefault(group, []).append(text)
    return dict(sorted(groups.items())) if {"known", "unseen"} & set(groups) else groups


def mean_quality(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Return the quality at each limit as mean and spread over the tasks of each group.

    Args:
        curve: A factory's quality record.

    Returns:
        `limits`, and by group `tasks` (their number), `mean`, `std`, `lowest` and `macs_share` at each limit.
    """
    groups = {}
    for group, texts in task_groups(curve).items():
        quality = np.array([curve["tasks"][text]["quality"] for text in texts])
        share = np.array([curve["tasks"][text]["macs_share"] for text in texts])
        groups[group] = {
            "tasks": len(texts),
            "mean": quality.mean(0).round(4).tolist(),
            "std": quality.std(0).round(4).tolist(),
            "lowest": quality.min(0).round(4).tolist(),
            "macs_share": share.mean(0).round(4).tolist(),
        }
    return {"limits": list(curve["limits"]), "groups": groups}


def write_training_report(
    folder: Path,
    *,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    curve: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Write `curves.png`, `quality.png`, for properties `pairs.png`, and `report.html`, which holds them all.

    Args:
        folder: The folder `training` of a factory folder; the `vocabulary.json` beside it tells which
            property each word of a pair belongs to.
        name: Name of the factory.
        rows: The log: `stage`, `step`, `loss`, `accuracy`, `open_share`, `seconds`.
        curve: Quality at each limit, by task.
        settings: Settings of the build.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", extra="train") from None
    pictures = {"curves.png": "Training", "quality.png": "Quality at each limit"}
    _curves(Figure(figsize=(10, 3.2), layout="constrained"), rows, folder / "curves.png")
    _quality(Figure(figsize=(7, 3.8), layout="constrained"), curve, folder / "quality.png")
    vocabulary = Vocabulary.from_json((folder.parent / "vocabulary.json").read_text())
    if vocabulary.kind == "properties" and len(vocabulary.groups) > 1:
        _pairs(Figure(figsize=(10, 7), layout="constrained"), curve, vocabulary, folder / "pairs.png")
        pictures["pairs.png"] = f"Pairs of properties at {curve['limits'][_place(curve)]:.0%} of the MACs"
    write_text(
        folder / "report.html",
        _page(folder, name=name, pictures=pictures, rows=rows, curve=curve, settings=settings),
    )


def _metric(curve: Mapping[str, Any]) -> str:
    """Return the metric of a record; those of the first factories do not name theirs."""
    return str(curve.get("metric", "balanced_accuracy"))


def _place(curve: Mapping[str, Any]) -> int:
    """Return the place of the limit nearest to a quarter."""
    return int(np.abs(np.array(curve["limits"]) - _LIMIT).argmin())


def _curves(figure: Figure, rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw loss, accuracy and open share of both stages, one after the other."""
    axes = figure.subplots(1, 3)
    start = 0
    for number, stage in enumerate(dict.fromkeys(str(row["stage"]) for row in rows)):
        chosen = [row for row in rows if row["stage"] == stage]
        steps = [start + int(row["step"]) for row in chosen]
        for axis, key in zip(axes, ("loss", "accuracy", "open_share"), strict=True):
            axis.plot(
                steps, [float(row[key]) for row in chosen], color=_COLORS[number], label=stage, linewidth=1.2
            )
        start = steps[-1]
    for axis, title in zip(axes, ("loss", "accuracy", "open share of the bricks"), strict=True):
        _dress(axis, title, "step")
    axes[0].set_yscale("log")
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=90)


def _quality(figure: Figure, curve: Mapping[str, Any], file: Path) -> None:
    """Draw mean and spread of the quality over the limit, for each group of tasks."""
    axis = figure.subplots()
    means = mean_quality(curve)
    limits = 100 * np.array(means["limits"])
    for number, (group, row) in enumerate(means["groups"].items()):
        mean, std, color = np.array(row["mean"]), np.array(row["std"]), _COLORS[number % len(_COLORS)]
        axis.plot(
            limits, mean, marker="o", markersize=4, color=color, label=f"{group} ({row['tasks']} tasks)"
        )
        axis.fill_between(limits, mean - std, np.minimum(1, mean + std), color=color, alpha=0.15, linewidth=0)
    _dress(axis, "mean over tasks, band: one standard deviation", "limit, % of the whole network's MACs")
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=90)


def _dress(axis: Axes, title: str, x_label: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x_label, fontsize=9)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _pairs(figure: Figure, curve: Mapping[str, Any], vocabulary: Vocabulary, file: Path) -> None:
    """Draw a heat map for every two properties; unseen pairs are framed."""
    from matplotlib.patches import Rectangle

    pairs = list(combinations(vocabulary.groups, 2))
    columns = min(3, len(pairs))
    axes = np.atleast_1d(figure.subplots(-(-len(pairs) // columns), columns)).ravel()
    place, least = _place(curve), 0.0 if _metric(curve) == "ap50" else 0.5
    picture = None
    for axis, (rows, across) in zip(axes, pairs, strict=False):
        values, unseen = _grid(curve, vocabulary, rows, across, place)
        picture = axis.imshow(values, vmin=least, vmax=1.0, cmap="viridis", aspect="auto")
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            color = "white" if value < 0.4 * least + 0.6 else "black"
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color)
        for row, column in np.argwhere(unseen):
            axis.add_patch(
                Rectangle(
                    (column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#ff2d55", linewidth=1.8
                )
            )
        axis.set_xticks(range(values.shape[1]), vocabulary.groups[across], fontsize=7, rotation=30)
        axis.set_yticks(range(values.shape[0]), vocabulary.groups[rows], fontsize=7)
    for axis in axes[len(pairs) :]:
        axis.set_visible(False)
    if picture is not None:
        figure.colorbar(picture, ax=list(axes), shrink=0.6, label=METRIC_NAMES[_metric(curve)])
    title = f"{METRIC_NAMES[_metric(curve)]} in %; red frames: combinations that were never trained"
    figure.suptitle(title, fontsize=10)
    figure.savefig(file, dpi=90)


def _grid(
    curve: Mapping[str, Any], vocabulary: Vocabulary, rows: str, columns: str, place: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return quality and whether unseen for each pair of words of two properties; NaN where not tested."""
    shape = (len(vocabulary.groups[rows]), len(vocabulary.groups[columns]))
    values, unseen = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    for number, task in enumerate(vocabulary.combinations(rows, columns)):
        tested = curve["tasks"].get(task.text)
        if tested is not None:
            cell = np.unravel_index(number, shape)
            values[cell], unseen[cell] = tested["quality"][place], tested["known"] is False
    return values, unseen


def _page(
    folder: Path,
    *,
    name: str,
    pictures: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    curve: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> str:
    means = mean_quality(curve)
    head = "".join(f"<th>{limit:.0%}</th>" for limit in means["limits"])
    body = ""
    for group, row in means["groups"].items():
        pairs = zip(row["mean"], row["std"], row["lowest"], strict=True)
        cells = "".join(f"<td>{m:.3f} <small>± {s:.3f}, from {low:.3f}</small></td>" for m, s, low in pairs)
        body += f"<tr><td>{group}, {row['tasks']} tasks</td>{cells}</tr>"
        shares = "".join(f"<td><small>{share:.1%}</small></td>" for share in row["macs_share"])
        body += f"<tr><td><small>share of the MACs that was used</small></td>{shares}</tr>"
    parts = [
        f"<h1>{html.escape(name)}</h1><p>Report of a factory's training. {_spent(rows)}</p>",
        f"<h2>Quality at each limit</h2><table><tr><th>limit</th>{head}</tr>{body}</table>",
        f"<p><small>Up to {curve['examples']} held-out pictures per task, run through ONNX Runtime; mean ± "
        "standard deviation over tasks, and the worst task.</small></p>",
    ]
    for file, title in pictures.items():
        content = base64.b64encode((folder / file).read_bytes()).decode()
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{content}"/>')
    unseen = task_groups(curve).get("unseen")
    if unseen:
        parts.append(f"<h2>Never trained</h2><p>{html.escape('; '.join(unseen))}</p>")
    text = html.escape(json.dumps(settings, indent=1))
    parts.append(f"<h2>Settings</h2><pre><code>{text}</code></pre>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{html.escape(name)}: training</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _spent(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tell steps and minutes of each stage."""
    told = []
    for stage in dict.fromkeys(str(row["stage"]) for row in rows):
        chosen = [row for row in rows if row["stage"] == stage]
        minutes = sum(float(row["seconds"]) for row in chosen) / 60
        told.append(f"Stage {stage}: {int(chosen[-1]['step']):,} steps, {minutes:.1f} minutes.")
    return html.escape(" ".join(told))
