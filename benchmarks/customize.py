"""The benchmark of the main job: quality of made models, controls, peers, time, limits, cost of cutting.

    python benchmarks/customize.py                     everything, from the kept factories
    python benchmarks/customize.py --only time,limits  some sections
    python benchmarks/customize.py --quick --json      about a minute; the rest from the newest kept CSV

Every number is a row of a CSV file below benchmarks/results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

import _adaptor
import numpy as np
from _command import begin, finish, ledger_of, numbers, options
from _factories import Kept, kept_factories
from _record import Ledger, Row, columns, mean, pick, say

if TYPE_CHECKING:
    from _peers import Effort

SECTIONS = ("quality", "controls", "peers", "time", "limits", "overhead", "digits", "cifar")
QUICK = ("quality", "controls", "time", "limits", "overhead")

# What is wanted of each figure; a text, since it is printed.
TARGETS = {
    "known_25": ">= 0.97",
    "unseen_25": ">= 0.93",
    "known_50": ">= 0.98",
    "unseen_50": ">= 0.96",
    "wrong_task_25": "0.47 to 0.53",
    "random_gates_25": "0.47 to 0.53",
    "warm_seconds": "<= 1.5, beyond: <= 0.2",
    "search_ms": "<= 50",
    "cold_seconds": "<= 6, beyond: <= 1",
    "speedup": ">= 100",
    "limits_met_share": ">= 0.97",
    "latency_mape": "<= 0.05",
    "cut_overhead": "<= 1.02",
}


def _rows(ledger: Ledger) -> dict[str, list[Row]]:
    """Return the rows behind each figure but the speedup."""
    quality = pick(ledger.section("quality"), method="ours", metric="balanced accuracy")
    controls = pick(ledger.section("controls"), limit="25%")
    time, limits = ledger.section("time"), ledger.section("limits")
    found = {
        f"{group}_{limit}": pick(quality, group=group, limit=f"{limit}%")
        for limit in (25, 50)
        for group in ("known", "unseen")
    }
    return {
        **found,
        "wrong_task_25": pick(controls, method="gates of a wrong task"),
        "random_gates_25": pick(controls, method="random gates of equal cost"),
        "warm_seconds": pick(time, method="warm request"),
        "search_ms": pick(time, method="search"),
        "cold_seconds": pick(time, method="cold command"),
        "limits_met_share": pick(limits, method="latency requests met, file measured again"),
        "latency_mape": pick(limits, method="predicted latency of held-out subnets"),
        "cut_overhead": pick(ledger.section("overhead"), metric="ratio of latency, median"),
    }


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        The figures by name, None where nothing was ever measured; and a table of them with targets and
        sources.
    """
    values: dict[str, float | None] = {}
    sources: dict[str, str] = {}
    for name, rows in _rows(ledger).items():
        values[name] = mean(rows)
        runs = sorted({row.run for row in rows})
        now = ledger.run in runs
        sources[name] = (
            "never measured" if not runs else "this run" if runs == [ledger.run] else f"kept {runs[0][:10]}"
        )
        if now and len(runs) > 1:
            sources[name] = f"this run and kept {runs[0][:10]}"
        if now and ledger.mode == "quick":
            sources[name] += f", quick: {len(rows)} rows"
    from _time import speedup

    ratio = speedup(ledger)
    values["speedup"], sources["speedup"] = ratio or (None, "never measured")
    rounded = {name: None if values[name] is None else float(f"{values[name]:.5g}") for name in TARGETS}
    lines = [("figure", "value", "wanted", "source")]
    lines += [
        (name, "-" if rounded[name] is None else str(rounded[name]), TARGETS[name], sources[name])
        for name in TARGETS
    ]
    return rounded, columns(lines)


