"""`brickyard evaluate`: the quality of a made model on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from brickyard.cli.talk import Meter, emit
from brickyard.core.errors import ArtifactError, DataError


def evaluate(
    model_folder: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_FOLDER",
            help="Folder that `brickyard make` wrote, or of an encoder with exits; its hashes are verified.",
        ),
    ],
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="`geometry` (with options as in geometry:noise=0.5), `digits`, a folder of class folders, a "
            "table, or a hub id; for a detector what `train --job detect` takes; for texts what `train "
            "supernet` takes; for an encoder with exits pairs, as `brickyard pairs` writes them.",
        ),
    ],
    attributes: Annotated[
        str,
        typer.Option(
            metavar="COLUMN,...", help="Columns of a table that hold properties; without them it has classes."
        ),
    ] = "",
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the class, if not found.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the image, if not found.")
    ] = None,
    objects: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Detectors: column of boxes of a table.")
    ] = None,
    image_folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Detectors: folder of the pictures of a COCO json.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Texts: column of the text, if not found.")
    ] = None,
    translations: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Translators: translations of the file --data, line by line."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Translators: column of the texts of a table.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Translators: column of their translations.")
    ] = None,
    part: Annotated[
        Literal["heldout", "all"],
        typer.Option(
            help="The part that training on these data holds out, or all of them (for data never trained on)."
        ),
    ] = "heldout",
    pictures: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, help="Number of scenes that are drawn for `geometry`. Default: 2,000."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Seed of the scenes, and of the part held out: that of the training. Default: 0.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the runtime.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Encoders with exits: where to write the table (exits.json, .csv, .md) and a picture of it.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
) -> None:
    """Measure the quality of a made model on labelled data, or of each exit of an encoder.

    Balanced accuracy for property tasks; accuracy and the recall of each class for class tasks; average
    precision of boxes for detectors, AP50 by label; BLEU for translators; for encoders with exits the mean
    reciprocal rank (MRR), time and parameters of each exit. The data must have all the words of the model's
    task, those for texts some of its classes; pictures, boxes or texts of other classes are left out.
    """
    from brickyard.factory.records import METRIC_NAMES
    from brickyard.factory.text_model import text_job

    shared: dict[str, Any] = {"part": part, "seed": seed or 0, "threads": threads}
    names = tuple(name.strip() for name in attributes.split(",") if name.strip())
    of_texts: dict[str, Any] = {
        "text": text,
        "translations": translations,
        "source": source,
        "target": target,
    }
    of_pictures: dict[str, Any] = {
        "image": image,
        "objects": objects,
        "image_folder": None if image_folder is None else str(image_folder),
    }
    from brickyard.factory.exit_records import has_exits, is_cut

    if is_cut(model_folder):
        raise ArtifactError(
            f"{model_folder} was cut at one exit; what each is worth is measured of the folder with all exits"
        )
    if has_exits(model_folder):
        given = {**of_texts, **of_pictures, "attributes": names or None, "label": label}
        given |= {"pictures": pictures, "seed": seed}
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter(
                    "this encoder has exits and reads pairs; leave the option out",
                    param_hint=f"--{name.replace('_', '-')}",
                )
        _exits(model_folder, Path(data), part=part, threads=threads, out=out, json=json)
        return
    if out is not None:
        raise typer.BadParameter("it is for encoders with exits; leave it out", param_hint="--out")
    reads_texts = text_job(model_folder) is not None
    if reads_texts:
        from brickyard.factory.text_evaluate import evaluate_text_model

        if pictures is not None:
            raise typer.BadParameter("this model reads texts; leave the option out", param_hint="--pictures")
        others: dict[str, Any] = {"attributes": names or None, **of_pictures}
        with Meter() as meter:
            result = evaluate_text_model(
                model_folder, data, label=label, **shared, **of_texts, **others, progress=meter
            )
    else:
        from brickyard.factory.evaluate import evaluate_model

        for name, value in of_texts.items():
            if value is not None:
                raise typer.BadParameter(
                    "this model reads pictures; leave the option out", param_hint=f"--{name}"
                )
        result = evaluate_model(
            model_folder,
            data,
            attributes=names,
            label=label,
            pictures=pictures or 2000,
            **shared,
            **of_pictures,
        )
    if json:
        emit(result.model_dump(mode="json"))
        return
    metric = METRIC_NAMES[result.metric]
    ap = "" if result.ap is None else f", AP {result.ap:.4f}"
    what = "texts" if reads_texts else "pictures"
    typer.echo(
        f"{result.task}: {metric} {result.value:.4f}{ap} on {result.examples} {what} ({result.source})"
    )
    width = max(map(len, result.per_class), default=0)
    each = "recall" if result.ap is None else metric
    for name, value in result.per_class.items():
        typer.echo(f"  {name:<{width}}  {each} {value:.4f} of {result.counts[name]}")


def _exits(folder: Path, file: Path, *, part: str, threads: int, out: Path | None, json: bool) -> None:
    """Measure each exit of an encoder on pairs."""
    from brickyard.data.code_pairs import read_code_pairs
    from brickyard.factory.exit_records import EXITS_FILE
    from brickyard.factory.exit_table import evaluate_exits
    from brickyard.modularize import load_exits

    if out is not None and (out / EXITS_FILE).exists():
        raise ArtifactError(f"{out / EXITS_FILE} already exists; choose another folder or remove it first")
    found = read_code_pairs(file)
    pairs = [(pair.query, pair.document) for pair in found if part == "all" or pair.split == "heldout"]
    if not pairs:
        raise DataError(
            f"none of the {len(found)} pairs of {file} is held out; take all of them by --part all"
        )
    with Meter() as meter:
        table = evaluate_exits(
            load_exits(folder),
            pairs,
            threads=threads,
            progress=lambda stage, done, total: meter(stage, done, total, ""),
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        table.write(out)
    if json:
        emit(table.to_json())
    else:
        typer.echo(table.text())
