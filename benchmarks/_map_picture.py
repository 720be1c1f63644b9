"""The picture of a map: scores by layer, changes, overlap, and the curve of sparsity."""

from __future__ import annotations

import io
from pathlib import Path

from brickyard.core.files import write_bytes
from brickyard.modularize import BrickMap


def draw_map(path: Path, found: BrickMap, control: BrickMap) -> None:
    """Draw a map beside its control.

    Args:
        path: PNG to write.
        found: The map, with the curve of sparsity.
        control: The map of the network with fresh weights.
    """
    from matplotlib.figure import Figure

    names, count = found.functions, len(found.functions)
    figure = Figure(figsize=(13, 10), layout="constrained")
    (scores, change), (common, sparse) = figure.subplots(2, 2)
    layers = range(len(found.layers))
    for place, name in enumerate(names):
        [line] = scores.plot(layers, found.best()[:, place], label=name)
        scores.plot(layers, control.best()[:, place], color=line.get_color(), linestyle=":", linewidth=1)
        sparse.plot([100 * share for share in found.shares], found.sparsity[:, place], color=line.get_color())
    scores.axhline(1 / count, color="grey", linewidth=0.8)
    scores.set(title="best neuron, held-out score (dotted: untrained; grey: chance)", xlabel="layer")
    scores.set_ylim(0, 1.03)
    scores.legend(frameon=False, ncols=2, fontsize=8)
    rows = [*found.change.tolist(), found.random.mean(0).tolist()]
    for axis, values, sides, title in (
        (change, rows, [*names, "random"], "change (1 - cosine) of columns without the neurons of rows"),
        (common, found.overlap().tolist(), list(names), f"overlap; by chance {found.share:.2f}"),
    ):
        top = max(max(line) for line in rows) if axis is change else 0.3
        axis.imshow(values, cmap="Oranges", vmin=0, vmax=top, aspect="auto")
        axis.set_xticks(range(count), names, rotation=30, ha="right", fontsize=8)
        axis.set_yticks(range(len(sides)), sides, fontsize=8)
        axis.set_title(title)
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                color = "white" if value > 0.7 * top else "black"
                centred = {"ha": "center", "va": "center", "color": color, "fontsize": 8}
                axis.text(column, row, f"{value:.2f}", **centred)
    sparse.set(title="change without the least active neurons of each token", xlabel="left out, %")
    for axis in (scores, sparse):
        axis.grid(alpha=0.25)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=70, metadata={"Software": None})
    write_bytes(path, held.getvalue())
