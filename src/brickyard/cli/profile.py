"""`brickyard profile`: times of a factory's blocks on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    out: Annotated[
        Path | None, typer.Option(metavar="DEVICE.json", help="File to write; must not exist.")
    ] = None,
    kit: Annotated[
        Path | None,
        typer.Option(
            metavar="KIT.zip",
            help="Instead of measuring this machine, write what measures another one, where only Python, "
            "numpy and onnxruntime are needed.",
        ),
    ] = None,
    runtime: Annotated[
        Literal["ort", "ort-int8", "openvino", "torch"],
        typer.Option(
            help="What runs the models; part of the device. ort: ONNX Runtime, 32-bit numbers; ort-int8: the "
            "same with models quantised to 8-bit integers; openvino and torch need their extras."
        ),
    ] = "ort",
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, help="Threads of the runtime; part of the device.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the subnets that the profile is fitted and tested on.")
    ] = 0,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the device. Default: that of this machine.")
    ] = None,
    energy: Annotated[
        bool,
        typer.Option("--energy", help="Measure energy too, by the energy counter of the processor (RAPL)."),
    ] = False,
) -> None:
    """Measure this machine with a runtime, so that latency can be limited.

    The profile fits this factory alone. Take the file wherever models for this machine are made:
    `brickyard make --device DEVICE.json`. Nothing else should run meanwhile. A machine without brickyard is
    measured by a kit: --kit writes it, and what it measures there is a DEVICE.json too.
    """
    from brickyard.factory.factory import Factory

    if (out is None) == (kit is None):
        raise typer.BadParameter("give one of --out and --kit", param_hint="--out")
    if kit is not None and energy:
        raise typer.BadParameter(
            "energy is measured where the kit runs; give --energy to its measure.py", param_hint="--energy"
        )
    target = out or kit
    assert target is not None
    if target.exists():
        raise ArtifactError(f"{target} already exists; choose another file or remove it first")
    loaded = Factory.load(factory)
    target.parent.mkdir(parents=True, exist_ok=True)
    if kit is not None:
        from brickyard.devices import runtime_named
        from brickyard.devices.kit import write_kit

        count = write_kit(
            loaded.folder.blueprint,
            kit,
            seed=seed,
            name=loaded.folder.name,
            runtime=runtime_named(runtime),
        )
        typer.echo(f"kit        {kit}: {count} models. There: unzip, then python kit/measure.py")
        return
    with Meter() as meter:
        measured = loaded.profile(
            runtime=runtime,
            threads=threads,
            seed=seed,
            name=name,
            energy=energy,
            progress=lambda done, total, text: meter("profile", done, total, text),
        )
    measured.save(target)
    typer.echo(
        f"{measured.name}: threads {measured.threads}, {measured.processor}, {measured.runtime}, "
        f"{measured.precision}"
    )
    assert measured.held_out_mape is not None
    typer.echo(f"  error      {measured.held_out_mape:.1%} on {measured.held_out} subnets that were held out")
    if measured.energy is not None:
        known = measured.energy
        typer.echo(
            f"  energy     {known.mj_per_ms:.3g} W while it computes, {known.idle_watts:.3g} W idle; error "
            f"{known.held_out_mape:.1%} on {known.held_out} subnets that were held out"
        )
    typer.echo(f"  profile    {target}")
