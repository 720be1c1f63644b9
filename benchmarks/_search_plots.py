"""Pictures of the benchmark of searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _record import Row
from _search_runs import read_curves
from _search_tables import LEVELS


def _slug(name: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in name.lower())


def draw_curves(folder: Path) -> list[Path]:
    """Draw median and quartiles of the hypervolume over the cells evaluated, a picture for each problem.

    Args:
        folder: Where the curves lie and the pictures go.

    Returns:
        The pictures.
    """
    from matplotlib.figure import Figure

    curves = read_curves(folder)
    paths = []
    for problem in dict.fromkeys(name for name, _ in curves):
        figure = Figure(figsize=(7.0, 4.5), layout="constrained")
        axis = figure.subplots()
        for (name, arm), (step, held) in curves.items():
            if name == problem:
                longest = max(len(values) for values in held)
                # a run that ended early keeps what it had: it had seen every cell or reached its last level
                filled = np.array([np.pad(values, (0, longest - len(values)), "edge") for values in held])
                low, middle, high = np.quantile(filled, [0.25, 0.5, 0.75], axis=0)
                across = step * np.arange(1, longest + 1)
                line = axis.plot(across, middle, label=f"{arm} ({len(held)} seeds)")[0]
                axis.fill_between(across, low, high, alpha=0.2, color=line.get_color())
        for level in LEVELS:
            axis.axhline(level, color="grey", linewidth=0.5)
        axis.set(
            xlabel="different cells evaluated",
            ylabel="hypervolume over that of the true front",
            title=f"problem {problem}: median and quartiles",
            ylim=(0.6, 1.005),
            xscale="log",
        )
        axis.legend(fontsize="small")
        paths.append(folder / f"search-{_slug(problem)}.png")
        figure.savefig(paths[-1], format="png", dpi=110, metadata={"Software": None})
    return paths


def draw_best(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw which share of the seeds has met the best cell, over the cells evaluated.

    Args:
        rows: Cells to the best one, by problem, method and seed.
        folder: Where the pictures go.

    Returns:
        The pictures.
    """
    from matplotlib.figure import Figure

    paths = []
    for problem in dict.fromkeys(row.group for row in rows):
        figure = Figure(figsize=(7.0, 4.5), layout="constrained")
        axis = figure.subplots()
        for method in dict.fromkeys(row.method for row in rows if row.group == problem):
            counts = np.sort([row.value for row in rows if (row.group, row.method) == (problem, method)])
            met = counts[np.isfinite(counts)]
            shares = np.arange(len(met) + 1) / len(counts)
            axis.step([0, *met], shares, where="post", label=f"{method} ({len(counts)} seeds)")
        axis.set(
            xlabel="different cells evaluated",
            ylabel="share of seeds that met the best cell",
            title=f"best cell, {problem}",
        )
        axis.legend(fontsize="small")
        paths.append(folder / f"search-best-{_slug(problem)}.png")
        figure.savefig(paths[-1], format="png", dpi=110, metadata={"Software": None})
    return paths
