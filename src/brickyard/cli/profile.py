"""`brickyard profile`: times of a factory's blocks on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brickyard.cli.talk import Meter
from brickyard.core.errors import ArtifactError


def profile(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="FACTORY", help="A factory: a folder, the name of a bundled one, or a hub id."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DEVICE.json", help="File to write; must not exist.")],
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, help="Threads of the runtime; part of the device.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the subnets that the profile is fitted and tested on.")
    ] = 0,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the device. Default: that of this machine.")
    ] = None,
) -> None:
    """Measure this machine, so that latency can be limited.

    The profile fits this factory alone. Take the file wherever models for this machine are made:
    `brickyard make --device DEVICE.json`. Nothing else should run meanwhile.
    """
    from brickyard.factory.factory import Factory

    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another file or remove it first")
    loaded = Factory.load(factory)
    with Meter() as meter:
        measured = loaded.profile(
            threads=threads,
            seed=seed,
            name=name,
            progress=lambda done, total, text: meter("profile", done, total, text),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    measured.save(out)
    typer.echo(f"{measured.name}: threads {measured.threads}, {measured.processor}, {measured.runtime}")
    typer.echo(f"  error      {measured.held_out_mape:.1%} on {measured.held_out} subnets that were held out")
    typer.echo(f"  profile    {out}")
