"""`brickyard train`: data and a network's name become a factory."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from brickyard.cli.talk import follow_training, read_size
from brickyard.core.errors import ArtifactError, ConfigError, DataError, MissingExtraError


def train(
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="`geometry` (with options as in geometry:size=48,noise=0.5), `digits`, a folder of class "
            "folders, a csv/tsv/jsonl/parquet table, or a hub id (owner/name); see --job for detection.",
        ),
    ],
    network: Annotated[
        str, typer.Option(metavar="NAME", help="Name of a registered network, such as residual_cnn_small.")
    ],
    out: Annotated[Path, typer.Option(metavar="FACTORY", help="Factory folder to write; must not exist.")],
    attributes: Annotated[
        str,
        typer.Option(
            metavar="COLUMN,...", help="Columns that hold properties; tasks are combinations of their values."
        ),
    ] = "",
    classes: Annotated[
        bool, typer.Option("--classes", help="The data have classes; tasks are subsets of them.")
    ] = False,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the class, if not found.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the image, if not found.")
    ] = None,
    job: Annotated[
        Literal["classify", "detect"],
        typer.Option(
            help="detect: find boxes. DATA is then `geometry`, a COCO json or a folder of them, a Pascal VOC "
            "folder, a table with a column of boxes, or a hub id; NETWORK a detector such as center_small."
        ),
    ] = "classify",
    objects: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Detection in tables: column of `bbox` and `category`. Default: objects."
        ),
    ] = None,
    image_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Detection in COCO: folder of the pictures, if not found near the json."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|HxW", help="Side that images are brought to; for detection also height x width."
        ),
    ] = None,
    crop: Annotated[
        Literal["squash", "center", "letterbox"],
        typer.Option(help="Change the aspect ratio, cut the longer side, or fill the rest with grey."),
    ] = "squash",
    heldout_share: Annotated[
        float,
        typer.Option(metavar="X", help="Share held out where the data have no validation or test split."),
    ] = 0.15,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the factory. Default: that of the folder.")
    ] = None,
    backbone_steps: Annotated[
        int, typer.Option(metavar="N", help="Steps that train all bricks together first; 0 for none.")
    ] = 4500,
    backbone_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate of the backbone.")] = 4e-3,
    backbone_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights (safetensors) of the network to start from.")
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of the joint training of network and assembler.")
    ] = 800,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures per step.")] = 64,
    learning_rate: Annotated[
        float, typer.Option(metavar="X", help="Peak rate of the network in joint training.")
    ] = 3e-4,
    assembler_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate of the assembler.")] = 3e-5,
    assembler: Annotated[str, typer.Option(metavar="NAME", help="additive, low_rank or mlp.")] = "additive",
    discretiser: Annotated[
        str, typer.Option(metavar="NAME", help="How gates open under a limit.")
    ] = "ceiling",
    lowest_limit: Annotated[
        float, typer.Option(metavar="X", help="Smallest limit that is trained, as a share of all MACs.")
    ] = 0.1,
    anneal: Annotated[
        float, typer.Option(metavar="X", help="Share of the steps over which limits fall to the smallest.")
    ] = 0.2,
    distill: Annotated[
        float, typer.Option(metavar="X", help="Weight of in-place distillation; 0 for none.")
    ] = 0.0,
    augment: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Random changes of pictures: none, mirror_and_shift or shift; for detection none, "
            "mirror_and_move or flip_and_move.",
        ),
    ] = "none",
    unseen_share: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Share of the pairs of properties that are never trained, to test new combinations.",
        ),
    ] = 0.2,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Numbers that training computes with.")
    ] = "fp32",
    checkpoint_every: Annotated[int, typer.Option(metavar="N", help="Steps between checkpoints.")] = 500,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of weights, draws and splits.")] = 0,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the processor.")] = 1,
) -> None:
    """Train a factory: a modular network and its assembler.

    A run that is stopped, in whatever way, goes on where its last checkpoint lies when the same command is
    given again, and ends with the same weights bit for bit.
    """
    for library in ("torch", "onnxscript", "matplotlib"):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra="train")
    columns = [column.strip() for column in attributes.split(",") if column.strip()]
    if columns and classes:
        raise typer.BadParameter(
            "data have either properties or classes; leave one of both out", param_hint="--classes"
        )
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    from brickyard.data.source import load_data
    from brickyard.factory.build import BuildSettings, train_factory
    from brickyard.networks import NETWORKS
    from brickyard.networks.detection import DETECTORS
    from brickyard.train.joint import TrainSettings

    NETWORKS[network]
    if (job == "detect") != (network in DETECTORS):
        kind = "classifies" if job == "detect" else "detects"
        raise ConfigError(
            f"--network {network} {kind}, but the job is to {job}; detectors are {', '.join(DETECTORS)}",
            path="network",
            value=network,
        )
    settings = BuildSettings(
        network=network,
        assembler=assembler,
        discretiser=discretiser,
        backbone_steps=backbone_steps,
        backbone_rate=backbone_rate,
        backbone_weights=None if backbone_weights is None else str(backbone_weights),
        unseen_share=unseen_share,
        augment=augment,
        threads=threads,
        train=TrainSettings(
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            assembler_rate=assembler_rate,
            lowest_limit=lowest_limit,
            anneal=anneal,
            distill=distill,
            precision=precision,
            seed=seed,
            checkpoint_every=checkpoint_every,
        ),
    )
    source = load_data(
        data,
        attributes=columns,
        label=label,
        image=image,
        size=read_size(size),
        crop=crop,
        heldout_share=heldout_share,
        seed=seed,
        job=job,
        objects=objects,
        image_folder=None if image_folder is None else str(image_folder),
    )
    if classes and source.vocabulary.kind != "classes":
        raise DataError(f"--classes was given, but {data} has properties; leave it out")
    follow_training(
        lambda meter: train_factory(source, settings, out=out, name=name, progress=meter), out=out
    )
