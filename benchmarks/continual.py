"""The benchmark of continual learning: task after task, against other ways, and what masks cost.

    python benchmarks/continual.py --data DIR                  everything; hours on 2 cores, can be stopped
    python benchmarks/continual.py --data DIR --only permuted --arms ExSSNeT,SupSup --densities 0.1 --seeds 0
    python benchmarks/continual.py --data DIR --quick --json   about a minute; the rest from the kept CSV

Learning rates are chosen on held-out training examples of two tasks that are not measured (section rates).
Runs that are kept with the same settings are not made again (--again makes them). Every number is a row of a
CSV file below benchmarks/results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import _adaptor
import numpy as np
from _command import begin, finish, ledger_of, options
from _continual_arms import ARMS, EXSSNET, JOINT, JOINT_KKT, SUPSUP, WITH_KKT
from _continual_cost import BITS, COST, CUT, STEP, measure_cost
from _continual_peer import ORIGINAL, REPOSITORIES, over_original, run_original, section_of
from _continual_runs import (
    AVERAGE,
    CHANGE,
    ENDS,
    HUNDRED,
    PERMUTED,
    RATES,
    Wanted,
    choose_rates,
    gain,
    percent,
    run_permuted,
)
from _continual_sections import STREAM_RATES, adapted, choose_stream_rates, run_bench
from _continual_streams import ALPHABETS, BENCHES, CIFAR_FULL
from _continual_transfer import KKT, TURNED, measure_transfer, steps_shares
from _record import Ledger, Row, columns, pick, say

ORIGINAL_STREAMS = {"alphabets": BENCHES[ALPHABETS], "pairs": BENCHES[CIFAR_FULL]}
"""Streams that the original code learns, too, by names of figures."""
BESIDE_ORIGINAL = {section_of(bench): bench for bench in ORIGINAL_STREAMS.values()}
SECTIONS = (RATES, PERMUTED, ORIGINAL, HUNDRED, KKT, COST, STREAM_RATES, *BENCHES, *BESIDE_ORIGINAL)
QUICK = (PERMUTED, COST)
DENSITIES = (0.02, 0.05, 0.1, 0.5)
EPOCHS, EXAMPLES, TASKS = 4, 18_000, 10
TURNED_EPOCHS, TURNED_EXAMPLES = 10, 6000  # of transfer, where shares of the epochs are compared

TARGETS = {
    "gain_over_supsup_02": "> 0",
    "gain_over_supsup_05": "> 0",
    "gain_over_supsup_10": "> 0",
    "over_original_code": ">= 0",
    "over_original_code_alphabets": ">= 0",
    "over_original_code_pairs": ">= 0",
    "forgetting": "0",
    "bits_over_entropy": "<= 1.05",
    "last10_vs_first10_points": ">= -3",
    "kkt_steps_share": "<= 0.6",
    "kkt_steps_share_turned": "",
    "step_overhead": "<= 1.3",
    "cut_overhead": "<= 1.02",
}


def figures(ledger: Ledger, *, notes: Collection[str]) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.
        notes: Tasks, examples and epochs of the runs that count.

    Returns:
        The figures by name, means over seeds, the worst network and density for costs, the largest change of
        any score for `forgetting`; None where nothing was ever measured. And a table of them. Accuracies are
        those of the longest streams: a minute allows for few tasks of few examples, which tell forgetting.
    """
    permuted, hundred, transfer = (
        [row for row in ledger.section(name) if row.note in notes] for name in (PERMUTED, HUNDRED, KKT)
    )
    averages = pick(ledger.most_counted(PERMUTED), metric=AVERAGE)
    longest = [row for row in averages if row.note in notes and row.method in (EXSSNET, SUPSUP)]
    cost = ledger.section(COST)
    real = [row for name in BENCHES for row in ledger.section(name)]
    ours = [
        row
        for rows in (permuted, hundred, real)
        for arm in (EXSSNET, JOINT, WITH_KKT, JOINT_KKT)
        for row in pick(rows, method=arm)
    ]
    last = pick(hundred, method=EXSSNET, metric=ENDS)
    original = ledger.section(ORIGINAL)
    beside = {
        name: (ledger.section(bench.name), ledger.section(section_of(bench)))
        for name, bench in ORIGINAL_STREAMS.items()
    }
    found: dict[str, list[float]] = {
        **{f"gain_over_supsup_{round(100 * d):02d}": gain(longest, d) for d in (0.02, 0.05, 0.1)},
        "over_original_code": over_original(longest, original),
        **{f"over_original_code_{name}": over_original(*rows, JOINT) for name, rows in beside.items()},
        "forgetting": [row.value for row in pick(ours, metric=CHANGE)],
        "bits_over_entropy": _values(cost, BITS),
        "last10_vs_first10_points": [100 * row.value for row in last],
        "kkt_steps_share": steps_shares(transfer, ALPHABETS),
        "kkt_steps_share_turned": steps_shares(transfer, TURNED),
        "step_overhead": _values(cost, STEP),
        "cut_overhead": _values(pick(cost, method=EXSSNET), CUT),
    }
    behind = {"forgetting": ours, "over_original_code": [*longest, *original]}
    behind |= {"last10_vs_first10_points": last, "kkt_steps_share": transfer}
    behind |= {"kkt_steps_share_turned": transfer}
    behind |= {f"over_original_code_{name}": [*rows[0], *rows[1]] for name, rows in beside.items()}
    behind |= dict.fromkeys(("bits_over_entropy", "step_overhead", "cut_overhead"), cost)
    worst = {"forgetting", "bits_over_entropy", "step_overhead", "cut_overhead"}
    values: dict[str, float | None] = {}
    lines = [("figure", "value", "wanted", "least", "most", "rows", "source")]
    for name, wanted in TARGETS.items():
        numbers = found[name]
        value = None if not numbers else max(numbers) if name in worst else float(np.mean(numbers))
        values[name] = None if value is None else float(f"{value:.4g}")
        shown = ["-" if not numbers else f"{of(numbers):.4g}" for of in (min, max)]
        source = _source(behind.get(name, longest), ledger.run)
        shown = ["-" if value is None else f"{value:.4g}", wanted, *shown]
        lines.append((name, *shown, str(len(numbers)), source))
    return values, columns(lines)


