"""Runs of all methods on streams of real data, with what learning after others gains over learning alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from _continual_arms import (
    ARMS,
    DENSE,
    EXSSNET,
    INDEPENDENT,
    JOINT,
    JOINT_KKT,
    NAIVE,
    PACKNET,
    SAME_RATES,
    SSNET,
    SUPSUP,
    SUPSUP_KKT,
    WITH_KKT,
    Plan,
    Rates,
    rates,
    rates_beside,
)
from _continual_runs import Wanted, best_rates, is_kept, metrics_of, percent
from _continual_streams import Bench
from _record import Ledger, say

from brickyard.continual import StreamTask, run_stream

STREAM_RATES = "stream rates"
FORWARD = "forward transfer"
_ALONE = {SSNET: EXSSNET, WITH_KKT: EXSSNET, SUPSUP_KKT: SUPSUP, JOINT_KKT: JOINT, NAIVE: INDEPENDENT}
"""Whose first task tells what a method reaches alone, where that is the same by construction."""


def adapted(wanted: Wanted, bench: Bench, *, given: Sequence[int | None], quick: bool) -> Wanted:
    """Return what is wanted of a stream: its own sizes unless the command line gives others.

    Args:
        wanted: What is wanted of the other sections.
        bench: The stream.
        given: Epochs, examples and tasks of the command line, None where they are not given.
        quick: Whether a minute must do.
    """
    epochs, examples, tasks = given
    return replace(
        wanted,
        epochs=epochs or (2 if quick else bench.epochs),
        examples=examples or (200 if quick else bench.examples),
        tasks=tasks or (2 if quick else 100),
    )


def choose_stream_rates(ledger: Ledger, wanted: Wanted, bench: Bench) -> None:
    """Measure every learning rate on held-out training examples of tasks in orders of their own.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted.
        bench: The stream.
    """
    note = bench_rates_note(wanted, bench)
    streams = {seed: bench.rate_stream(seed, wanted.examples) for seed in bench.rate_seeds}
    for arm in wanted.arms:
        for density in _densities(arm, wanted.densities):
            for chosen in _candidates(ledger, wanted, bench, arm, density):
                for seed, stream in streams.items():
                    key = {"method": arm, "limit": percent(density), "group": str(chosen), "seed": str(seed)}
                    if is_kept(ledger, STREAM_RATES, wanted, note=note, **key):
                        continue
                    plan = _plan(wanted, bench, density, seed, chosen)
                    found = float(run_stream(ARMS[arm](plan), stream).learned.mean())
                    say(f"   {bench.name}, {arm}, {percent(density)}, rates {chosen}: {found:.4f} held out")
                    more = {"note": note, "task": bench.name, **key}
                    ledger.add(STREAM_RATES, metric="accuracy on held-out examples", value=found, **more)


def _candidates(ledger: Ledger, wanted: Wanted, bench: Bench, arm: str, density: float) -> list[Rates]:
    if arm in SAME_RATES:  # a mask that starts from another one may have to move less
        others = stream_rates(ledger, wanted, bench, SAME_RATES[arm], density)
        return [replace(others, mask=mask) for mask in bench.mask_rates if mask <= others.mask]
    if arm == JOINT:
        return rates_beside(stream_rates(ledger, wanted, bench, SUPSUP, density))
    found = {"masks": bench.mask_rates, "weights": bench.weight_rates, "dense": bench.dense_rates}
    return rates(arm, bench.net(), **found)


def run_bench(ledger: Ledger, wanted: Wanted, bench: Bench) -> None:
    """Let every method learn a stream, and, where the stream says so, each of its tasks alone.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted.
        bench: The stream.
    """
    note = bench_note(wanted, bench)
    for seed in wanted.seeds:
        alone: dict[tuple[str, float, Rates], list[float]] = {}
        for arm in wanted.arms:
            for density in _densities(arm, wanted.densities):
                key = {"method": arm, "limit": percent(density), "seed": str(seed)}
                if is_kept(ledger, bench.name, wanted, note=note, **key):
                    continue
                chosen = stream_rates(ledger, wanted, bench, arm, density)
                plan = _plan(wanted, bench, density, seed, chosen)
                stream = bench.tasks(seed, wanted.examples, bench.tests)[: wanted.tasks]

                def watch(
                    task: StreamTask, accuracy: float, arm: str = arm, density: float = density
                ) -> None:
                    say(f"   {bench.name}, {arm}, {percent(density)}, {task.name}: {accuracy:.4f}")

                outcome = run_stream(ARMS[arm](replace(plan, num_tasks=len(stream))), stream, watch=watch)
                numbers = metrics_of(outcome)
                same = _ALONE.get(arm, arm), density, chosen
                if arm == INDEPENDENT:
                    numbers[FORWARD] = 0.0
                elif bench.alone:
                    if same not in alone:
                        alone[same] = _alone(same[0], plan, stream)
                    numbers[FORWARD] = outcome.forward_transfer(alone[same])
                for metric, value in numbers.items():
                    ledger.add(bench.name, metric=metric, value=value, count=len(stream), note=note, **key)


def _alone(arm: str, plan: Plan, stream: Sequence[StreamTask]) -> list[float]:
    """Return the accuracy of a method on each task where it learns nothing else."""
    found = []
    for task in stream:
        method = ARMS[arm](replace(plan, num_tasks=1 if arm != PACKNET else len(stream)))
        found.append(float(run_stream(method, [task]).learned[0]))
    return found


def stream_rates(ledger: Ledger, wanted: Wanted, bench: Bench, arm: str, density: float) -> Rates:
    """Return the rates that were chosen for an arm and a density."""
    return best_rates(ledger, arm, density, bench_rates_note(wanted, bench), section=STREAM_RATES)


def bench_rates_note(wanted: Wanted, bench: Bench) -> str:
    """Tell what rates are chosen by."""
    judges = f"{bench.judged} others" if bench.judged else "a fifth"
    return f"{bench_note(wanted, bench)}, judged by {judges} of {bench.rate_tasks} tasks"


def bench_note(wanted: Wanted, bench: Bench) -> str:
    """Tell what kept runs must agree on."""
    return f"{bench.name}: {wanted.note}"


def _densities(arm: str, densities: Sequence[float]) -> Sequence[float]:
    return (1.0,) if arm in DENSE else densities


def _plan(wanted: Wanted, bench: Bench, density: float, seed: int, chosen: Rates) -> Plan:
    return Plan(
        density=density,
        num_tasks=wanted.tasks,
        epochs=wanted.epochs,
        seed=seed,
        rates=chosen,
        net=bench.net(),
    )
