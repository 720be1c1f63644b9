"""Runs of methods on problems: which are to be made, their rows and curves, and what earlier ones left."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from _record import Ledger, Row, say
from _search_arms import Arm, run_arm
from _search_tables import LEVELS, Problem, Recorder, Values

CURVES = "search_curves.csv"
_STEP = 10
_FIELDS = ("problem", "arm", "version", "seed", "step", "shares")

WARM = "vision, ort to openvino"
"""The group of warm starts of a trained super-network."""


@dataclass(frozen=True)
class Plan:
    """What a call measures.

    Attributes:
        section: Name of the section.
        quick: Whether only a few runs are made, without curves.
        seeds: Seeds of every method; None for those that each has.
        arms: Names of the methods; None for all.
        problems: Names of the problems; None for all.
        evaluations: Most cells of every run; None for what each method has.
        again: Whether runs are made again that are kept of the same code.
        until: Time of `time.monotonic` after which nothing is measured.
    """

    section: str
    quick: bool = False
    seeds: Sequence[int] | None = None
    arms: Sequence[str] | None = None
    problems: Sequence[str] | None = None
    evaluations: int | None = None
    again: bool = False
    until: float = field(default=float("inf"))

    def seeds_of(self, arm: Arm) -> Sequence[int]:
        """Return the seeds of a method."""
        return range(arm.seeds) if self.seeds is None else self.seeds

    def budget_of(self, arm: Arm) -> int:
        """Return the cells that a method may evaluate."""
        return arm.budget if self.evaluations is None else min(arm.budget, self.evaluations)

    def wants(self, arm: Arm) -> bool:
        """Tell whether a method is wanted and there; say so where it is not."""
        if self.arms is not None and arm.name not in self.arms:
            return False
        if arm.missing:
            say(f"   {arm.name}: not installed ({', '.join(arm.missing)})")
        return not arm.missing


def joined(ledger: Ledger, section: str) -> list[Row]:
    """Return the newest row of every measurement, of full runs and of this one.

    Seeds are independent and a quick run measures a seed as a full one does, so both stand side by side. Of
    each method and problem only rows of one state of the code count, the newest.
    """
    kept = [row for row in ledger.earlier if row.mode == "full"]
    rows = [row for row in sorted(kept, key=lambda row: row.run) + ledger.rows if row.section == section]
    newest = {(row.method, row.group, row.metric): row.note for row in rows}
    fresh = [row for row in rows if newest[row.method, row.group, row.metric] == row.note]
    return list({row.key: row for row in fresh}.values())


def _is_kept(ledger: Ledger, plan: Plan, problem: str, arm: Arm, seed: int) -> bool:
    """Tell whether a run is there already, of the same code, long enough to say what this one would."""
    if plan.quick or plan.again:
        return False
    found = [
        row
        for row in joined(ledger, plan.section)
        if (row.group, row.method, row.seed, row.note) == (problem, arm.name, str(seed), arm.version)
    ]
    return bool(found) and all(row.count >= plan.budget_of(arm) for row in found)


def run_fronts(ledger: Ledger, plan: Plan, problems: Iterable[Problem], arms: Sequence[Arm]) -> None:
    """Measure how many different cells methods need for 90, 95 and 99 % of the true front's hypervolume.

    A run ends when it has reached the last level.

    Args:
        ledger: Takes the rows; a level that was not reached is infinite, `count` says within how many cells.
        plan: What is wanted.
        problems: Problems of two objectives and more.
        arms: Methods.
    """
    for problem, arm, seed in _to_run(ledger, plan, problems, arms):
        _run_front(ledger, plan, problem, arm, seed)


def _to_run(
    ledger: Ledger, plan: Plan, problems: Iterable[Problem], arms: Sequence[Arm]
) -> Iterator[tuple[Problem, Arm, int]]:
    """Yield what is wanted and not kept, as long as there is time."""
    for problem in problems:
        if plan.problems is not None and problem.name not in plan.problems:
            continue
        for arm in (arm for arm in arms if plan.wants(arm)):
            for seed in plan.seeds_of(arm):
                if time.monotonic() > plan.until:
                    return
                if not _is_kept(ledger, plan, problem.name, arm, seed):
                    yield problem, arm, seed


def _run_front(ledger: Ledger, plan: Plan, problem: Problem, arm: Arm, seed: int) -> None:
    shares = Shares(problem)

    def enough(order: Sequence[int]) -> bool:
        share = shares.add(order[-1])
        return time.monotonic() > plan.until or share >= LEVELS[-1]

    started = time.monotonic()
    recorder = Recorder(problem, plan.budget_of(arm), enough)
    order = run_arm(arm, problem, seed, recorder)
    if time.monotonic() > plan.until and len(order) < recorder.budget and shares.found[-1] < LEVELS[-1]:
        say(f"   {arm.name} on {problem.name}, seed {seed}: no time left, not counted")
        return
    found = np.array(shares.found)
    reached = {level: int(np.argmax(found >= level)) + 1 if found[-1] >= level else None for level in LEVELS}
    more = {"group": problem.name, "seed": seed, "count": plan.budget_of(arm), "note": arm.version}
    for level, count in reached.items():
        value = float("inf") if count is None else count
        ledger.add(plan.section, arm.name, f"cells to {level:.0%}", value, **more)
    if not plan.quick:
        ledger.add(plan.section, arm.name, "share of the volume at the end", found[-1], **more)
        add_curve(ledger.folder, problem.name, arm, seed, found)
    texts = ", ".join(f"{level:.0%} {count or '-'}" for level, count in reached.items())
    seconds = time.monotonic() - started
    say(f"   {problem.name}, {arm.name}, seed {seed}: {texts} ({len(order)} cells, {seconds:.0f} s)")


class Shares:
    """The hypervolume of the cells so far over that of the true front.

    Args:
        problem: The problem.

    Attributes:
        found: Shares after each cell.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.found: list[float] = []
        self._front = np.empty((0, problem.num_objectives))

    def add(self, cell: int) -> float:
        """Add a cell and return the share now."""
        value = self.problem.values[cell]
        if (self._front <= value).all(1).any():
            self.found.append(self.found[-1])
        else:
            self._front = np.vstack([self._front[~(value <= self._front).all(1)], value])
            self.found.append(self.problem.share_of(self._front))
        return self.found[-1]


