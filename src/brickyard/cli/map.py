"""`brickyard map`: which neurons and experts of a trained transformer serve which function."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from brickyard.core.errors import ArtifactError, MissingExtraError

if TYPE_CHECKING:
    from brickyard.data.functions import FunctionTexts

_DRAWS = 3


def map(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder or hub id of a model of transformers, or a network folder."
        ),
    ],
    *,
    texts: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Texts by function: NAME.txt with a text in each line, or a subfolder NAME with a text in "
            "each file, for each function.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="MAP", help="Folder to write; must not exist.")],
    share: Annotated[
        float, typer.Option(metavar="X", help="Share of a layer's neurons located for a function.")
    ] = 0.05,
    locate: Annotated[
        Literal["weighted", "score"],
        typer.Option(
            help="Neurons are located by their score times how much more they give on the function's texts, "
            "or by the score alone."
        ),
    ] = "weighted",
    experts: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Experts of a layer, 0 for none; a network folder with experts has its own.",
        ),
    ] = 0,
    partition: Annotated[
        Literal["kmeans", "coactivation", "random", "sequential"] | None,
        typer.Option(
            help="What neurons of one of --experts have in common: keys, activity, or nothing. Default: "
            "kmeans.",
            show_default=False,
        ),
    ] = None,
    control: Annotated[
        bool, typer.Option(help="Map the same model with untrained weights too, for comparison.")
    ] = True,
    max_texts: Annotated[int, typer.Option(metavar="N", help="Most texts of a function.")] = 200,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens of a text that are read; the rest is not.")
    ] = 128,
    change_texts: Annotated[
        int,
        typer.Option(metavar="N", help="Most held-out texts of a function that changes are measured on."),
    ] = 50,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Texts at once.")] = 32,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the texts, their split, and what is random.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of lines.")] = False,
) -> None:
    """Map which neurons of a trained transformer serve which function, such as a language or a kind of text.

    Neurons are located on one half of the texts; scores, and what switching them off changes, are of the
    other half. Writes map.html with heat maps, map.json, csv files, and the scores of all neurons. A run that
    is stopped goes on where it was when the same command is given again.
    """
    need_libraries()
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    if partition is not None and not experts:
        raise typer.BadParameter("it is for --experts; leave it out", param_hint="--partition")
    partition = partition or "kmeans"
    from brickyard.cli.talk import Meter
    from brickyard.core.files import new_folder, write_json, write_text
    from brickyard.data.functions import load_functions
    from brickyard.factory.brick_map_report import render_map
    from brickyard.modularize import NeuronProbe, fresh_twin, map_bricks, map_record, save_map
    from brickyard.modularize.map_source import open_probe, partition_probe

    found = load_functions(texts, most=max_texts, seed=seed)
    probe, split = open_probe(model, max_tokens=max_tokens, batch_size=batch_size)
    if experts and split is not None:
        raise ArtifactError(f"{model} has experts of its own; leave out --experts")
    grouping: dict[str, Any] = {"method": partition, "seed": seed, "texts": found.texts}
    if experts:
        split = [*partition_probe(probe, experts, **grouping)]
    settings: dict[str, Any] = {"share": share, "locate": locate, "seed": seed, "random_sets": _DRAWS}
    settings["change_texts"] = change_texts
    work = out.absolute().with_name(out.name + ".mapping")
    with Meter() as meter:
        made = map_bricks(
            probe,
            found.texts,
            found.labels,
            found.functions,
            **settings,
            experts=split,
            progress=meter,
            checkpoint=work / "map.safetensors",
        )
        record, beside = map_record(made), None
        if control:
            twin = NeuronProbe(fresh_twin(probe.model, seed=seed), probe.tokens, batch_size=batch_size)
            own = [*partition_probe(twin, experts, **grouping)] if experts else split

            def tell(stage: str, done: int, total: int, text: str) -> None:
                meter(f"control: {stage}", done, total, text)

            untrained = map_bricks(
                twin,
                found.texts,
                found.labels,
                found.functions,
                **settings,
                experts=own,
                shares=(),
                progress=tell,
                checkpoint=work / "control.safetensors",
            )
            beside = map_record(untrained)
    provenance = {
        "model": model,
        "texts": str(texts),
        "texts_sha256": texts_digest(found),
        "max_texts": max_texts,
        "max_tokens": max_tokens,
        "change_texts": change_texts,
        "experts": experts,
        "partition": partition if experts else None,
    }
    with new_folder(out) as place:
        save_map(made, place, provenance=provenance)
        if beside is not None:
            write_json(place / "control.json", beside)
        write_text(place / "map.html", render_map(record, beside, title=Path(model).name))
    shutil.rmtree(work)
    if as_json:
        typer.echo(json.dumps({**record, "control": beside, "folder": str(out)}))
        return
    _tell(record, beside, out)


def need_libraries() -> None:
    """Check that what the commands on maps need is installed.

    Raises:
        MissingExtraError: It is not.
    """
    for library, extra in (("torch", "train"), ("sklearn", "train"), ("transformers", "transformers")):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra=extra)


def texts_digest(found: FunctionTexts) -> str:
    """Hash texts with their functions."""
    return hashlib.sha256(json.dumps([found.functions, found.texts, found.labels]).encode()).hexdigest()


def _tell(record: dict[str, Any], control: dict[str, Any] | None, out: Path) -> None:
    layers = record["layers"]
    width = max(len(name) for name in record["functions"])
    typer.echo("best held-out score in each layer, and the change without the located neurons:")
    for place, name in enumerate(record["functions"]):
        best = " ".join(f"{layer['best'][place]:.2f}" for layer in layers)
        own = record["change"][place][place]
        others = [row[place] for other, row in enumerate(record["change"]) if other != place]
        drawn = [row[place] for row in record["random"]]
        typer.echo(
            f"  {name:<{width}}  {best}   own {own:.3f}, of others {sum(others) / len(others):.3f}, random "
            f"{sum(drawn) / len(drawn):.3f}"
        )
    for name, key in (("own / others", "diagonal_ratio"), ("own / random", "over_random")):
        beside = "" if control is None else f", control {control[key]:.2f}"
        typer.echo(f"{name:<13}{record[key]:.2f}{beside}")
    typer.echo(f"{'page':<13}{out / 'map.html'}")
