"""`brickyard tasks`: the tasks that a factory learned later, their masks, and what is left for others."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brickyard.cli.talk import emit, warn
from brickyard.core.errors import MissingExtraError

if TYPE_CHECKING:
    from brickyard.factory.capacity import Capacity

_SHOWN = 20  # tasks of which the table of overlaps is printed


def tasks(
    factory: Annotated[
        Path,
        typer.Argument(metavar="FACTORY", help="Folder of a factory that learned tasks."),
    ],
    *,
    heat_map: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write the overlap of the masks as a picture."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as one line of JSON.")] = False,
) -> None:
    """List the tasks that a factory learned later: masks, overlap, and weights that are still free.

    A warning is given when fewer weights are free than one more mask keeps.
    """
    for library in ("torch", *(["matplotlib"] if heat_map is not None else [])):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra="train")
    if heat_map is not None and (
        heat_map.suffix.lower() != ".png" or not heat_map.absolute().parent.is_dir()
    ):
        raise typer.BadParameter(
            f"{heat_map} cannot be written; name a .png file in a folder that is there",
            param_hint="--heat-map",
        )
    from brickyard.factory.capacity import capacity_of, draw_overlap
    from brickyard.factory.folder import require_own

    require_own(factory)

    capacity = capacity_of(factory)
    if heat_map is not None:
        draw_overlap(capacity, heat_map)
    if json:
        emit(capacity.to_json())
    else:
        typer.echo(outline(capacity))
    if capacity.warning is not None:
        warn(capacity.warning)


def outline(capacity: Capacity) -> str:
    """Describe tasks, overlap and free weights in a few tables.

    Args:
        capacity: What the tasks take.
    """
    width = max(4, *(len(task.name) for task in capacity.tasks))
    lines = [
        f"{'task':<{width}}  classes  accuracy  density  bits/weight  H(k)   mask kB  own kB  trained  arm"
    ]
    for task in capacity.tasks:
        quality = "-" if task.quality is None else f"{task.quality:.3f}"
        lines.append(
            f"{task.name:<{width}}  {len(task.classes):>7}  {quality:>8}  {task.density:>7.1%}  "
            f"{task.mask_bits:>11.4f}  {task.entropy:.3f}  {task.mask_bytes / 1e3:>7.1f}  "
            f"{task.trained_bytes / 1e3:>6.1f}  {task.trained_share:>7.1%}  {task.arm}"
        )
    if 1 < len(capacity.tasks) <= _SHOWN:
        lines += ["", "share of a task's mask (row) that another's (column) holds too"]
        columns = "".join(f"{number:>6}" for number in range(len(capacity.tasks)))
        lines.append(f"{'':<{width + 4}}{columns}")
        for number, (task, row) in enumerate(zip(capacity.tasks, capacity.overlap, strict=True)):
            shares = "".join(f"{share:>6.2f}" for share in row)
            lines.append(f"{number:>2}  {task.name:<{width}}{shares}")
    assert capacity.fullest is not None
    layer, share = capacity.fullest
    lines += [
        "",
        f"free: {capacity.free:,} of {capacity.num_weights:,} weights "
        f"({capacity.free / capacity.num_weights:.1%}), {capacity.exclusive_left} more masks of "
        f"{capacity.num_kept:,}; least in {layer} ({share:.1%})",
        f"the next task will find about {capacity.next_share:.0%} of its mask free",
    ]
    return "\n".join(lines)
