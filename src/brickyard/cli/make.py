"""`brickyard make`: a task and a budget become a model folder; or a whole file of requests does."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from brickyard.cli.talk import Meter, complain, emit, say, warn
from brickyard.core.errors import InfeasibleError, MissingExtraError

if TYPE_CHECKING:
    from brickyard.factory.factory import Factory
    from brickyard.factory.records import Report

_INFEASIBLE_EXIT = 2


def make(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="FACTORY",
            help="A factory: a folder, the name of a bundled one, or a hub id (owner/name); with "
            "--from-front the folder of a search; or the folder of an encoder with exits.",
        ),
    ] = "geometry",
    *,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What the model shall do, in words of the factory; or NAME or `NAME: words` of a task that "
            "it learned later. Default: all its classes, limited by the budget alone.",
        ),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(metavar="X", help="Ceiling on the median latency of one picture on the device."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="Device profile that latency and energy refer to, or a CSV table of block times; for an "
            "encoder with exits the exits.json that `evaluate` wrote there. Default: this machine, profiled "
            "on first use.",
        ),
    ] = None,
    format: Annotated[
        Literal["onnx", "onnx-int8", "openvino", "executorch"] | None,
        typer.Option(
            help="Format of the model's file. onnx-int8 is quantised on the factory's calibration inputs; "
            "openvino and executorch need their extras. Default: what the device's runtime runs, onnx for "
            "most.",
            show_default=False,
        ),
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(
            metavar="N|25%",
            help="Ceiling on the MACs of one picture, or on their share of the whole network.",
        ),
    ] = None,
    max_parameters: Annotated[
        int | None, typer.Option(metavar="N", help="Ceiling on the parameters.")
    ] = None,
    max_file_mb: Annotated[
        float | None,
        typer.Option(metavar="X", help="Ceiling on the size of the model's file, in 10^6 bytes."),
    ] = None,
    max_memory_mb: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Ceiling on the peak of memory that the file takes in ONNX Runtime, measured in a process "
            "of its own, in 10^6 bytes; for the formats onnx and onnx-int8.",
        ),
    ] = None,
    energy_mj: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Ceiling on the energy of one picture, idle power included, in millijoules. Needs an energy "
            "counter of this machine, or a --device that tells energy.",
        ),
    ] = None,
    measure_memory: Annotated[
        bool,
        typer.Option("--measure-memory", help="Measure the memory even where it is not limited."),
    ] = False,
    requests: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Make a model for each line: a JSON object with the keys task, budget, device, format, "
            "seed, name, all optional. Identical requests are made once; a run that was stopped goes on.",
        ),
    ] = None,
    from_front: Annotated[
        int | None,
        typer.Option(
            metavar="PLACE",
            min=0,
            help="Make the point of this place in front.csv, from 0, of the folder that `search` wrote.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Lines of --requests that are worked on at the same time. Default: 1.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Model folder to write, must be new or empty; with --requests their parent."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Threads of this machine; 1 by default. A profile brings its own."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of the candidates and of the scenes for quality. Default: 0."),
    ] = None,
    decode: Annotated[
        Literal["inside", "outside"] | None,
        typer.Option(
            help="Detectors: whether the graph reads boxes from the maps, or your code does (decode.json). "
            "Default: outside."
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="X", help="Detectors: least score of a box. Default: 0.3.")
    ] = None,
    nms_iou: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Detectors: drop boxes that overlap a better one of their label by more than this. "
            "Default: none.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as one line of JSON per model.")
    ] = False,
) -> None:
    """Make a model for a task within a budget, without training.

    Writes a folder with model.onnx, or files of another format, its plain torch twin, labels, preprocessing,
    and a report. Exit code 2: no model fits; the binding limit, its smallest value and the nearest model are
    told.
    """
    from brickyard.factory.factory import Factory
    from brickyard.factory.records import Budget

    given = {
        "latency_ms": latency_ms,
        "max_macs": max_macs,
        "max_parameters": max_parameters,
        "max_file_mb": max_file_mb,
        "max_memory_mb": max_memory_mb,
        "energy_mj": energy_mj,
    }
    limits = {name: value for name, value in given.items() if value is not None}
    asked = {"decode": decode, "threshold": threshold, "nms_iou": nms_iou}
    decoding: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if out is None:
        raise typer.BadParameter("it is missing; name a folder to write", param_hint="--out")
    if device is not None and threads is not None:
        raise typer.BadParameter(
            "a device profile has its own threads; leave one of both out", param_hint="--threads"
        )
    if from_front is not None:
        others = {"task": task, "device": device, "requests": requests, "threads": threads}
        others |= {"jobs": jobs, "seed": seed}
        if measure_memory:
            others["measure_memory"] = True
        _refuse_others({**others, **limits, **decoding})
        _make_from_front(factory, from_front, out=out, format=format, json=json)
        return
    from brickyard.factory.exit_records import has_exits

    if has_exits(factory):
        others = {"task": task, "requests": requests, "jobs": jobs, "seed": seed, **decoding}
        others |= {"format": None if format == "onnx" else format, "measure_memory": measure_memory or None}
        for name, value in others.items():
            if value is not None:
                raise typer.BadParameter(
                    "it is not for an encoder with exits; leave the option out",
                    param_hint=f"--{name.replace('_', '-')}",
                )
        _make_exit(factory, limits, out=out, device=device, threads=threads or 1, json=json)
        return
    if requests is not None:
        if decoding:
            raise typer.BadParameter(
                "models of a file of requests are decoded outside; leave the option out",
                param_hint=f"--{next(iter(decoding)).replace('_', '-')}",
            )
        if task is not None or limits or measure_memory:
            raise typer.BadParameter(
                "tasks and limits stand in the file; leave their options and --measure-memory out",
                param_hint="--requests",
            )
        defaults = {"device": device, "format": format, "seed": seed or 0}
        loaded, at_once = Factory.load(factory), jobs or 1
        _make_all(loaded, requests, defaults, out=out, threads=threads or 1, jobs=at_once, json=json)
        return
    if jobs is not None:
        raise typer.BadParameter("it is for --requests; leave it out", param_hint="--jobs")
    budget = Budget(**limits)
    loaded = Factory.load(factory)
    try:
        with Meter() as meter:
            report = loaded.make(
                task=task,
                budget=budget,
                device=device,
                format=format,
                out=out,
                threads=threads or 1,
                seed=seed or 0,
                **decoding,
                measure_memory=measure_memory,
                progress=lambda done, total, text: meter("profile", done, total, text),
            )
    except InfeasibleError as error:
        _tell_infeasible(error, task=task, limits=limits, json=json)
        raise typer.Exit(_INFEASIBLE_EXIT) from None
    _tell(report, json=json)


def _tell(report: Report, *, json: bool) -> None:
    if json:
        emit(report.model_dump(mode="json"))
    else:
        from brickyard.cli.summary import summary

        typer.echo(summary(report))
    if report.format_check is not None and report.format_check.warning is not None:
        warn(report.format_check.warning)


def _refuse_others(options: dict[str, Any]) -> None:
    named = next((name for name, value in options.items() if value is not None), None)
    if named is not None:
        raise typer.BadParameter(
            "the search has decided that for its front; leave the option out",
            param_hint=f"--{named.replace('_', '-')}",
        )


def _make_from_front(folder: str, place: int, *, out: Path, format: str | None, json: bool) -> None:
    from brickyard.factory.from_front import make_from_front
    from brickyard.factory.text_records import TextReport

    with Meter() as meter:
        report = make_from_front(folder, place, out=out, format=format or "onnx", progress=meter)
    if not isinstance(report, TextReport):
        _tell(report, json=json)
    elif json:
        emit(report.model_dump(mode="json"))
    else:
        from brickyard.cli.summary import text_summary

        typer.echo(text_summary(report))


def _make_exit(
    folder: str, limits: dict[str, Any], *, out: Path, device: str | None, threads: int, json: bool
) -> None:
    for library, extra in (("torch", "train"), ("transformers", "transformers"), ("onnxscript", "train")):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra=extra)
    from brickyard.factory.exit_make import make_exit
    from brickyard.factory.records import Budget

    try:
        with Meter() as meter:
            report = make_exit(
                folder,
                budget=Budget(**limits),
                out=out,
                device=device,
                threads=threads,
                progress=lambda stage, done, total: meter(stage, done, total, ""),
            )
    except InfeasibleError as error:
        _tell_infeasible(error, task=None, limits=limits, json=json)
        raise typer.Exit(_INFEASIBLE_EXIT) from None
    if json:
        emit(report.model_dump(mode="json"))
    else:
        from brickyard.cli.summary import exit_summary

        typer.echo(exit_summary(report))


def _tell_infeasible(error: InfeasibleError, *, task: str | None, limits: dict[str, Any], json: bool) -> None:
    from brickyard.factory.bulk import failure

    complain(str(error))
    say(f"  binding limit {error.limit}: requested {error.requested:.6g}, smallest {error.smallest:.6g}")
    if error.nearest is not None:
        raised = ", ".join(f"{name} {value:.6g}" for name, value in error.nearest["limits"].items())
        costs = ", ".join(f"{name} {value:.6g}" for name, value in error.nearest["costs"].items())
        say(f"  nearest feasible model: limits {raised}; it costs {costs}")
    if json:
        emit(failure(error, task=task, budget=limits))


def _make_all(
    factory: Factory,
    file: Path,
    defaults: dict[str, Any],
    *,
    out: Path,
    threads: int,
    jobs: int,
    json: bool,
) -> None:
    from brickyard.cli.requests import read_requests

    numbered = read_requests(file, lambda text: factory.parse(text)[1], out=out)
    defaults = {name: value for name, value in defaults.items() if value is not None}
    requests = [{**defaults, **request} for _, request in numbered]
    failed: list[str] = []
    with Meter() as meter:
        answers = factory.make_all(
            requests,
            out=out,
            threads=threads,
            jobs=jobs,
            progress=lambda done, total, text: meter("make", done, total, text),
        )
        for (line, request), answer in zip(numbered, answers, strict=True):
            if not answer["feasible"]:
                failed.append(f"line {line} ({request.get('task') or 'all'}): {answer['error']}")
            if json:
                emit(answer)
            elif answer["feasible"]:
                typer.echo(_row(answer))
            if answer["feasible"] and (answer["format_check"] or {}).get("warning"):
                warn(f"line {line}: {answer['format_check']['warning']}")
    if failed:
        complain(f"{len(failed)} of {len(requests)} requests failed")
        for reason in failed:
            say(f"  {reason}")
        raise typer.Exit(_INFEASIBLE_EXIT)


def _row(answer: dict[str, Any]) -> str:
    from brickyard.factory.records import METRIC_NAMES

    quality = answer["quality"]
    value = "" if quality is None else f", {METRIC_NAMES[quality['metric']]} {quality['value']:.3f}"
    return (
        f"{Path(answer['files']['model']).parent}: {answer['task']}, {answer['measured']['p50']:.3f} ms, "
        f"{answer['macs_share']:.1%} of the MACs, {answer['file_bytes'] / 1e6:.3f} MB{value}"
    )