def _source(rows: Sequence[Row], run: str) -> str:
    runs = {row.run for row in rows}
    if not runs:
        return "never measured"
    kept = f"kept {max(runs - {run})[:10]}" if runs - {run} else ""
    return " and ".join(part for part in ("this run" if run in runs else "", kept) if part)


def _values(rows: Sequence[Row], metric: str) -> list[float]:
    return [row.value for row in pick(rows, metric=metric)]


def _plans(arguments: argparse.Namespace) -> tuple[Wanted, Wanted, Wanted]:
    """Return what is wanted of the sections with few tasks, of the one with many, and of transfer."""
    quick = arguments.quick
    plan = Wanted(
        seeds=arguments.seeds[:1] if quick else arguments.seeds,
        densities=arguments.densities or ((0.1,) if quick else DENSITIES),
        arms=arguments.arms or list(ARMS),
        epochs=arguments.epochs or (4 if quick else EPOCHS),
        examples=arguments.examples or (2000 if quick else EXAMPLES),
        tasks=arguments.tasks or (3 if quick else TASKS),
        again=arguments.again or quick,
    )
    densities = arguments.densities or (0.02,)
    many = replace(plan, arms=[EXSSNET], densities=densities, tasks=arguments.tasks or 100)
    turned = replace(
        plan,
        densities=arguments.densities or (0.1,),
        epochs=arguments.epochs or (plan.epochs if quick else TURNED_EPOCHS),
        examples=arguments.examples or (plan.examples if quick else TURNED_EXAMPLES),
    )
    return plan, many, turned


def _stream_plans(arguments: argparse.Namespace) -> dict[str, Wanted]:
    """Return what is wanted of streams of real data, by name."""
    given = (arguments.epochs, arguments.examples, arguments.tasks)
    streams = replace(_plans(arguments)[0], densities=arguments.densities or (0.1,))
    return {
        name: adapted(streams, bench, given=given, quick=arguments.quick) for name, bench in BENCHES.items()
    }


