"""Runs of methods on streams of permuted MNIST: learning rates by validation, accuracies, forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import _adaptor
import numpy as np
import torch
from _continual_arms import ARMS, DENSE, EXSSNET, SAME_RATES, SUPSUP, Masks, Plan, Rates, rates
from _record import Ledger, Row, pick, say
from torch.utils.data import TensorDataset

from brickyard.continual import Outcome, StreamTask, infer_task, permuted_tasks, run_stream
from brickyard.continual.examples import take
from brickyard.continual.identity import METHODS

PERMUTED, RATES, HUNDRED = "permuted", "rates", "hundred"
ENDS = "accuracy of the last ten tasks less that of the first ten"
AVERAGE, CHANGE = "average accuracy", "largest change of a score of an old task"
_MEAN, _STD = 0.1307, 0.3081
_HELD_OUT = 2000
_PICTURES = 128  # by which the task is inferred
_RATE_TASKS, _RATE_SEED = 2, 1000  # tasks and seed for the choice of rates, none of which is measured later


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a call measures.

    Attributes:
        seeds: Seeds.
        densities: Densities.
        arms: Methods.
        epochs: Passes over the examples of each task.
        examples: Examples of each task, the first ones of the training set.
        tasks: Tasks of a stream.
        again: Whether runs that are kept with the same settings are made again.
    """

    seeds: Sequence[int]
    densities: Sequence[float]
    arms: Sequence[str]
    epochs: int
    examples: int
    tasks: int
    again: bool

    @property
    def rates_note(self) -> str:
        """What kept rates must agree on."""
        return f"{self.examples} examples, {self.epochs} epochs"

    @property
    def note(self) -> str:
        """What a kept run must agree on."""
        return f"{self.tasks} tasks, {self.rates_note}"


def percent(density: float) -> str:
    """Return a density as the tables show it."""
    return f"{100 * density:g}%"


