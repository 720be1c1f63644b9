"""The benchmark of searches: different points evaluated until the front, or the best cell, is found.

    python benchmarks/search.py --data DIR                     everything; hours on 2 cores, can be stopped
    python benchmarks/search.py --data DIR --only fronts --problems A --arms ours   some runs
    python benchmarks/search.py --data DIR --quick --json      about a minute; the rest from the kept CSV
    python benchmarks/search.py --table FILE.npz --error COLUMN --cost COLUMN       any table of that layout

Runs that are kept of the same code are not made again (--again makes them). Peers whose package is not
installed are left out; see README.md for how they are installed. Every number is a row of a CSV file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import _adaptor
import numpy as np
from _command import begin, finish, ledger_of, options
from _record import Ledger, Row, columns, pick, say
from _search_arms import OURS, Arm, arms, single_arms
from _search_plots import draw_best, draw_curves
from _search_runs import WARM, Plan, joined, run_best, run_fronts
from _search_tables import BEST_CELLS, PROBLEMS, Problem, Table, problem_of, read_table

SECTIONS = ("fronts", "best-cell", "sampler-time", "supernets", "warm-start", "kills")
QUICK = ("fronts", "best-cell", "sampler-time")
QUICK_SECONDS = 60.0
TABLE, TABLE_BEST = "table", "table-best"
FRONT_CELLS, BEST_CELLS_MOST = 500, 300  # cells that a run must have been allowed to count among the figures

TARGETS = {
    "evals_95_A": "<= 150",
    "evals_99_A": "<= 300",
    "evals_95_B": "<= 150",
    "evals_99_B": "<= 300",
    "seeds_99_within_500": ">= 0.9",
    "best_cell_c10": "<= 40, beyond: <= 23",
    "best_cell_c100": "<= 50, beyond: <= 28",
    "sampler_seconds_per_batch": "<= 0.25",
    "hv100_over_nsga2_800_vision": ">= 1",
    "hv100_over_nsga2_800_translation": ">= 1",
    "hv100_over_nsga2_800_encoder": ">= 1",
    "hv100_over_nsga2_800_vision_searched": "",
    "hv100_over_nsga2_800_translation_searched": "",
    "hv100_over_nsga2_800_encoder_searched": "",
    "warm_start_share": "<= 0.333",
    "warm_start_share_searched": "",
    "kills_lost": "0",
}

RATIOS = {"": "ratio of hypervolumes, judged anew", "_searched": "ratio of hypervolumes"}
SHARES = {"": "share of the evaluations, judged anew", "_searched": "share of the evaluations"}
"""Metrics of super-networks by the ending of the figure's name."""


def _fronts_of(table: Table) -> list[Problem]:
    return [problem_of(name, table, of[0], of[1:]) for name, of in PROBLEMS.items()]


def _best_of(table: Table) -> list[Problem]:
    return [problem_of(name, table, column, ()) for name, column in BEST_CELLS.items()]


def _measure(ledger: Ledger, arguments: argparse.Namespace, wanted: Sequence[str]) -> None:
    started = time.monotonic()
    quick, path = arguments.quick, _adaptor.nb201()
    needs_table = {"fronts", "best-cell", "sampler-time"}
    if path is None and needs_table & set(wanted):
        say(f"no table of NAS-Bench-201; name the folder of real data by --data DIR or {_adaptor.VARIABLE}")
        wanted = [name for name in wanted if name not in needs_table]
    table = read_table(path) if path is not None else None
    share = {"fronts": 0.5, "best-cell": 0.8}  # of the time of a quick run, when a section must end

    def plan(section: str) -> Plan:
        return Plan(
            section=section,
            quick=quick,
            seeds=range(2) if quick and arguments.seeds is None else arguments.seeds,
            arms=[OURS] if quick and arguments.arms is None else arguments.arms,
            problems=["A", "B", *BEST_CELLS] if quick and arguments.problems is None else arguments.problems,
            evaluations=arguments.evaluations,
            again=arguments.again,
            until=started + QUICK_SECONDS * share[section] if quick else float("inf"),
        )

    seeds = arguments.seeds

    def of_table(measure: Callable[[Table], None]) -> Callable[[], None]:
        return lambda: measure(table) if table is not None else None

    def time_of(table: Table) -> None:
        from _search_time import sampler_time

        sampler_time(ledger, _fronts_of(table)[0], seeds=1 if quick else len(seeds or range(5)))

    def warm(table: Table) -> None:
        from _search_supernets import warm_start

        by_name = {problem.name: problem for problem in _fronts_of(table)}
        warm_start(ledger, by_name["A"], by_name["pixel3"], seeds=seeds or range(5))

    def networks() -> None:
        from _search_supernets import supernets

        supernets(ledger, arguments.kept, arguments.results, seeds=seeds or range(5))

    def warm_network() -> None:
        from _search_supernets import warm_start_supernet

        warm_start_supernet(ledger, arguments.kept, arguments.results, seeds=seeds or range(5))
        of_table(warm)()

    parts: dict[str, Callable[[], None]] = {
        "fronts": of_table(lambda t: run_fronts(ledger, plan("fronts"), _fronts_of(t), list(arms()))),
        "best-cell": of_table(
            lambda t: run_best(ledger, plan("best-cell"), _best_of(t), list(single_arms()))
        ),
        "sampler-time": of_table(time_of),
        "supernets": networks,
        "warm-start": warm_network,
        "kills": lambda: kills(ledger),
    }
    for name in wanted:
        say(f"-- {name}")
        parts[name]()


