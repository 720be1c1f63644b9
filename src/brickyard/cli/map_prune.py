"""`brickyard map prune`: cuts a mapped transformer down to what some functions need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from brickyard.cli.map import need_libraries, texts_digest
from brickyard.core.errors import ArtifactError, DataError

_SOURCE = ("texts", "texts_sha256", "max_texts", "max_tokens", "change_texts")  # told of texts


def map_prune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model that was mapped, as it was named then.")
    ],
    *,
    map: Annotated[Path, typer.Option(metavar="MAP", help="Folder of the map.")],
    keep: Annotated[
        list[str], typer.Option(metavar="NAME", help="Functions to keep; may be given several times.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write; must not exist.")],
    share: Annotated[
        float,
        typer.Option(
            metavar="X", help="Share of the neurons of each layer that stays; of experts, if mapped."
        ),
    ] = 0.5,
    texts: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The texts of the map, if they lie elsewhere now."),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Texts at once.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print a record instead of lines.")] = False,
) -> None:
    """Keep what some functions need of a mapped transformer, and cut out its other neurons for real.

    Writes a folder of transformers, which needs no brickyard, with pruned.json: parameters before and after,
    and what the cut changes on held-out texts of each function. Nothing is trained.
    """
    need_libraries()
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    from brickyard.cli.talk import Meter
    from brickyard.core.files import new_folder, read_json, write_json
    from brickyard.data.functions import load_functions
    from brickyard.modularize import load_map, prune_to
    from brickyard.modularize.folder import require_rebuilt
    from brickyard.modularize.map_source import open_probe

    found = load_map(map)
    source = read_json(map / "map.json").get("provenance", {})
    lacking = [name for name in _SOURCE if name not in source]
    if lacking:
        raise ArtifactError(
            f"{map} does not tell {', '.join(lacking)} of its texts; make it again: brickyard map"
        )
    folder = Path(source["texts"]) if texts is None else texts
    given = load_functions(folder, most=source["max_texts"], seed=found.seed)
    if texts_digest(given) != source["texts_sha256"]:
        raise DataError(f"{folder} does not hold the texts of the map as they were; give those by --texts")
    probe, _ = open_probe(model, max_tokens=source["max_tokens"], batch_size=batch_size)
    with Meter() as meter:
        most = source["change_texts"]
        pruned = prune_to(
            probe,
            found,
            keep,
            given.texts,
            given.labels,
            share=share,
            change_texts=most,
            progress=meter,
        )
    small: Any = pruned.model
    record: dict[str, Any] = {
        "model": model,
        "keep": keep,
        "share": share,
        "parameters": {"before": pruned.parameters[0], "after": pruned.parameters[1]},
        "measure": pruned.measure,
        "change": dict(zip(found.functions, pruned.change, strict=True)),
        "random": dict(zip(found.functions, pruned.random, strict=True)),
        "neurons": {path: numbers.tolist() for path, numbers in pruned.kept.items()},
    }
    require_rebuilt(small)
    with new_folder(out) as place:
        small.save_pretrained(place)
        probe.tokens.tokenizer.save_pretrained(place)
        write_json(place / "pruned.json", record)
    if as_json:
        typer.echo(json.dumps({**record, "folder": str(out)}))
        return
    before, after = pruned.parameters
    typer.echo(f"{out}: {after:,} of {before:,} parameters ({after / before:.1%})")
    typer.echo(f"change of {pruned.measure} on held-out texts, and where as many random neurons stay:")
    width = max(len(name) for name in found.functions)
    for name in found.functions:
        kept = " (kept)" if name in keep else ""
        typer.echo(f"  {name:<{width}}  {record['change'][name]:.3f}  {record['random'][name]:.3f}{kept}")