def pictures(examples: int, *, held_out: bool = False) -> tuple[TensorDataset, TensorDataset]:
    """Read MNIST, flat and normalised.

    Args:
        examples: Examples to learn from.
        held_out: Whether to judge by examples of the training set that are learned from by nobody, in place
            of the test set.

    Returns:
        What to learn from and what to judge by.
    """
    images, labels, test_images, test_labels = _adaptor.mnist()
    if examples > len(images) - _HELD_OUT:
        raise SystemExit(f"--examples {examples}: at most {len(images) - _HELD_OUT}")
    if held_out:
        test_images, test_labels = images[-_HELD_OUT:], labels[-_HELD_OUT:]

    def dataset(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
        flat = torch.from_numpy(images.reshape(len(images), -1)).float() / 255
        return TensorDataset((flat - _MEAN) / _STD, torch.from_numpy(labels))

    return dataset(images[:examples], labels[:examples]), dataset(test_images, test_labels)


def choose_rates(ledger: Ledger, wanted: Wanted) -> None:
    """Measure every learning rate on held-out examples of two other tasks.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted.
    """
    train, test = pictures(wanted.examples, held_out=True)
    for arm in [arm for arm in wanted.arms if arm not in SAME_RATES]:
        for density in _densities(arm, wanted.densities):
            for chosen in rates(arm):
                key = {"method": arm, "limit": percent(density), "group": str(chosen)}
                if is_kept(ledger, RATES, wanted, note=wanted.rates_note, **key):
                    continue
                plan = Plan(
                    density=density,
                    num_tasks=wanted.tasks,
                    epochs=wanted.epochs,
                    seed=_RATE_SEED,
                    rates=chosen,
                )
                stream = permuted_tasks(train, test, num_tasks=_RATE_TASKS, num_classes=10, seed=_RATE_SEED)
                found = float(run_stream(ARMS[arm](plan), stream).learned.mean())
                say(f"   {arm}, {percent(density)}, rates {chosen}: {found:.4f} on held-out examples")
                more = {**key, "seed": _RATE_SEED, "count": _HELD_OUT, "note": wanted.rates_note}
                ledger.add(RATES, metric="accuracy on held-out examples", value=found, **more)


def _densities(arm: str, densities: Sequence[float]) -> Sequence[float]:
    return (1.0,) if arm in DENSE else densities


def is_kept(ledger: Ledger, section: str, wanted: Wanted, **fields: object) -> bool:
    """Tell whether a run is there already, with the same settings."""
    found = pick([row for row in ledger.earlier if row.mode == ledger.mode], section=section, **fields)
    return bool(found) and not wanted.again


def best_rates(ledger: Ledger, arm: str, density: float, note: str, *, section: str = RATES) -> Rates:
    """Return the rates that are best on held-out examples, on average over seeds.

    Middle ones without rows.
    """
    rows, found = [*ledger.earlier, *ledger.rows], list[Row]()
    for method in (arm, SAME_RATES.get(arm, arm)):
        found = found or pick(rows, section=section, method=method, limit=percent(density), note=note)
    if not found:
        held = rates(arm)
        return held[len(held) // 2]
    by_group: dict[str, list[float]] = {}
    for row in found:
        by_group.setdefault(row.group, []).append(row.value)
    return Rates.parse(max(by_group, key=lambda group: float(np.mean(by_group[group]))))


def run_permuted(ledger: Ledger, wanted: Wanted, *, section: str = PERMUTED) -> None:
    """Let every method learn streams of permuted MNIST.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted.
        section: Section of the rows.
    """
    train, test = pictures(wanted.examples)
    for seed in wanted.seeds:
        for arm in wanted.arms:
            for density in _densities(arm, wanted.densities):
                key = {"method": arm, "limit": percent(density), "seed": str(seed)}
                if not is_kept(ledger, section, wanted, note=wanted.note, **key):
                    plan = Plan(
                        density=density,
                        num_tasks=wanted.tasks,
                        epochs=wanted.epochs,
                        seed=seed,
                        rates=best_rates(ledger, arm, density, wanted.rates_note),
                    )
                    stream = list(
                        permuted_tasks(train, test, num_tasks=wanted.tasks, num_classes=10, seed=seed)
                    )
                    _run(ledger, section, arm, plan, stream, note=wanted.note)


def _run(
    ledger: Ledger, section: str, arm: str, plan: Plan, stream: Sequence[StreamTask], *, note: str
) -> None:
    method = ARMS[arm](plan)

    def watch(task: StreamTask, accuracy: float) -> None:
        say(f"   {arm}, {percent(plan.density)}, seed {plan.seed}, {task.name}: {accuracy:.4f}")

    outcome = run_stream(method, stream, watch=watch)
    numbers = metrics_of(outcome)
    if isinstance(method, Masks):
        records = method.network.records
        numbers["free share of the last mask"] = records[-1].free_share
        numbers["free share of the pool"] = method.network.free_share()
        for how in METHODS:
            found = [
                infer_task(method.network, take(task.test, range(_PICTURES))[0], method=how) == task.name
                for task in stream
            ]
            numbers[f"share of tasks found, {how}"] = float(np.mean(found))
    for metric, value in numbers.items():
        ledger.add(
            section,
            arm,
            metric,
            value,
            limit=percent(plan.density),
            seed=plan.seed,
            count=len(outcome.names),
            note=note,
        )


def metrics_of(outcome: Outcome) -> dict[str, float]:
    """Return what the tables show of an outcome."""
    numbers = {
        AVERAGE: outcome.average_accuracy,
        "forgetting": outcome.forgetting,
        "backward transfer": outcome.backward_transfer,
        CHANGE: outcome.change,
        "accuracy right after learning": float(outcome.learned.mean()),
        "seconds of a task": float(np.median(outcome.seconds)),
    }
    if len(outcome.names) >= 20:
        final, seconds = outcome.final, outcome.seconds
        numbers[ENDS] = float(final[-10:].mean() - final[:10].mean())
        numbers["seconds of the last ten over the first ten"] = float(
            np.median(seconds[-10:]) / np.median(seconds[:10])
        )
    return numbers


def gain(rows: Sequence[Row], density: float) -> list[float]:
    """Return, for each seed, points of average accuracy of ExSSNeT over SupSup at one density."""
    at = pick(rows, metric=AVERAGE, limit=percent(density))
    found = []
    for row in pick(at, method=EXSSNET):
        other = pick(at, method=SUPSUP, seed=row.seed, note=row.note)
        found += [100 * (row.value - each.value) for each in other]
    return found
