"""`brickyard evaluate`: the quality of a made model on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from brickyard.cli.talk import Meter, emit


def evaluate(
    model_folder: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_FOLDER", help="Folder that `brickyard make` wrote; its hashes are verified."
        ),
    ],
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="`geometry` (with options as in geometry:noise=0.5), `digits`, a folder of class folders, a "
            "table, or a hub id; for a detector what `train --job detect` takes; for texts what `train "
            "supernet` takes.",
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
        int, typer.Option(metavar="N", min=2, help="Number of scenes that are drawn for `geometry`.")
    ] = 2000,
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="Seed of the scenes, and of the part held out: that of the training."),
    ] = 0,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the runtime.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")] = False,
) -> None:
    """Measure the quality of a made model on labelled data.

    Balanced accuracy for property tasks; accuracy and the recall of each class for class tasks; average
    precision of boxes for detectors, AP50 by label; BLEU for translators. The data must have all the words
    of the model's task, those for texts some of its classes; pictures, boxes or texts of other classes are
    left out.
    """
    from brickyard.factory.records import METRIC_NAMES
    from brickyard.factory.text_model import text_job

    shared: dict[str, Any] = {"part": part, "seed": seed, "threads": threads}
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
    reads_texts = text_job(model_folder) is not None
    if reads_texts:
        from brickyard.factory.text_evaluate import evaluate_text_model

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
            pictures=pictures,
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
