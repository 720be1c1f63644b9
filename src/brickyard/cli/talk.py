"""How commands talk: results and JSON lines on stdout, progress and complaints on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET_SECONDS = 5.0
_INTERRUPTED = 130


def say(text: str) -> None:
    """Print talk on stderr."""
    typer.echo(text, err=True)


def complain(text: str) -> None:
    """Print an error on stderr, on one line."""
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(" ".join(text.split()), err=True)


def warn(text: str) -> None:
    """Print a warning on stderr, on one line."""
    typer.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
    typer.echo(" ".join(text.split()), err=True)


def emit(record: Any) -> None:
    """Print a record as one line of JSON on stdout, at once."""
    typer.echo(json.dumps(record, allow_nan=False))
    sys.stdout.flush()


def read_size(text: str | None) -> int | tuple[int, int] | None:
    """Read `PIXELS` or `HEIGHTxWIDTH`.

    Raises:
        typer.BadParameter: The text is neither.
    """
    if text is None:
        return None
    parts = text.casefold().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(
            f"{text!r} is no size; give a side such as 64, or height x width such as 240x320",
            param_hint="--size",
        )
    sides = [int(part) for part in parts]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


class Meter:
    """Shows how far work is, by stage: a bar where stderr is a terminal, else a plain line every few seconds.

    Use it in a `with` block and call it as `meter(stage, done, total, text)`.
    """

    def __init__(self) -> None:
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress | None = None
        self._lines: dict[str, tuple[float, float, int]] = {}

    def __enter__(self) -> Meter:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._progress = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=30),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        """Take note of `done` of `total` steps of a stage."""
        now = time.monotonic()
        started, spoken, first = self._lines.get(stage, (now, float("-inf"), done))
        rate = (done - first) / (now - started) if now > started else 0.0
        shown = f"{rate:.1f}/s" if rate else ""
        if self._progress is not None:
            if stage not in self._bars:
                self._bars[stage] = self._progress.add_task(stage, total=total, text=text, rate="")
            self._progress.update(self._bars[stage], completed=done, total=total, text=text, rate=shown)
        elif now - spoken >= _QUIET_SECONDS or done == total:
            left = f", {_span((total - done) / rate)} left" if rate and done < total else ""
            say(f"{stage} {done}/{total} {text}{f' ({shown}{left})' if shown else ''}")
            spoken = now
        self._lines[stage] = (started, spoken, first)


def follow_training(
    train: Callable[[Meter], object],
    *,
    out: Path,
    what: str = "factory",
    report: str = "training/report.html",
) -> None:
    """Run a training under a progress bar, and tell where its result lies.

    Args:
        train: Trains; is given the meter.
        out: Folder of the result.
        what: What the result is.
        report: Path in the folder of what people look at.

    Raises:
        typer.Exit: It was interrupted, code 130; that it can go on is said.
    """
    try:
        with Meter() as meter:
            train(meter)
    except KeyboardInterrupt:
        say(f"stopped. Checkpoints lie in {out}.training; give the same command again to go on")
        raise typer.Exit(_INTERRUPTED) from None
    typer.echo(f"{what:<11}{out}")
    typer.echo(f"{'report':<11}{out / report}")


def _span(seconds: float) -> str:
    """Return a time in words of at most two units."""
    minutes, rest = divmod(round(seconds), 60)
    hours = f"{minutes // 60} h {minutes % 60} min"
    return hours if minutes >= 60 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
