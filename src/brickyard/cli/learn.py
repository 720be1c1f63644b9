"""`brickyard learn`: a factory learns a new task, and everything that it could before stays as it is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from brickyard.cli.talk import Meter, emit, say, warn
from brickyard.core.errors import MissingExtraError, TrainError

_LEAST = 0.25  # least limit on the MACs whose quality is told
_INTERRUPTED = 130


def learn(
    factory: Annotated[
        Path, typer.Argument(metavar="FACTORY", help="Folder of a factory that classifies pictures.")
    ],
    *,
    task: Annotated[str, typer.Option(metavar="NAME", help="Name of the new task, as `make` will know it.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="`digits`, a folder of class folders, a csv/tsv/jsonl/parquet table, or a hub id "
            "(owner/name); brought to the size and channels that the factory reads.",
        ),
    ],
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of the class, or of a new property whose values are told apart."
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the image, if not found.")
    ] = None,
    heldout_share: Annotated[
        float,
        typer.Option(metavar="X", help="Share held out where the data have no validation or test split."),
    ] = 0.15,
    density: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of each layer's weights that a mask keeps; all tasks of a factory share it. Default: "
            "that of the earlier tasks, 0.3 for the first.",
        ),
    ] = None,
    small_share: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Share of the pictures of a step that are computed with some bricks off, so that small "
            "models lose less; 0 trains with all bricks alone.",
        ),
    ] = 0.5,
    arm: Annotated[
        Literal["exssnet", "supsup"],
        typer.Option(help="exssnet trains weights that no earlier task holds; supsup only finds a mask."),
    ] = "exssnet",
    in_turns: Annotated[
        bool,
        typer.Option("--in-turns", help="Train no weights while the mask is found; not with supsup."),
    ] = False,
    mask_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Passes over the pictures that find the mask. Default: 20, which train weights, too; 10 "
            "with --in-turns or --arm supsup.",
        ),
    ] = None,
    weight_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Passes after them that train weights alone. Default: 0; 10 with --in-turns.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures per step.")] = 64,
    mask_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate of the scores.")] = 3e-3,
    weight_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate of the weights.")] = 3e-3,
    own_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate of biases, norms and head.")] = 1e-2,
    transfer: Annotated[
        Literal["off", "best", "average"],
        typer.Option(help="Whether the mask starts from those of earlier tasks whose features suit it."),
    ] = "off",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of scores, head, order and split.")] = 0,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the processor.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print what was learned as one line of JSON.")] = False,
) -> None:
    """Let a factory learn a new task; models that it made before are made again bit by bit.

    Afterwards `brickyard make FACTORY --task NAME` makes models of the task, and `--task "NAME: a, b"` of
    some of its classes. A run that is stopped goes on when the same command is given again, and ends with
    the same weights; until it is done, the factory is as it was.
    """
    for library in ("torch", "onnxscript"):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra="train")
    from brickyard.factory.folder import require_own

    require_own(factory)
    if not 0 < heldout_share < 1:
        raise TrainError(f"heldout_share = {heldout_share} must be between 0 and 1")
    if in_turns and arm == "supsup":
        raise TrainError("--in-turns does not go with --arm supsup, which trains no weights; leave it out")
    from brickyard.continual import LearnSettings
    from brickyard.factory.capacity import capacity_of
    from brickyard.factory.folder import FactoryFolder
    from brickyard.factory.learn import TaskSettings, check_task, learn_task, load_new_task
    from brickyard.factory.learned import learned_folders

    joint = arm == "exssnet" and not in_turns
    settings = TaskSettings(
        density=density,
        small_share=small_share,
        threads=threads,
        learn=LearnSettings(
            arm=arm,
            mask_epochs=(20 if joint else 10) if mask_epochs is None else mask_epochs,
            weight_epochs=(10 if in_turns else 0) if weight_epochs is None else weight_epochs,
            joint=joint,
            batch_size=batch_size,
            mask_rate=mask_rate,
            weight_rate=weight_rate,
            own_rate=own_rate,
            transfer=transfer,
            seed=seed,
        ),
    )
    check_task(FactoryFolder.open(factory), task, settings)
    source = load_new_task(factory, data, heldout_share=heldout_share, seed=seed, label=label, image=image)
    try:
        with Meter() as meter:
            learned = learn_task(factory, task, source, settings, progress=meter)
    except KeyboardInterrupt:
        say(f"stopped. {factory} is as it was; give the same command again to go on")
        raise typer.Exit(_INTERRUPTED) from None
    capacity = capacity_of(factory)
    folder = FactoryFolder.open(learned_folders(factory)[task])
    name = folder.vocabulary.all().text
    limits = folder.quality["limits"]
    curve = dict(zip(limits, folder.quality["tasks"].get(name, {}).get("quality", ()), strict=False))
    quality = curve.get(limits[-1])
    if json:
        emit(
            {
                "task": task,
                "classes": list(folder.vocabulary.words),
                "accuracy": quality,
                "accuracy_at_macs": {f"{limit:g}": value for limit, value in curve.items()},
                "free_share": learned.record.free_share,
                "seconds": round(learned.seconds + learned.transfer_seconds, 3),
                "factory": str(folder.path),
            }
        )
    else:
        told = "not measured" if quality is None else f"accuracy {quality:.3f} on held-out pictures"
        typer.echo(f"{'task':<11}{task}: {', '.join(folder.vocabulary.words)}")
        typer.echo(f"{'quality':<11}{told}, all bricks")
        smaller = [f"{value:.3f} at {limit:.0%}" for limit, value in curve.items() if _LEAST <= limit < 1]
        if smaller:
            typer.echo(f"{'smaller':<11}{', '.join(smaller)} of the MACs")
        typer.echo(f"{'mask':<11}{learned.record.free_share:.1%} of its weights were free and were trained")
        typer.echo(f"{'learned in':<11}{learned.seconds + learned.transfer_seconds:.1f} s")
        typer.echo(f'{"make":<11}brickyard make {factory} --task "{task}" --out DIR')
    if capacity.warning is not None:
        warn(capacity.warning)
