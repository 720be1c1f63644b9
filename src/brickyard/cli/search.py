"""`brickyard search`: the subnets of a network that no other beats, by two to four numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from brickyard.cli.talk import Meter, complain, emit, say
from brickyard.core.errors import MissingExtraError

if TYPE_CHECKING:
    from brickyard.search import Result

_NOTHING_FITS, _INTERRUPTED = 2, 130


def search(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="What is searched: a network folder, such as that of a supernet, or a factory (a folder, "
            "the name of a bundled one, or a hub id).",
        ),
    ],
    *,
    objectives: Annotated[
        list[str],
        typer.Option(
            metavar="NAME...",
            help="Two to four numbers, what matters most first: accuracy, balanced_accuracy, ap50, bleu, "
            "latency_ms, energy_mj, runtime_memory_bytes (measured here), latency_ms@FILE, "
            "energy_mj@FILE (predicted by a device profile or table), macs, parameters, file_bytes, "
            "peak_memory_bytes (counted).",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the search: the study, its front as CSV and json, pictures."
        ),
    ],
    evaluations: Annotated[
        int, typer.Option(metavar="N", min=1, help="Different subnets that are measured in all.")
    ] = 200,
    limits: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X...",
            help="Bounds of the front: the most of a cost, the least of a quality, as in latency_ms=8 "
            "macs=25% accuracy=0.9.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Task that subnets are judged by, as for `make`. Default: all classes."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Labelled data to judge by, as for `evaluate`; the part is taken that training holds out. "
            "Default: those in NETWORK.",
        ),
    ] = None,
    attributes: Annotated[
        str, typer.Option(metavar="COLUMN,...", help="Columns of --data that hold properties.")
    ] = "",
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the class in --data, if not found.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the image in --data, if not found.")
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(metavar="N", min=2, help="Most labelled pictures or texts that a subnet is judged by."),
    ] = 1000,
    sampler: Annotated[
        Literal["linas", "nsga2", "random", "exhaustive"],
        typer.Option(help="How subnets are chosen; linas asks predictors."),
    ] = "linas",
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL|FILE",
            help="Earlier search of the same network to learn from, such as one for another device or task: "
            "its folder, or the storage where it was kept.",
        ),
    ] = None,
    warm_start_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the earlier search in the storage --warm-start. Default: search.",
            show_default=False,
        ),
    ] = None,
    narrow: Annotated[
        bool,
        typer.Option("--narrow/--no-narrow", help="Let linas narrow the space to what the front shows."),
    ] = False,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Most measurements of a subnet; above 1, those of the front and their rivals are measured "
            "again in the end until noise cannot have put them there.",
        ),
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="Where evaluations are kept: a file of SQLite, or the address of a database that machines "
            "share. Default: search.db in --out.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the study in the storage.")] = "search",
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes that measure; leave a core for each.")
    ] = 1,
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, help="Threads of each process and of the runtime.")
    ] = 1,
    runtime: Annotated[
        Literal["ort", "openvino"],
        typer.Option(help="What latency_ms and energy_mj are measured with here."),
    ] = "ort",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the sampler, of scenes and of texts.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the front as one line of JSON.")] = False,
) -> None:
    """Search a network for the subnets that no other beats.

    Every subnet that is measured gets its own normalisation first, re-estimated on unlabelled pictures. The
    same command goes on where it was stopped, and may run on several machines with one --storage. A point of
    the front becomes a model folder by `brickyard make DIR --from-front PLACE`. Exit code 2: no subnet that
    was measured keeps the limits.
    """
    from brickyard.factory.earlier import find_earlier
    from brickyard.factory.measures import read_measures
    from brickyard.factory.searching import SearchSetup, search_network, told_errors

    wanted, bounds = read_measures(objectives, limits or ())
    columns = tuple(column.strip() for column in attributes.split(",") if column.strip())
    given = {"--attributes": columns, "--label": label, "--image": image}
    named = next((option for option, value in given.items() if value), None)
    if data is None and named is not None:
        raise typer.BadParameter("it is about --data; name those too, or leave it out", param_hint=named)
    if warm_start is None and warm_start_name is not None:
        raise typer.BadParameter(
            "it is about --warm-start; name that too, or leave it out", param_hint="--warm-start-name"
        )
    setup = SearchSetup(
        network=network,
        task=task,
        objectives=wanted,
        limits=bounds,
        data=None
        if data is None
        else {"data": data, "attributes": columns, "label": label, "image": image, "seed": seed},
        pictures=pictures,
        threads=threads,
        runtime=runtime,
        seed=seed,
        name=name,
    )
    _quieten()
    earlier = None if warm_start is None else find_earlier(warm_start, warm_start_name)
    for line in told_errors(setup):
        say(line)
    shown: set[int] = set()
    try:
        with Meter() as meter:

            def progress(done: int, total: int) -> None:
                if done not in shown:  # asked several times a second where processes measure
                    shown.add(done)
                    again = (
                        f"; the front again, up to {repeats} times" if done >= total and repeats > 1 else ""
                    )
                    meter("search", done, total, f"subnets measured{again}")

            result = search_network(
                setup,
                out=out,
                evaluations=evaluations,
                storage=storage,
                sampler=sampler,
                warm_start=earlier,
                narrow=narrow,
                repeats=repeats,
                workers=workers,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"stopped. What was measured is kept; give the same command again to go on with {out}")
        raise typer.Exit(_INTERRUPTED) from None
    if json:
        emit(result.to_json())
    elif result.front:
        typer.echo(_table(result))
        typer.echo(f"front      {out / 'front.csv'}, picture {out / 'front.png'}")
        typer.echo(f"a model    brickyard make {out} --from-front PLACE --out MODEL")
    if not result.front:
        complain(f"none of {len(result.points)} subnets keeps the limits; {out / 'evaluations.csv'} has them")
        raise typer.Exit(_NOTHING_FITS)


def _quieten() -> None:
    """Let Optuna tell warnings alone: the meter tells the rest."""
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", extra="search") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _table(result: Result) -> str:
    """Return the front with its objectives and limited numbers, one line for each place."""
    names = [objective.name for objective in result.objectives]
    names += [limit.name for limit in result.limits if limit.name not in names]
    rows = [["place", *names]]
    for place, point in enumerate(result.front):
        rows.append([str(place), *(f"{point.metrics[name]:.6g}" for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