def kills(ledger: Ledger) -> None:
    """Kill workers of one study at random times and count the evaluations that are lost.

    Args:
        ledger: Takes the rows: every number that `_kills.kills` gives, `kills_lost` among them.
    """
    from _kills import kills as measure

    for metric, value in measure().items():
        ledger.add("kills", OURS, metric, value)


def _any_table(ledger: Ledger, arguments: argparse.Namespace) -> list[str]:
    """Run ours and the peers on the table of the command line; return the sections."""
    table = read_table(Path(arguments.table))
    costs = arguments.cost or []
    problem = problem_of(" x ".join([table.name, arguments.error, *costs]), table, arguments.error, costs)
    section = TABLE if costs else TABLE_BEST
    plan = Plan(
        section=section,
        seeds=arguments.seeds,
        arms=arguments.arms,
        evaluations=arguments.evaluations,
        again=arguments.again,
        quick=arguments.quick,
        until=time.monotonic() + QUICK_SECONDS if arguments.quick else float("inf"),
    )
    say(f"-- {problem.name}: {len(table.ops)} cells, reference {problem.reference.tolist()}")
    if costs:
        run_fronts(ledger, plan, [problem], list(arms()))
    else:
        run_best(ledger, plan, [problem], list(single_arms()))
    return [section]


def layout(ledger: Ledger, section: str) -> str:
    """Lay out a section: medians and quartiles over seeds, and in how many of them a goal was reached.

    Args:
        ledger: The rows.
        section: Name of the section.
    """
    rows = joined(ledger, section)
    lines: list[tuple[str, ...]] = [
        ("problem", "method", "metric", "25%", "median", "75%", "reached", "source")
    ]
    groups = dict.fromkeys(row.group for row in rows)
    for group in groups:
        held: dict[tuple[str, str], list[Row]] = {}
        for row in pick(rows, group=group):
            held.setdefault((row.method, row.metric), []).append(row)
        lines += [_line(ledger, group, *key, found) for key, found in held.items()]
    names = {row.method for row in rows}
    known: list[Arm] = {"fronts": list(arms()), "best-cell": list(single_arms())}.get(section, [])
    absent = [arm for arm in known if arm.missing and arm.name not in names]
    notes = [f"  {arm.name}: not installed ({', '.join(arm.missing)})" for arm in absent]
    notes += [f"  {text}" for text in sorted({f"{row.method}: {row.note}" for row in rows if row.note})]
    return "\n".join([f"== {section}", columns(lines), *notes]) if rows else ""


def _line(ledger: Ledger, group: str, method: str, metric: str, rows: Sequence[Row]) -> tuple[str, ...]:
    values = np.array([row.value for row in rows])
    most = max(row.count for row in rows)
    quartiles = np.quantile(
        values, [0.25, 0.5, 0.75], method="inverted_cdf" if _is_count(metric) else "linear"
    )
    texts = [f"{value:.4g}" if np.isfinite(value) else f"> {most}" for value in quartiles]
    reached = f"{np.isfinite(values).sum()} of {len(values)}"
    if _is_count(metric):
        reached += f" within {most}"
        if metric == "cells to the best one" and most > 300:
            reached += f", {(values <= 300).sum()} within 300"
    return (group, method, metric, *texts, reached, _source(ledger, rows))


def _is_count(metric: str) -> bool:
    return metric.startswith("cells to")