def run_best(ledger: Ledger, plan: Plan, problems: Iterable[Problem], arms: Sequence[Arm]) -> None:
    """Measure how many different cells methods need until they meet the best one.

    Args:
        ledger: Takes the rows; infinite where it was not met, `count` says within how many cells.
        plan: What is wanted.
        problems: Problems of one objective.
        arms: Methods.
    """
    for problem, arm, seed in _to_run(ledger, plan, problems, arms):
        _run_best(ledger, plan, problem, arm, seed)


def _run_best(ledger: Ledger, plan: Plan, problem: Problem, arm: Arm, seed: int) -> None:
    def is_best(cell: int) -> bool:
        return bool(problem.values[cell, 0] <= problem.best)

    recorder = Recorder(
        problem,
        plan.budget_of(arm),
        lambda order: time.monotonic() > plan.until or is_best(order[-1]),
    )
    order = run_arm(arm, problem, seed, recorder)
    met = bool(order) and is_best(order[-1])
    if not met and len(order) < recorder.budget and time.monotonic() > plan.until:
        say(f"   {arm.name} on {problem.name}, seed {seed}: no time left, not counted")
        return
    value = float(len(order)) if met else float("inf")
    more = {"group": problem.name, "seed": seed, "count": plan.budget_of(arm), "note": arm.version}
    ledger.add(plan.section, arm.name, "cells to the best one", value, **more)
    say(f"   {problem.name}, {arm.name}, seed {seed}: {len(order) if met else 'not met'}")


def add_curve(folder: Path, problem: str, arm: Arm, seed: int, shares: Values) -> None:
    """Append a curve, a point for every tenth cell and the last."""
    path = folder / CURVES
    fresh = not path.is_file()
    thin = [*shares[_STEP - 1 :: _STEP], *([shares[-1]] if len(shares) % _STEP else [])]
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if fresh:
            writer.writerow(_FIELDS)
        text = " ".join(f"{share:.4f}" for share in thin)
        writer.writerow([problem, arm.name, arm.version, seed, _STEP, text])


def read_curves(folder: Path) -> dict[tuple[str, str], tuple[int, list[Values]]]:
    """Return the curves of each problem and method, with the step in cells; those of the newest code."""
    path = folder / CURVES
    if not path.is_file():
        return {}
    with path.open(newline="") as stream:
        records = list(csv.DictReader(stream))
    newest = {(record["problem"], record["arm"]): record["version"] for record in records}
    by_seed: dict[tuple[str, str], dict[str, tuple[int, Values]]] = {}
    for record in records:
        key = record["problem"], record["arm"]
        if newest[key] == record["version"]:
            values = np.array([float(part) for part in record["shares"].split()])
            by_seed.setdefault(key, {})[record["seed"]] = int(record["step"]), values
    return {
        key: (next(iter(held.values()))[0], [values for _, values in held.values()])
        for key, held in by_seed.items()
    }
