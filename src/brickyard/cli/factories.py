"""`brickyard factories`: the bundled factories, what they understand and how good they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from brickyard.cli.talk import emit, say

if TYPE_CHECKING:
    from brickyard.factory.folder import FactoryFolder


def factories(
    json: Annotated[bool, typer.Option("--json", help="Print a list of records as JSON.")] = False,
) -> None:
    """List the bundled factories: their words and quality."""
    from brickyard.factory.folder import FactoryFolder, bundled_factories

    records = [describe(FactoryFolder.open(path)) for path in bundled_factories().values()]
    if json:
        emit(records)
        return
    if not records:
        say("no factory is bundled with this package; train one: brickyard train --help")
    for record in records:
        typer.echo(outline(record))


def describe(folder: FactoryFolder) -> dict[str, Any]:
    """Return the JSON record of a factory for listings.

    Args:
        folder: The factory.
    """
    from brickyard.factory.training_report import mean_quality

    whole = folder.blueprint.count(folder.blueprint.space.largest())
    return {
        "name": folder.name,
        "path": str(folder.path),
        "network": folder.network["builder"] or "own network",
        "kind": folder.vocabulary.kind,
        "words": {group: list(words) for group, words in folder.vocabulary.groups.items()},
        "input": list(folder.preprocess.shape),
        "macs": whole.macs,
        "parameters": whole.parameters,
        "file_bytes": whole.file_bytes,
        "quality": mean_quality(folder.quality),
    }


def outline(record: dict[str, Any]) -> str:
    """Describe a factory in a few lines.

    Args:
        record: What `describe` gave.
    """
    lines = [
        f"{record['name']}  ({record['network']}, {record['macs']:,} MACs, "
        f"{record['parameters']:,} parameters, {record['file_bytes'] / 1e6:.2f} MB whole, "
        f"input {' x '.join(map(str, record['input']))})"
    ]
    lines += [f"  {group:<12}{', '.join(words)}" for group, words in record["words"].items()]
    quality = record["quality"]
    lines.append(f"  {'MACs up to':<12}" + "".join(f"{limit:>8.0%}" for limit in quality["limits"]))
    for group, row in quality["groups"].items():
        tasks = f"{row['tasks']} task{'' if row['tasks'] == 1 else 's'}"
        lines.append(f"  {group:<12}" + "".join(f"{value:>8.3f}" for value in row["mean"]) + f"   {tasks}")
    return "\n".join(lines)
