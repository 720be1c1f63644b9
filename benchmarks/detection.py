"""The benchmark of detectors: scenes with known and unseen combinations of words, and blood cells.

    python benchmarks/detection.py                     everything, from the kept factories
    python benchmarks/detection.py --train             trains what lacks first (about half an hour a seed)
    python benchmarks/detection.py --quick --json      about a minute; the rest from the newest kept CSV

Every number is a row of a CSV file below benchmarks/results.
"""

from __future__ import annotations

import argparse

import _adaptor
import _detect
import numpy as np
from _command import begin, finish, ledger_of, options
from _record import Ledger, Row, columns, mean, pick, say

SECTIONS = ("geometry", "bccd")

# What is wanted of each figure; a text, since it is printed.
TARGETS = {
    "ap50_known_50": ">= 0.90",
    "ap50_unseen_50": ">= 0.85",
    "bccd_gap_100": "<= 0.03",
    "bccd_gap_50": "<= 0.05",
    "platelets_loss": "<= 0.03",
}


def _differences(better: list[Row], worse: list[Row]) -> list[float]:
    """Return for each seed how much less the second method reaches."""
    seeds = sorted({row.seed for row in better} & {row.seed for row in worse})
    pairs = [(mean(pick(better, seed=seed)), mean(pick(worse, seed=seed))) for seed in seeds]
    return [one - other for one, other in pairs if one is not None and other is not None]


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down to the figures, means over seeds.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        The figures by name, None where nothing was ever measured; and a table of them with targets, the worst
        seed and the number of seeds.
    """
    scenes = pick(ledger.section("geometry"), method="ours", metric="AP50", limit="50%")
    cells = pick(ledger.section("bccd"), metric="AP50")
    dense = pick(cells, method="trained without gates")
    by_seed: dict[str, list[float]] = {}
    for group in ("known", "unseen"):
        rows = pick(scenes, group=group)
        by_seed[f"ap50_{group}_50"] = [
            float(np.mean([row.value for row in pick(rows, seed=seed)]))
            for seed in sorted({row.seed for row in rows})
        ]
    for limit in ("100", "50"):
        ours = pick(cells, method="ours", limit=f"{limit}%")
        by_seed[f"bccd_gap_{limit}"] = _differences(dense, ours)
    by_seed["platelets_loss"] = _differences(
        pick(cells, method="platelets: ours, no limit"), pick(cells, method="platelets: ours, half latency")
    )
    values: dict[str, float | None] = {}
    lines = [("figure", "value", "wanted", "worst seed", "seeds")]
    for name, wanted in TARGETS.items():
        found = by_seed[name]
        values[name] = float(f"{np.mean(found):.5g}") if found else None
        worst = (min if name.startswith("ap50") else max)(found, default=None)
        shown = ("-" if number is None else f"{number:.4f}" for number in (values[name], worst))
        value, least = shown
        lines.append((name, value, wanted, least, str(len(found))))
    return values, columns(lines)


def _measure(ledger: Ledger, arguments: argparse.Namespace, wanted: list[str]) -> None:
    for name in wanted:
        seeds = arguments.seeds[:1] if arguments.quick and name == "geometry" else arguments.seeds
        entries = _detect.kept_detectors(name, seeds, kept=arguments.kept)
        say(f"-- {name}")
        if name == "bccd" and not _adaptor.has_bccd():
            say("bccd: left out; name the folder of real data by --data DIR or " + _adaptor.VARIABLE)
        elif not entries:
            say(f"{name}: no kept factory; make one with --train")
        elif name == "geometry":
            most = arguments.most or (6 if arguments.quick else None)
            _detect.geometry(ledger, entries, most=most, count=100 if arguments.quick else _detect.SCENES)
        else:
            _detect.bccd(ledger, entries, kept=arguments.kept, threads=arguments.threads)


def _train(arguments: argparse.Namespace, wanted: list[str]) -> None:
    for seed in arguments.seeds:
        for name in wanted:
            if name == "bccd" and not _adaptor.has_bccd():
                continue
            common = {"threads": arguments.threads, "kept": arguments.kept}
            say(str(_detect.train(name, seed, **common)))
            if name == "bccd":
                say(str(_detect.train_ungated(name, seed, **common)))


def _arguments() -> argparse.Namespace:
    parser = options(__doc__, SECTIONS)
    parser.add_argument(
        "--train", action="store_true", help="train what lacks; a killed run goes on where it was"
    )
    parser.add_argument("--train-only", action="store_true", help="train what lacks, and measure nothing")
    parser.add_argument("--most", type=int, help="most tasks of each group of scenes")
    return parser.parse_args()


def main() -> None:
    """Read the command line, measure, print tables to stderr (stdout without --json) and the figures."""
    arguments = _arguments()
    wanted = begin(arguments, SECTIONS, SECTIONS)
    if arguments.train or arguments.train_only:
        _train(arguments, wanted)
    if arguments.train_only:
        return
    ledger = ledger_of(arguments, "detection")
    _measure(ledger, arguments, wanted)
    finish(ledger, arguments, SECTIONS, figures)


if __name__ == "__main__":
    main()
