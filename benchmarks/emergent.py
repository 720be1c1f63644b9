"""The benchmark of emergent experts: fine-tuning with experts against fine-tuning the dense model.

    python benchmarks/emergent.py                  everything; about eight hours on one core
    python benchmarks/emergent.py --quick --json   a minute: costs, the rest from kept CSV

MiniLM (6 layers) learns CoLA, SST-2 and RTE from 1,000 examples of each. All arms of a seed have the same
examples, order, dropout and first head, so differences to the dense arm are paired. Out of domain are
sentences of other sources (CoLA) and opinions on goods (SST-2). The learning rate is the best for the dense
arm on validation examples of a seed that is not measured; which arm with experts counts for the figures is
decided by validation examples too. Section `tried` trains other numbers of experts, layers and learning
rates, with --tried-seeds seeds; section `doubled` the main arms on 2,000 examples, with --doubled-seeds.

Every arm of a task and seed is some rows of a CSV file below benchmarks/results; a stopped run goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _emergent_arms as arms
import numpy as np
import torch
from _command import begin, finish, ledger_of, options
from _emergent_arms import ARMS, CANDIDATES, DENSE, HALF, ORDER, PARTS, QUARTER, REVERTED, TASKS, TRIED
from _minilm import model_folder
from _record import Ledger, Row, columns, pick, say, table
from scipy import stats

from brickyard.modularize import example_inputs, modularize_transformer

SECTIONS = ("cost", "tuning", "tasks", "tried", "doubled")
RATES = (1e-4, 2e-4, 4e-4)
TUNED = 100  # seed of the tuning
VALIDATION, IN, OUT = PARTS["validation"], PARTS["test"], PARTS["other"]
STEP, CONVERT = "step / dense step", "seconds to convert all layers"

TARGETS = {
    "in_domain_gain": ">= 0",
    "out_of_domain_gain": ">= 0",
    "step_overhead": "<= 1.15",
    "convert_seconds": "<= 10",
    "reverted_difference": "0 within noise",
}


def paired(rows: list[Row], method: str, group: str, *, other: str = DENSE) -> dict[str, dict[str, float]]:
    """Return differences of a method to another one in points, by task and seed."""
    found: dict[str, dict[str, float]] = {}
    for task in TASKS:
        mine, others = (
            {row.seed: row.value for row in pick(rows, method=name, group=group, task=task)}
            for name in (method, other)
        )
        seeds = sorted(set(mine) & set(others), key=int)
        if seeds:
            found[task] = {seed: mine[seed] - others[seed] for seed in seeds}
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, float(half)


def over_tasks(found: dict[str, dict[str, float]]) -> list[float]:
    """Return for each seed that has all tasks the mean difference over tasks."""
    seeds = set.intersection(*(set(by_seed) for by_seed in found.values())) if found else set()
    return [float(np.mean([by_seed[seed] for by_seed in found.values()])) for seed in sorted(seeds, key=int)]


def chosen(rows: list[Row]) -> str:
    """Return the arm with experts that validation examples favour, of those with as many runs as any."""
    found = {name: paired(rows, name, VALIDATION) for name in CANDIDATES}
    runs = {name: sum(map(len, by_task.values())) for name, by_task in found.items()}
    whole = [name for name in CANDIDATES if runs[name] == max(runs.values())]
    means = {name: float(np.mean(over_tasks(found[name]) or -np.inf)) for name in whole}
    return max(means, key=lambda name: means[name])


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        The figures by name, None where nothing was ever measured; and a table of them. Gains are means over
        tasks and seeds of paired differences to the dense arm, in points, of the arm with experts that
        validation examples favour; `reverted_difference` is that of the same model reverted to dense.
    """
    rows, cost = ledger.section("tasks"), ledger.section("cost")
    name = chosen(rows)
    behind = {
        "in_domain_gain": over_tasks(paired(rows, name, IN)),
        "out_of_domain_gain": over_tasks(paired(rows, name, OUT)),
        "step_overhead": [row.value for row in pick(cost, metric=STEP)],
        "convert_seconds": [row.value for row in pick(cost, metric=CONVERT)],
        "reverted_difference": over_tasks(paired(rows, REVERTED.format(name), IN, other=name)),
    }
    values: dict[str, float | None] = {}
    lines = [("figure", "value", "95 %", "wanted", "seeds", "source")]
    for figure, found in behind.items():
        mean, half = interval(found) if found else (float("nan"), float("nan"))
        values[figure] = float(f"{mean:.4g}") if found else None
        runs = {row.run for row in (cost if figure in ("step_overhead", "convert_seconds") else rows)}
        source = (
            "this run" if runs == {ledger.run} else f"kept {min(runs)[:10]}" if runs else "never measured"
        )
        shown = ("-", "-") if not found else (f"{mean:.3f}", f"+-{half:.3f}")
        lines.append((figure, *shown, TARGETS[figure], str(len(found)), source))
    return values, columns(lines) + f"\n  arm of the figures, by validation: {name}"


