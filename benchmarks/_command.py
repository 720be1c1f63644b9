"""What the command lines of the benchmarks share: options, sections, tables, figures."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import _adaptor
from _factories import KEPT, use_threads
from _record import Ledger, say, table

RESULTS = Path(__file__).parent / "results"
Figures = Callable[[Ledger], tuple[dict[str, float | None], str]]
"""From the rows to the figures by name, and a table of them."""


def numbers(text: str) -> list[int]:
    """Read whole numbers with commas between."""
    return [int(part) for part in text.split(",")]


def options(doc: str | None, sections: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has.

    Args:
        doc: What the benchmark does.
        sections: Its sections.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", help=f"sections, with commas: {','.join(sections)}")
    parser.add_argument(
        "--quick", action="store_true", help="measure what a minute allows, take the rest from kept CSV"
    )
    parser.add_argument(
        "--json", action="store_true", help="end with one line of JSON on stdout: the figures"
    )
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="seeds to measure")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and of the runtime")
    parser.add_argument(
        "--data", help=f"folder of real data; else the environment variable {_adaptor.VARIABLE}"
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="where factories are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the CSV files lie")
    return parser


def begin(arguments: argparse.Namespace, sections: Sequence[str], quick: Sequence[str]) -> list[str]:
    """Prepare the process and return the sections that are wanted.

    Args:
        arguments: The command line.
        sections: All sections.
        quick: Those of a quick run.

    Raises:
        SystemExit: A section is unknown.
    """
    wanted = arguments.only.split(",") if arguments.only else list(quick if arguments.quick else sections)
    unknown = [name for name in wanted if name not in sections]
    if unknown:
        raise SystemExit(f"section {unknown[0]!r} is unknown; known: {', '.join(sections)}")
    if arguments.data:
        os.environ[_adaptor.VARIABLE] = arguments.data
    use_threads(arguments.threads)
    return wanted


def ledger_of(arguments: argparse.Namespace, benchmark: str) -> Ledger:
    """Return the ledger of a run."""
    mode = "quick" if arguments.quick else "full"
    return Ledger(arguments.results, mode=mode, threads=arguments.threads, benchmark=benchmark)


def finish(
    ledger: Ledger,
    arguments: argparse.Namespace,
    sections: Sequence[str],
    figures: Figures,
    layout: Callable[[Ledger, str], str] = table,
) -> None:
    """Print tables to stdout (stderr with --json), then the figures.

    Args:
        ledger: The rows.
        arguments: The command line.
        sections: Sections to show.
        figures: Boils the rows down.
        layout: Lays out a section as a text, an empty one where it has no rows.
    """
    write = say if arguments.json else print
    for name in sections:
        if ledger.section(name) and (text := layout(ledger, name)):
            write(text + "\n")
    values, text = figures(ledger)
    write(f"== figures: {ledger.device}, {arguments.threads} thread(s), fp32\n{text}")
    if ledger.rows:
        write(f"rows appended to {ledger.path}")
    if arguments.json:
        print(json.dumps(values))
