"""`brickyard train supernet`: data and a network's name become a supernet whose subnets can be searched."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from brickyard.cli.talk import follow_training
from brickyard.core.errors import ArtifactError, DataError, MissingExtraError

if TYPE_CHECKING:
    from brickyard.factory.supernet_build import Source

_TEXT = ("heldout", "text")
_PAIRS = ("heldout", "translations", "heldout_translations", "source", "target")
_PICTURES = ("image", "size")


def train_supernet(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="Name of a registered network: ofa_mobile_small or ofa_resnet_small for pictures, "
            "text_encoder_small or text_encoder_tiny for texts with classes, translation_small for "
            "translations.",
        ),
    ],
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Pictures: `digits`, a folder of class folders, a table or a hub id, as for `train`. Texts: "
            "a csv/tsv/jsonl/parquet table or a hub id; for translations also a file of lines.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write; must not exist.")],
    heldout: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Texts to test on. Default: a split validation or test, else a share is held out.",
        ),
    ] = None,
    translations: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Translations of the file --data, line by line."),
    ] = None,
    heldout_translations: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Translations of the file --heldout, line by line."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Translations in a table: column of the texts.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Translations in a table: column of the translations."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the text, if not found.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the class, if not found.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the image, if not found.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side that images are brought to.")
    ] = None,
    heldout_share: Annotated[
        float, typer.Option(metavar="X", help="Share held out where there is no other test data.")
    ] = 0.15,
    vocab_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most tokens of the vocabulary. Default: as the network is made."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most tokens of a text. Default: as the network is made."),
    ] = None,
    augment: Annotated[
        str,
        typer.Option(metavar="NAME", help="Random changes of pictures: none, mirror_and_shift or shift."),
    ] = "none",
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of the optimizer.")] = 2000,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Examples per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate.")] = 2e-3,
    warmup: Annotated[
        float, typer.Option(metavar="X", help="Share of the steps over which the rate rises.")
    ] = 0.1,
    weight_decay: Annotated[float, typer.Option(metavar="X", help="Decay of the weights.")] = 1e-2,
    clip: Annotated[float, typer.Option(metavar="X", help="Largest norm of the gradient.")] = 1.0,
    random_configs: Annotated[
        int,
        typer.Option(metavar="N", help="Random configs per step, beside the largest and the smallest."),
    ] = 2,
    distill: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Share of the largest config's scores in what the others learn; the rest is labels.",
        ),
    ] = 0.5,
    label_smoothing: Annotated[float, typer.Option(metavar="X", help="Smoothing of the labels.")] = 0.1,
    widen: Annotated[
        str,
        typer.Option(
            metavar="KIND,...",
            help="Kinds of decisions that become elastic one after the other, such as kernel,depth,expand. "
            "Default: all are from the start.",
        ),
    ] = "",
    widen_share: Annotated[
        float, typer.Option(metavar="X", help="Share of the steps after which all are elastic.")
    ] = 0.5,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Numbers that training computes with.")
    ] = "fp32",
    checkpoint_every: Annotated[int, typer.Option(metavar="N", help="Steps between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of weights, draws and splits.")] = 0,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the processor.")] = 1,
) -> None:
    """Train a supernet to search: each step its largest subnet, and others that learn from it and the labels.

    A run that is stopped, in whatever way, goes on where its last checkpoint lies when the same command is
    given again, and ends with the same weights bit for bit.
    """
    for library in ("torch", "matplotlib"):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra="train")
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    from brickyard.factory.supernet_build import SupernetBuild, train_supernet
    from brickyard.train.supernet import SupernetSettings

    settings = SupernetBuild(
        network=network,
        augment=augment,
        vocab_size=vocab_size,
        max_tokens=max_tokens,
        threads=threads,
        train=SupernetSettings(
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup=warmup,
            weight_decay=weight_decay,
            clip=clip,
            random_configs=random_configs,
            distill=distill,
            label_smoothing=label_smoothing,
            widen=tuple(part.strip() for part in widen.split(",") if part.strip()),
            widen_share=widen_share,
            precision=precision,
            seed=seed,
            checkpoint_every=checkpoint_every,
        ),
    )
    found = _load(
        network,
        data,
        shared={"heldout_share": heldout_share, "seed": seed},
        given={
            "heldout": heldout,
            "translations": translations,
            "heldout_translations": heldout_translations,
            "source": source,
            "target": target,
            "text": text,
            "label": label,
            "image": image,
            "size": size,
        },
    )
    follow_training(
        lambda meter: train_supernet(found, settings, out=out, progress=meter),
        out=out,
        what="supernet",
        report="training/curves.png",
    )


def _load(network: str, data: str, *, shared: dict[str, Any], given: dict[str, Any]) -> Source:
    """Load the data that a network is for, with the options that such data take."""
    from brickyard.data.source import load_data
    from brickyard.data.texts import load_pairs, load_texts
    from brickyard.networks import build

    given = {name: value for name, value in given.items() if value is not None}
    inputs = len(build(network).vocab_sizes)
    takes = ((*_PICTURES, "label"), (*_TEXT, "label"), _PAIRS)[min(2, inputs)]
    for name in given:
        if name not in takes:
            kind = ("pictures", "texts with classes", "translations")[min(2, inputs)]
            shown = ", ".join(f"--{option.replace('_', '-')}" for option in takes)
            raise DataError(
                f"--{name.replace('_', '-')} is not for {network}, which reads {kind}; its options: {shown}"
            )
    if inputs == 0:
        return load_data(data, **shared, **given)
    return load_texts(data, **shared, **given) if inputs == 1 else load_pairs(data, **shared, **given)