def _measure(ledger: Ledger, arguments: argparse.Namespace, wanted: list[str]) -> None:
    quick, threads = arguments.quick, arguments.threads
    geometry = kept_factories("geometry", arguments.seeds, kept=arguments.kept)
    most = arguments.most or (8 if quick else None)
    requests = arguments.requests or (16 if quick else 100)
    count = 200 if quick else 400

    def peers() -> None:
        from _peers import geometry_trial, run_trial

        for place, entry in enumerate(geometry):
            effort = _effort(arguments, alone=arguments.alone if place == 0 else 0)
            run_trial(ledger, geometry_trial(entry, most=arguments.most), effort)

    def of_classes(what: str, subsets: int) -> None:
        from _classes import classes

        entries = kept_factories(what, arguments.seeds, kept=arguments.kept)
        if entries:
            classes(
                ledger,
                what,
                entries,
                _effort(arguments, alone=arguments.alone),
                count=arguments.most or subsets,
            )
        else:
            say(f"{what}: no kept factory; make one with --train")

    def simple(name: str) -> None:
        from _limits import limits
        from _overhead import overhead
        from _quality import controls, quality
        from _time import timing

        first: Kept = geometry[0]
        {
            "quality": lambda: quality(ledger, geometry, most=most, count=count),
            "controls": lambda: controls(ledger, geometry, most=most, count=count),
            "time": lambda: timing(ledger, first, threads=threads),
            "limits": lambda: limits(ledger, first, requests=requests, threads=threads),
            "overhead": lambda: overhead(ledger, first, configs=6 if quick else 12, threads=threads),
        }[name]()

    others: dict[str, Callable[[], None]] = {
        "digits": lambda: of_classes("digits", 12),
        "cifar": lambda: of_classes("cifar10", 6),
    }
    for name in wanted:
        say(f"-- {name}")
        if name == "cifar" and not _adaptor.has_cifar10():
            say("cifar: left out; name the folder of real data by --data DIR or " + _adaptor.VARIABLE)
        elif name in ("digits", "cifar"):
            others[name]()
        elif not geometry:
            say(f"{name}: no kept geometry factory; make one with --train")
        else:
            peers() if name == "peers" else simple(name)


def _effort(arguments: argparse.Namespace, *, alone: int) -> Effort:
    from _peers import Effort

    return Effort(
        tune_steps=arguments.tune_steps,
        schedules=arguments.schedules,
        short_schedules=arguments.short_schedules,
        alone=alone,
        most=arguments.most,
        threads=arguments.threads,
    )


def _train_missing(arguments: argparse.Namespace, wanted: list[str]) -> None:
    from _factories import kept_factory
    from _train_factories import train

    needed = {"digits": "digits", "cifar": "cifar10"}
    for what in dict.fromkeys(needed.get(name, "geometry") for name in wanted):
        if what == "cifar10" and not _adaptor.has_cifar10():
            continue
        for seed in arguments.seeds:
            if kept_factory(what, seed, kept=arguments.kept) is None:
                train(what, seed, threads=arguments.threads, kept=arguments.kept)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__, SECTIONS)
    parser.add_argument("--train", action="store_true", help="train kept factories that lack (hours)")
    parser.add_argument("--most", type=int, help="most tasks of each group, or class subsets")
    parser.add_argument("--requests", type=int, help="latency requests of the section limits")
    parser.add_argument("--alone", type=int, default=4, help="tasks that peers train alone")
    parser.add_argument(
        "--tune-steps", type=int, default=1000, help="fine-tuning of cuts on the generic objective"
    )
    parser.add_argument(
        "--schedules", type=numbers, default=[300, 1000, 3000], help="steps of nets for a task"
    )
    parser.add_argument(
        "--short-schedules", type=numbers, default=[100, 300, 1000], help="steps of tuning for a task"
    )
    return parser.parse_args()


def main() -> None:
    """Read the command line, measure, print tables to stderr (stdout without --json) and the figures."""
    arguments = _arguments()
    wanted = begin(arguments, SECTIONS, QUICK)
    np.seterr(all="raise", under="ignore")
    if arguments.train:
        _train_missing(arguments, wanted)
    ledger = ledger_of(arguments, "customize")
    _measure(ledger, arguments, wanted)
    finish(ledger, arguments, SECTIONS, figures)


if __name__ == "__main__":
    main()