def _source(ledger: Ledger, rows: Sequence[Row]) -> str:
    runs = sorted({row.run for row in rows})
    now = sum(row.run == ledger.run for row in rows)
    if not runs:
        return "never measured"
    if now == len(rows):
        return "this run"
    kept = f"kept {runs[0][:10]}"
    return f"{kept}, {now} of {len(rows)} seeds this run" if now else kept


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        The figures by name, medians over seeds; None where nothing was ever measured, and one more than the
        cells that were allowed (500 for a front, 300 for a best cell) where the median seed did not reach its
        goal. And a table of them. Fronts of super-networks are judged anew: by examples that no search saw,
        and timed again; as `..._searched` they are compared by what the searches measured, whose luck
        flatters the one that measured most subnets, or is compared with itself.
    """
    # a run that was allowed fewer cells (--evaluations) says too little when it did not reach its goal
    fronts = [row for row in pick(joined(ledger, "fronts"), method=OURS) if row.count >= FRONT_CELLS]
    best = [row for row in pick(joined(ledger, "best-cell"), method=OURS) if row.count >= BEST_CELLS_MOST]
    ratios = joined(ledger, "supernets")
    behind: dict[str, list[Row]] = {
        f"evals_{level}_{name}": pick(fronts, group=name, metric=f"cells to {level}%")
        for name in ("A", "B")
        for level in (95, 99)
    }
    behind["seeds_99_within_500"] = pick(fronts, metric="cells to 99%")
    behind |= {f"best_cell_{name}": pick(best, group=name) for name in BEST_CELLS}
    behind["sampler_seconds_per_batch"] = pick(
        joined(ledger, "sampler-time"), metric="seconds per batch of 50"
    )
    behind |= {
        f"hv100_over_nsga2_800_{name}{ending}": pick(ratios, group=name, metric=metric)
        for name in ("vision", "translation", "encoder")
        for ending, metric in RATIOS.items()
    }
    warm = pick(joined(ledger, "warm-start"), group=WARM)
    behind |= {f"warm_start_share{ending}": pick(warm, metric=metric) for ending, metric in SHARES.items()}
    behind["kills_lost"] = pick(joined(ledger, "kills"), metric="kills_lost")
    values = {name: _median(behind[name]) for name in TARGETS}
    values["seeds_99_within_500"] = _least_share(behind["seeds_99_within_500"])
    lines = [("figure", "value", "wanted", "seeds", "source")]
    for name, value in values.items():
        rows = behind[name]
        seeds = str(len({row.seed for row in rows}))
        text = "-" if value is None else f"{value:.4g}"
        lines.append((name, text, TARGETS[name], seeds, _source(ledger, rows)))
    rounded = {name: None if value is None else float(f"{value:.4g}") for name, value in values.items()}
    return rounded, columns(lines)


def _median(rows: Sequence[Row]) -> float | None:
    if not rows:
        return None
    values = [row.value for row in rows]
    counts = _is_count(rows[0].metric)
    value = float(np.quantile(values, 0.5, method="inverted_cdf" if counts else "linear"))
    return value if np.isfinite(value) else float(max(row.count for row in rows) + 1)


def _least_share(rows: Sequence[Row]) -> float | None:
    """Return the share of seeds that reach the last level within 500, on the problem where it is least."""
    groups = {row.group for row in rows}
    shares = [np.mean([row.value <= FRONT_CELLS for row in pick(rows, group=group)]) for group in groups]
    return float(min(shares)) if shares else None


def _arguments() -> argparse.Namespace:
    parser = options(__doc__, SECTIONS)
    parser.set_defaults(seeds=None)
    names = [*PROBLEMS, *BEST_CELLS]

    def texts(text: str) -> list[str]:
        return [part.strip() for part in text.split(",")]

    parser.add_argument("--problems", type=texts, help=f"problems, with commas: {', '.join(names)}")
    known = dict.fromkeys(arm.name for arm in [*arms(), *single_arms()])
    parser.add_argument("--arms", type=texts, help=f"methods, with commas: {', '.join(known)}")
    parser.add_argument("--evaluations", type=int, help="most cells of a run")
    parser.add_argument("--again", action="store_true", help="make runs again that are kept of the same code")
    parser.add_argument("--table", help="file of another table: ops [cells, edges] and columns [cells]")
    parser.add_argument("--error", help="its column of errors or accuracies; min:NAME or max:NAME says which")
    parser.add_argument("--cost", nargs="*", help="its columns of costs; none to look for the best cell")
    arguments = parser.parse_args()
    for option, given, allowed in (
        ("--problems", arguments.problems, names),
        ("--arms", arguments.arms, known),
    ):
        unknown = [name for name in given or [] if name not in allowed]
        if unknown:
            parser.error(f"{option}: {unknown[0]!r} is unknown; known: {', '.join(allowed)}")
    if bool(arguments.table) != bool(arguments.error):
        parser.error("--table FILE.npz and --error COLUMN go together")
    if arguments.cost and not arguments.table:
        parser.error("--cost goes with --table")
    if arguments.evaluations is not None and arguments.evaluations < 1:
        parser.error(f"--evaluations {arguments.evaluations}: must be at least 1")
    return arguments


def main() -> None:
    """Read the command line, measure, draw, print tables (to stderr with --json) and the figures."""
    arguments = _arguments()
    wanted = begin(arguments, SECTIONS, QUICK)
    ledger = ledger_of(arguments, "search")
    shown: Sequence[str] = SECTIONS
    if arguments.table:
        shown = _any_table(ledger, arguments)
    else:
        _measure(ledger, arguments, wanted)
    if ledger.rows and not arguments.quick:
        drawn = draw_curves(arguments.results) + draw_best(
            [*joined(ledger, "best-cell"), *joined(ledger, TABLE_BEST)], arguments.results
        )
        say(f"pictures: {', '.join(path.name for path in drawn)}")
    finish(ledger, arguments, shown, figures, layout)


if __name__ == "__main__":
    main()