def layout(ledger: Ledger, section: str) -> str:
    """Lay out the paired differences; other sections as usual."""
    if section not in ("tasks", "tried", "doubled"):
        return table(ledger, section)
    rows = ledger.section(section)
    if section == "tried":
        rows = [*pick(ledger.section("tasks"), method=DENSE), *rows]
    lines: list[tuple[str, ...]] = [("method", "tasks", *TASKS, "mean over tasks", "seeds")]
    for group in (VALIDATION, IN, OUT) if section == "tried" else (IN, OUT):
        dense = [
            f"{np.mean(held):.2f}" if held else "-"
            for task in TASKS
            for held in [[row.value for row in pick(rows, method=DENSE, group=group, task=task)]]
        ]
        lines.append((f"{DENSE} (points)", group, *dense, "", ""))
        for method in dict.fromkeys(row.method for row in rows if row.method != DENSE):
            found = paired(rows, method, group)
            cells = [
                "{:+.2f} +-{:.2f}".format(*interval(list(found[task].values()))) if task in found else "-"
                for task in TASKS
            ]
            means = over_tasks(found)
            whole = "{:+.2f} +-{:.2f}".format(*interval(means)) if means else "-"
            lines.append((method, group, *cells, whole, str(len(means))))
    return f"== {section}: differences to dense in points, with 95 % intervals\n{columns(lines)}"


def draw(ledger: Ledger, path: Path) -> None:
    """Draw the mean paired differences with their intervals."""
    from matplotlib.figure import Figure

    rows = ledger.section("tasks")
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, group in zip(figure.subplots(1, 2, sharey=True), (IN, OUT), strict=True):
        methods = [name for name in dict.fromkeys(row.method for row in rows) if name != DENSE]
        for place, method in enumerate(reversed(methods)):
            means = over_tasks(paired(rows, method, group))
            if means:
                mean, half = interval(means)
                axes.errorbar(mean, place, xerr=half, fmt="o", color="tab:blue", capsize=3)
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_yticks(range(len(methods)), list(reversed(methods)))
        axes.set(title=group, xlabel="points against dense, 95 %")
    figure.savefig(path, dpi=100)


