"""`brickyard modularize`: a trained dense network and data become a factory, starting from its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brickyard.cli.talk import follow_training
from brickyard.core.errors import ArtifactError, DataError, MissingExtraError

if TYPE_CHECKING:
    from brickyard.modularize import Modularized


_NORM_SETS = "1,0.6"


def modularize(
    kind: Annotated[
        Literal["cnn"], typer.Argument(metavar="KIND", help="`cnn`: groups of channels become bricks.")
    ],
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="FILE.py:FUNCTION that builds a torch module (the file is run), with --weights; or the "
            "folder or hub id of a transformers image classifier.",
        ),
    ],
    *,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="Pictures with classes, as for `train`; in the order of the network's outputs.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FACTORY", help="Factory folder to write; must not exist.")],
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights (safetensors) for FILE.py:FUNCTION.")
    ] = None,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Train a new last layer for the data's classes.")
    ] = False,
    mean: Annotated[
        str, typer.Option(metavar="X,...", help="Mean of each channel (of values 0 to 1) in its training.")
    ] = "",
    std: Annotated[
        str, typer.Option(metavar="X,...", help="Deviation of each channel in its training.")
    ] = "",
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the class, if not found.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the image, if not found.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side that images are brought to.")
    ] = None,
    group_channels: Annotated[int, typer.Option(metavar="N", help="Most channels of a brick.")] = 4,
    backbone_steps: Annotated[
        int, typer.Option(metavar="N", help="Steps that train all bricks together first; 0 for none.")
    ] = 1500,
    backbone_rate: Annotated[float, typer.Option(metavar="X", help="Peak rate of the backbone.")] = 1e-3,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of the joint training of network and assembler.")
    ] = 300,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Pictures per step.")] = 128,
    lowest_limit: Annotated[
        float, typer.Option(metavar="X", help="Smallest limit that is trained, as a share of all MACs.")
    ] = 0.2,
    norm_sets: Annotated[
        str | None,
        typer.Option(
            metavar="X,...",
            help="Descending shares of all MACs between which subnets normalise by numbers of their own; '' "
            f"for one normalisation. Default: {_NORM_SETS} where the network allows it.",
        ),
    ] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Weight of learning from the network as it came. Default: 1, with --new-head 0.",
        ),
    ] = None,
    augment: Annotated[str, typer.Option(metavar="NAME", help="Random changes of pictures.")] = "none",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Numbers that training computes with.")
    ] = "fp32",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of draws and splits.")] = 0,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the processor.")] = 1,
) -> None:
    """Turn a trained network into a factory: its weights, split into bricks, trained on to work in parts.

    Prints what was split and what stays whole, and why. A run that is stopped goes on from its last
    checkpoint when the same command is given again.
    """
    for library in ("torch", "torch_pruning", "onnxscript", "matplotlib"):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra="modularize")
    assert kind == "cnn"
    if new_head and distill:
        raise typer.BadParameter(
            "a new head has nothing to teach yet; leave it out, or fine-tune the network first",
            param_hint="--distill",
        )
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    import torch

    from brickyard.bricks import loose_norms
    from brickyard.data.source import load_data
    from brickyard.factory.build import BuildSettings, train_factory
    from brickyard.modularize import modularize_cnn
    from brickyard.modularize.source import fit_head_, load_cnn
    from brickyard.train.joint import TrainSettings

    dense = load_cnn(model, weights=weights)
    source = load_data(data, label=label, image=image, size=size, seed=seed)
    if source.vocabulary.kind != "classes":
        raise DataError(f"{data} has properties; a network that is modularized needs data with classes")
    preprocess = source.preprocess
    means = _numbers(mean, "--mean") or dense.mean or preprocess.mean
    deviations = _numbers(std, "--std") or dense.std or preprocess.std
    for name, found in (("mean", means), ("std", deviations)):
        if len(found) != preprocess.channels:
            raise DataError(f"{name} has {len(found)} numbers, pictures {preprocess.channels} channels")
    preprocess = replace(preprocess, mean=means, std=deviations)
    source = replace(source, preprocess=preprocess)
    torch.manual_seed(seed)
    fit_head_(dense.module, labels=dense.labels, wanted=source.vocabulary.words, fresh=new_head)
    result = modularize_cnn(dense.module, input_shape=preprocess.shape, group_channels=group_channels)
    for line in _listing(result):
        typer.echo(line)
    loose = loose_norms(result.network.root, result.network.norm_pairs)
    if norm_sets is None and loose:
        typer.echo(f"one normalisation for all sizes: {loose[0]} follows no convolution that it alone reads")
    edges = _numbers(("" if loose else _NORM_SETS) if norm_sets is None else norm_sets, "--norm-sets")
    settings = BuildSettings(
        network=model,
        backbone_steps=backbone_steps,
        backbone_rate=backbone_rate,
        ranking="position" if new_head else "fisher",
        norm_sets=edges or (),
        augment=augment,
        threads=threads,
        train=TrainSettings(
            steps=steps,
            batch_size=batch_size,
            lowest_limit=lowest_limit,
            whole_share=0.2,
            distill=(0.0 if new_head else 1.0) if distill is None else distill,
            precision=precision,
            seed=seed,
        ),
    )
    follow_training(
        lambda meter: train_factory(source, settings, out=out, progress=meter, network=result.network),
        out=out,
    )


def _numbers(text: str, option: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not numbers with commas between", param_hint=option) from None


def _listing(result: Modularized) -> list[str]:
    bricks = sum(part.groups for part in result.split)
    lines = [f"split into {bricks} bricks, outputs within {result.error:.1e} of the original:"]
    lines += [
        f"  {part.decision}: {part.groups} x {part.group_channels} channels, cuts {len(part.layers)} layers"
        for part in result.split
    ]
    lines += ["stays whole:"] if result.whole else []
    lines += [f"  {_some(part.layers)}: {part.channels} channels; {part.reason}" for part in result.whole]
    return lines


def _some(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