def _measure(ledger: Ledger, arguments: argparse.Namespace, wanted: Sequence[str]) -> None:
    plan, many, turned = _plans(arguments)
    wanted_of = _stream_plans(arguments)

    def all_stream_rates() -> None:
        for name, bench in BENCHES.items():
            choose_stream_rates(ledger, wanted_of[name], bench)

    codes = {kind: getattr(arguments, f"{kind}_code") for kind in REPOSITORIES}
    parts: dict[str, Callable[[], None]] = {
        RATES: lambda: choose_rates(ledger, plan),
        PERMUTED: lambda: run_permuted(ledger, plan),
        ORIGINAL: lambda: run_original(ledger, plan, codes),
        HUNDRED: lambda: run_permuted(ledger, many, section=HUNDRED),
        KKT: lambda: measure_transfer(ledger, turned, wanted_of[ALPHABETS], rates_note=plan.rates_note),
        COST: lambda: measure_cost(ledger, plan.densities, rounds=5 if arguments.quick else 9),
        STREAM_RATES: all_stream_rates,
        **{name: partial(run_bench, ledger, wanted_of[name], bench) for name, bench in BENCHES.items()},
        **{
            section: partial(run_original, ledger, wanted_of[bench.name], codes, bench)
            for section, bench in BESIDE_ORIGINAL.items()
        },
    }
    for name in wanted:
        if name != COST and _adaptor.data_folder() is None:
            say(f"{name}: left out; name the folder of real data by --data DIR or {_adaptor.VARIABLE}")
            continue
        say(f"-- {name}")
        parts[name]()


def _arguments() -> argparse.Namespace:
    parser = options(__doc__, SECTIONS)

    def texts(text: str) -> list[str]:
        return [part.strip() for part in text.split(",")]

    def shares(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    shown = ", ".join(percent(density).replace("%", "%%") for density in DENSITIES)
    parser.add_argument("--arms", type=texts, help=f"methods, with commas: {', '.join(ARMS)}")
    parser.add_argument("--densities", type=shares, help=f"shares of the weights, with commas; {shown}")
    parser.add_argument("--epochs", type=int, help=f"passes over the examples of a task; {EPOCHS}")
    parser.add_argument("--examples", type=int, help=f"examples of a task; {EXAMPLES}")
    parser.add_argument("--tasks", type=int, help=f"tasks of a stream; {TASKS}, 100 in section {HUNDRED}")
    parser.add_argument(
        "--again", action="store_true", help="make runs again that are kept with the same settings"
    )
    for kind, (address, _) in REPOSITORIES.items():
        parser.add_argument(f"--{kind}-code", type=Path, help=f"folder of {address}, to run its code as well")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.arms or [] if name not in ARMS]
    if unknown:
        parser.error(f"--arms: {unknown[0]!r} is unknown; known: {', '.join(ARMS)}")
    wrong = [density for density in arguments.densities or [] if not 0 < density <= 1]
    if wrong:
        parser.error(f"--densities {wrong[0]}: must be above 0 and at most 1")
    for name, least in (("epochs", 2), ("examples", 1), ("tasks", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name} {value}: must be at least {least}")
    return arguments


def main() -> None:
    """Read the command line, measure, print tables to stderr (stdout without --json) and the figures."""
    arguments = _arguments()
    wanted = begin(arguments, SECTIONS, QUICK)
    ledger = ledger_of(arguments, "continual")
    _measure(ledger, arguments, wanted)
    full = argparse.Namespace(**{**vars(arguments), **dict.fromkeys(("epochs", "examples", "tasks"))})
    full.quick = False
    plans = [
        plan for given in (arguments, full) for plan in (*_plans(given), _stream_plans(given)[ALPHABETS])
    ]
    notes = {plan.note for plan in plans}
    finish(ledger, arguments, SECTIONS, partial(figures, notes=notes))


if __name__ == "__main__":
    main()
