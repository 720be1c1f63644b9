"""`brickyard profile`: times of a factory's blocks, or of a network's subnets, on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from brickyard.cli.talk import Meter, say
from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_json

_INTERRUPTED = 130


def profile(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="FACTORY|NETWORK",
            help="A factory (a folder, the name of a bundled one, or a hub id), or a network folder, such as "
            "that of a supernet.",
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
            "same with models quantised to 8-bit integers; openvino and torch need their extras. Networks of "
            "pictures: all but torch; of tokens: ort, openvino."
        ),
    ] = "ort",
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, help="Threads of the runtime; part of the device.")
    ] = 1,
    subnets: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=16,
            help="Of a network: subnets that are measured, of which a quarter is held out. Default: 120.",
            show_default=False,
        ),
    ] = None,
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
    """Measure this machine with a runtime, so that latency can be limited, or searched by.

    The profile fits this factory or network alone. A factory's blocks are timed: take the file wherever
    models for this machine are made, `brickyard make --device DEVICE.json`. Of a network whole subnets are
    timed, and the others predicted: `brickyard search --objectives accuracy latency_ms@DEVICE.json`; the same
    command goes on where it was stopped. Nothing else should run meanwhile. A machine without brickyard is
    measured by a kit: --kit writes it, and what it measures there is a DEVICE.json too.
    """
    from brickyard.factory.factory import Factory
    from brickyard.factory.folder import find_factory

    if (out is None) == (kit is None):
        raise typer.BadParameter("give one of --out and --kit", param_hint="--out")
    target = out or kit
    assert target is not None
    if target.exists():
        raise ArtifactError(f"{target} already exists; choose another file or remove it first")
    path = find_factory(factory)
    manifest = path / "manifest.json"
    if manifest.is_file() and read_json(manifest).get("kind") == "network":
        if energy:
            raise typer.BadParameter(
                "the energy of subnets of a network is not profiled; search it by energy_mj, measured there",
                param_hint="--energy",
            )
        _profile_network(
            path, out=out, kit=kit, subnets=subnets, runtime=runtime, threads=threads, seed=seed, name=name
        )
        return
    if subnets is not None:
        raise typer.BadParameter("a factory's blocks are timed; leave it out", param_hint="--subnets")
    if kit is not None and energy:
        raise typer.BadParameter(
            "energy is measured where the kit runs; give --energy to its measure.py", param_hint="--energy"
        )
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


def _profile_network(
    path: Path,
    *,
    out: Path | None,
    kit: Path | None,
    subnets: int | None,
    runtime: str,
    threads: int,
    seed: int,
    name: str | None,
) -> None:
    """Time whole subnets here, or write the kit that does it elsewhere."""
    from brickyard.devices import runtime_named
    from brickyard.factory.searching import need_torch
    from brickyard.factory.subnet_timing import SUBNETS, profile_subnets, write_subnet_kit

    need_torch()
    from brickyard.factory.timable import open_timable

    target = out or kit
    assert target is not None
    network, chosen = open_timable(path), runtime_named(runtime)
    target.parent.mkdir(parents=True, exist_ok=True)
    count = subnets or SUBNETS
    if kit is not None:
        with Meter() as meter:
            models = write_subnet_kit(
                network, kit, subnets=count, runtime=chosen, seed=seed, name=path.name, progress=meter
            )
        typer.echo(f"kit        {kit}: {models} models. There: unzip, then python kit/measure.py")
        return
    state = target.with_name(f"{target.name}.measuring")
    try:
        with Meter() as meter:
            measured = profile_subnets(
                network,
                subnets=count,
                runtime=chosen,
                threads=threads,
                seed=seed,
                name=name,
                state=state,
                progress=meter,
            )
    except KeyboardInterrupt:
        kept = f"What was measured is kept in {state}" if state.is_file() else "Nothing was measured yet"
        say(f"stopped. {kept}; give the same command again to go on")
        raise typer.Exit(_INTERRUPTED) from None
    measured.save(target)
    state.unlink(missing_ok=True)
    typer.echo(
        f"{measured.name}: threads {measured.threads}, {measured.processor}, {measured.runtime}, "
        f"{measured.precision}"
    )
    typer.echo(f"  error      {measured.error}")
    typer.echo(f"  noise      {measured.noise:.1%} between two halves of the runs")
    typer.echo(f"  profile    {target}")
