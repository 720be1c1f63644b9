"""The picture of a supernet's training: its curves, and how good its subnets are; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brickyard.core.errors import MissingExtraError

_LARGEST, _SMALLEST, _RANDOM = "#1f6feb", "#d1495b", "#2e8b57"


def draw_training(file: Path, *, rows: Sequence[Mapping[str, Any]], quality: Mapping[str, Any]) -> None:
    """Draw loss and accuracy of the largest and the smallest config, and the quality of the judged ones.

    Args:
        file: PNG to write.
        rows: The log; the fields of `brickyard.train.supernet.SupernetRecord`.
        quality: The record `quality.json` of a trained supernet.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", extra="train") from None
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    axes = figure.subplots(1, 3)
    steps = [row["step"] for row in rows]
    for axis, key, title in zip(axes, ("loss", "accuracy"), ("loss", "accuracy in training"), strict=False):
        axis.plot(steps, [row[key] for row in rows], color=_LARGEST, label="largest", linewidth=1.2)
        axis.plot(
            steps, [row[f"smallest_{key}"] for row in rows], color=_SMALLEST, label="smallest", linewidth=1.2
        )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
    axes[0].legend(frameon=False)
    metric = quality["metric"]
    colors = {"largest": _LARGEST, "smallest": _SMALLEST, "random": _RANDOM}
    for name, color in colors.items():
        chosen = [row for row in quality["configs"] if row["name"] == name]
        axes[2].scatter(
            [row["parameters"] for row in chosen], [row[metric] for row in chosen], color=color, label=name
        )
    axes[2].set_title(f"{metric} on {quality['examples']} examples held out", fontsize=10)
    axes[2].set_xlabel("parameters of the subnet", fontsize=9)
    axes[2].legend(frameon=False, loc="lower right")
    for axis in axes:
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.savefig(file, dpi=90)
