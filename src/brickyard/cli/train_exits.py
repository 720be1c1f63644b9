"""`brickyard train exits`: a pretrained encoder and pairs of texts become an encoder with exits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from brickyard.cli.talk import follow_training, say
from brickyard.core.errors import ArtifactError, MissingExtraError


def train_exits(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder or hub id of an encoder of transformers with its tokenizer."
        ),
    ],
    *,
    pairs: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE.jsonl",
            help="Pairs, such as `brickyard pairs` writes: a line holds query and document, and may hold "
            "split (train or heldout) and source; several files may be given.",
        ),
    ],
    exits: Annotated[
        str,
        typer.Option(metavar="N,...", help="After how many layers there are exits, ascending, from 1."),
    ],
    out: Annotated[Path, typer.Option(metavar="NETWORK", help="Network folder to write; must not exist.")],
    head: Annotated[
        Literal["own", "shared", "none"],
        typer.Option(
            help="What projects the mean over the tokens: a head for each exit, one for all that is told the "
            "layer, or nothing."
        ),
    ] = "own",
    embed_dim: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Width of embeddings. Default: that of the encoder."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most tokens of a text; longer ones are cut.")
    ] = 128,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of the optimizer.")] = 500,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=2, help="Pairs per step; each is told from all others of it.")
    ] = 32,
    learning_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate.")] = 5e-5,
    head_rate: Annotated[
        float, typer.Option(metavar="X", help="Rate of the heads by that of the encoder.")
    ] = 10.0,
    last_head_rate: Annotated[
        float | None,
        typer.Option(metavar="X", help="The same of the last exit's own head. Default: that of all heads."),
    ] = None,
    warmup: Annotated[
        float, typer.Option(metavar="X", help="Share of the steps over which the rate rises.")
    ] = 0.1,
    weight_decay: Annotated[float, typer.Option(metavar="X", help="Decay of the weights.")] = 1e-2,
    clip: Annotated[float, typer.Option(metavar="X", help="Largest norm of the gradient.")] = 1.0,
    weights: Annotated[
        Literal["depth", "depth-squared", "uniform"],
        typer.Option(
            help="Weight of an exit: its layers by those of the last one, the square of that, or 1 for all."
        ),
    ] = "depth",
    scale: Annotated[float, typer.Option(metavar="X", help="What cosines are multiplied by.")] = 20.0,
    learn_scale: Annotated[
        bool, typer.Option("--learn-scale", help="Learn the scale, from --scale on.")
    ] = False,
    distill: Annotated[
        Literal["none", "kl", "cosine"],
        typer.Option(
            help="What early exits learn from the last one: its probabilities in the batch, or its "
            "embeddings."
        ),
    ] = "none",
    distill_weight: Annotated[
        float, typer.Option(metavar="X", help="Weight of that beside the pairs.")
    ] = 1.0,
    contrast: Annotated[
        float, typer.Option(metavar="X", help="Weight of the pairs; 0 to learn from the documents alone.")
    ] = 1.0,
    mlm: Annotated[
        float, typer.Option(metavar="X", help="Weight of guessing hidden tokens of the documents.")
    ] = 0.0,
    same_source: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Weight of telling whether two documents come from one source; from one file, where there "
            "is one source only.",
        ),
    ] = 0.0,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Numbers that training computes with.")
    ] = "fp32",
    checkpoint_every: Annotated[int, typer.Option(metavar="N", help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of heads, order and dropout.")] = 0,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the processor.")] = 1,
) -> None:
    """Give an encoder of texts exits after some of its layers, and train all of them in one run.

    Prints what each exit is worth on the pairs that are held out. A run that is stopped, in whatever way,
    goes on where its last checkpoint lies when the same command is given again, and ends with the same
    weights bit for bit.
    """
    for library, extra in (("torch", "train"), ("transformers", "transformers"), ("matplotlib", "train")):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra=extra)
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    layers = [part.strip() for part in exits.split(",")]
    if not all(part.isdecimal() for part in layers):
        raise typer.BadParameter(
            f"{exits!r} is not numbers with commas between, such as 2,4,6", param_hint="--exits"
        )
    from brickyard.data.code_pairs import read_code_pairs
    from brickyard.factory.exit_records import has_exits, is_cut
    from brickyard.factory.exit_train import PICTURE, ExitBuild
    from brickyard.factory.exit_train import train_exits as build_exits
    from brickyard.train.exits import ExitSettings

    build = ExitBuild(
        model=model,
        exits=tuple(int(part) for part in layers),
        head=head,
        embed_dim=embed_dim,
        max_tokens=max_tokens,
        batch_size=batch_size,
        threads=threads,
        train=ExitSettings(
            steps=steps,
            learning_rate=learning_rate,
            head_rate=head_rate,
            last_head_rate=last_head_rate,
            warmup=warmup,
            weight_decay=weight_decay,
            clip=clip,
            weights=weights,
            scale=scale,
            learn_scale=learn_scale,
            distill=None if distill == "none" else distill,
            distill_weight=distill_weight,
            contrast=contrast,
            mlm=mlm,
            same_source=same_source,
            precision=precision,
            seed=seed,
            checkpoint_every=checkpoint_every,
        ),
    )
    if has_exits(model) or is_cut(model):
        say(f"{model} had exits before; its backbone goes on from where it is, exits get new heads")
    found = [pair for file in pairs for pair in read_code_pairs(file)]
    tables = []
    follow_training(
        lambda meter: tables.append(build_exits(found, build, out=out, progress=meter)),
        out=out,
        what="encoder",
        report=PICTURE,
    )
    for table in tables:
        if table is not None:
            typer.echo(table.text())