def cost(ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Time the conversion of all layers, and steps of training with and without experts, in turns."""
    from transformers import AutoModel

    for seed in arguments.seeds[: 1 if arguments.quick else 3]:
        encoder = AutoModel.from_pretrained(model_folder())
        start = time.perf_counter()
        modularize_transformer(encoder, experts=64, top_k=16, layers="all", seed=seed, cache=False)
        seconds = time.perf_counter() - start
        ledger.add("cost", QUARTER, CONVERT, seconds, seed=seed, count=1)
        say(f"cost: all layers are converted in {seconds:.1f} s")
        models = {name: arms.fresh(seed) for name in (DENSE, QUARTER)}
        arms.prepare(models[QUARTER], ARMS[QUARTER], seed)
        tokens = dict(example_inputs(models[DENSE].encoder))
        tokens["input_ids"] = torch.randint(
            1000, 20000, (32, 32), generator=torch.Generator().manual_seed(seed)
        )
        tokens["attention_mask"] = torch.ones_like(tokens["input_ids"])
        tokens["token_type_ids"] = torch.zeros_like(tokens["input_ids"])
        rounds, ratios = (5 if arguments.quick else 20), []
        for _ in range(rounds):
            spent = {}
            for name, model in models.items():
                model.train()
                start = time.perf_counter()
                with arms._context(arguments.precision):
                    loss = model(**tokens).float().square().mean()
                loss.backward()
                model.zero_grad(set_to_none=True)
                spent[name] = time.perf_counter() - start
            ratios.append(spent[QUARTER] / spent[DENSE])
        more = {"seed": seed, "count": rounds, "precision": arguments.precision}
        ledger.add("cost", QUARTER, STEP, float(np.median(ratios)), **more)
        say(f"cost: a step takes {np.median(ratios):.3f} of the dense one's time")


class Runs:
    """Trains arms that are not among the rows, and writes their rows."""

    def __init__(self, ledger: Ledger, arguments: argparse.Namespace) -> None:
        self.ledger, self.arguments = ledger, arguments

    def rows(self, section: str, name: str, task: str, seed: int, rate: float) -> list[Row]:
        """Return the rows of an arm, a task and a seed, trained now if there are none."""
        note = f"rate {rate:g}, trained in {self.arguments.precision}"
        method = f"{name}, rate {rate:g}" if section == "tuning" else name
        wanted = {"section": section, "method": method, "task": task, "seed": str(seed), "note": note}
        found = pick([*self.ledger.earlier, *self.ledger.rows], **wanted)
        if found:
            return found
        start, count = time.perf_counter(), arms.EXAMPLES * (2 if section == "doubled" else 1)
        precision = self.arguments.precision
        result = arms.run(name, TASKS[task], seed, rate=rate, precision=precision, count=count)
        for key, by_part in result.items():
            if section == "tuning" and key != name:
                continue
            for part, value in by_part.items():
                self.ledger.add(
                    section,
                    method if key == name else key,
                    TASKS[task].metric,
                    value,
                    group=part,
                    task=task,
                    seed=seed,
                    count=count,
                    precision=precision,
                    note=note,
                )
        shown = ", ".join(f"{part} {value:.1f}" for part, value in result[name].items())
        say(f"{section}: {task}, seed {seed}, {method}: {shown}; {time.perf_counter() - start:.0f} s")
        return pick(self.ledger.rows, **wanted)


def tune(runs: Runs) -> float:
    """Return the learning rate whose dense arm is best on validation examples, over the tasks."""
    means = {}
    for rate in RATES:
        values = [
            row.value
            for task in TASKS
            for row in pick(runs.rows("tuning", DENSE, task, TUNED, rate), group=VALIDATION)
        ]
        means[rate] = float(np.mean(values))
    best = max(means, key=lambda rate: means[rate])
    say(
        "tuning: " + ", ".join(f"{rate:g}: {mean:.2f}" for rate, mean in means.items()) + f"; taken: {best:g}"
    )
    return best


def main() -> None:
    """Read the command line, measure, print tables (to stderr with --json) and the figures."""
    parser = options(__doc__, SECTIONS)
    parser.set_defaults(seeds=list(range(10)))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of training")
    parser.add_argument(
        "--tasks", type=lambda text: text.split(","), default=list(TASKS), help=f"of {', '.join(TASKS)}"
    )
    parser.add_argument("--tried-seeds", type=int, default=2, help="seeds of section tried")
    parser.add_argument("--doubled-seeds", type=int, default=5, help="seeds of section doubled")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.tasks if name not in TASKS]
    if unknown:
        parser.error(f"--tasks: {unknown[0]!r} is unknown; known: {', '.join(TASKS)}")
    wanted = begin(arguments, SECTIONS, ["cost"])
    ledger = ledger_of(arguments, "emergent")
    if "cost" in wanted:
        cost(ledger, arguments)
    if {*SECTIONS[1:]} & set(wanted):
        runs = Runs(ledger, arguments)
        rate = tune(runs)
        first = [name for names in ORDER for name in names]
        rest = [name for name in ARMS if name not in first]
        tasks = [("tasks", names, seed) for names in (*ORDER, rest) for seed in arguments.seeds]
        tried = [("tried", list(TRIED), seed) for seed in arguments.seeds[: arguments.tried_seeds]]
        main_arms = [DENSE, HALF, QUARTER]
        doubled = [("doubled", main_arms, seed) for seed in arguments.seeds[: arguments.doubled_seeds]]
        for section, names, seed in [*tasks, *tried, *doubled]:
            if section in wanted:
                for task in arguments.tasks:
                    for name in names:
                        runs.rows(section, name, task, seed, rate)
    if ledger.section("tasks"):
        draw(ledger, arguments.results / "emergent.png")
    finish(ledger, arguments, SECTIONS, figures, layout)


if __name__ == "__main__":
    main()
