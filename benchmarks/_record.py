"""Results as rows: kept in CSV files, shown as tables, boiled down to figures."""

from __future__ import annotations

import csv
import math
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from brickyard.devices.measure import processor_name
from brickyard.factory.folder import versions


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number and what it belongs to.

    Attributes:
        section: Part of the benchmark.
        method: What was measured.
        metric: What of it, with its unit.
        value: The number.
        group: `known`, `unseen`, or empty.
        task: Task, empty where there is none.
        limit: Share of MACs, or another ceiling.
        seed: Seed of the factory.
        count: Examples or runs behind the number.
        note: What else has to be said.
        run: When this run started, UTC.
        mode: `full` or `quick`.
        device: Processor.
        threads: Threads of torch and of the runtime.
        precision: Numbers computed with.
        versions: Versions of the libraries.
    """

    section: str
    method: str
    metric: str
    value: float
    group: str = ""
    task: str = ""
    limit: str = ""
    seed: str = ""
    count: int = 0
    note: str = ""
    run: str = ""
    mode: str = ""
    device: str = ""
    threads: int = 1
    precision: str = "fp32"
    versions: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it the same measurement as an earlier one."""
        return (self.section, self.method, self.metric, self.group, self.task, self.limit, self.seed)


class Ledger:
    """The rows of this run, appended to a CSV file, and those of earlier runs.

    Args:
        folder: Folder of the CSV files.
        mode: `full` or `quick`.
        threads: Threads that everything ran with.
        benchmark: Name of the benchmark, with which the names of its CSV files begin.
    """

    def __init__(self, folder: Path, *, mode: str, threads: int, benchmark: str = "customize") -> None:
        now = datetime.now(UTC)
        self.folder, self.run, self.mode, self.threads = (
            folder,
            now.isoformat(timespec="seconds"),
            mode,
            threads,
        )
        self.device = f"{platform.machine()} {processor_name()}"
        slug = re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")
        self.path = folder / f"{benchmark}-{now:%Y-%m-%d}-{slug}-{threads}t-fp32.csv"
        found = versions("torch", "torch-pruning", "scikit-learn")
        self.versions = " ".join(f"{name}={number}" for name, number in found.items())
        self.earlier = _read(folder, benchmark)
        self.rows: list[Row] = []

    def add(self, section: str, method: str, metric: str, value: float, **more: object) -> None:
        """Keep a row; further fields of `Row` by name."""
        row = Row(section=section, method=method, metric=metric, value=float(value), **more)  # type: ignore[arg-type]
        stamp = {"run": self.run, "mode": self.mode, "device": self.device, "threads": self.threads}
        self._append(replace(row, versions=self.versions, seed=str(row.seed), **stamp))  # type: ignore[arg-type]

    def _append(self, row: Row) -> None:
        self.rows.append(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = not self.path.is_file()
        with self.path.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, [field.name for field in fields(Row)])
            if fresh:
                writer.writeheader()
            writer.writerow({**asdict(row), "value": f"{row.value:.6g}"})

    def section(self, name: str) -> list[Row]:
        """Return the rows of a section: what this run measured if it did, else the newest full ones.

        In a full run both are joined, since seeds may have been measured one after the other.
        """
        now = [row for row in self.rows if row.section == name]
        if now and self.mode == "quick":
            methods = {(row.method, row.metric) for row in now}
            return now + [row for row in self._kept(name) if (row.method, row.metric) not in methods]
        return list({row.key: row for row in [*self._kept(name), *now]}.values())

    def most_counted(self, name: str) -> list[Row]:
        """Return the rows of a section that rest on most examples, of this run or kept; then the newest.

        A minute allows few examples, which say less than what was measured on all.
        """
        found: dict[tuple[str, ...], Row] = {}
        for row in [*self._kept(name), *(row for row in self.rows if row.section == name)]:
            key = (row.method, row.metric, row.group, row.task, row.limit, str(row.seed))
            if key not in found or row.count >= found[key].count:
                found[key] = row
        return list(found.values())

    def _kept(self, name: str) -> list[Row]:
        rows = [row for row in self.earlier if row.section == name and row.mode == "full"]
        return list({row.key: row for row in sorted(rows, key=lambda row: row.run)}.values())


def _read(folder: Path, benchmark: str) -> list[Row]:
    rows = []
    for path in sorted(folder.glob(f"{benchmark}-*.csv")):
        with path.open(newline="") as stream:
            for record in csv.DictReader(stream):
                numbers = {"value": float(record["value"]), "count": int(record["count"])}
                rows.append(Row(**{**record, **numbers, "threads": int(record["threads"])}))  # type: ignore[arg-type]
    return rows


def pick(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Return the rows whose fields have the given values."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def by_seed(rows: Sequence[Row], reduce: Callable[[Sequence[float]], float] = np.mean) -> list[float]:
    """Reduce over tasks within each seed; one number per seed."""
    seeds = sorted({row.seed for row in rows})
    return [float(reduce([row.value for row in rows if row.seed == seed])) for seed in seeds]


def mean(rows: Sequence[Row]) -> float | None:
    """Return the mean over seeds of the means over tasks; None without rows."""
    return float(np.mean(by_seed(rows))) if rows else None


def say(text: str) -> None:
    """Talk to the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def table(ledger: Ledger, section: str) -> str:
    """Lay out a section: one line for each method, group and limit, means over tasks, spread over seeds."""
    rows = ledger.section(section)
    lines: list[tuple[str, ...]] = [
        ("method", "metric", "tasks", "limit", "mean", "least", "most", "n", "seeds", "source")
    ]
    seen: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        seen.setdefault((row.method, row.metric, row.group, row.limit), []).append(row)
    for (method, metric, group, limit), held in seen.items():
        numbers = by_seed(held)
        runs = {row.run for row in held}
        source = "this run" if runs == {ledger.run} else f"kept {min(run[:10] for run in runs)}"
        if ledger.run in runs and len(runs) > 1:
            source = "partly kept"
        spread = [_short(number) for number in (float(np.mean(numbers)), min(numbers), max(numbers))]
        counts = (str(len(held)), str(len(numbers)))
        lines.append((method, metric, group, limit, *spread, *counts, source))
    notes = sorted({f"{row.method}: {row.note}" for row in rows if row.note and not row.task})
    return "\n".join([f"== {section}", columns(lines), *(f"  {note}" for note in notes)])


def _short(number: float) -> str:
    if math.isnan(number):
        return "-"
    return f"{number:.4g}" if abs(number) < 1e5 else f"{number:.0f}"


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lay out lines of cells in columns as wide as needed."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
