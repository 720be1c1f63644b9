"""The benchmark of real pictures: a trained ResNet-56 becomes a factory for CIFAR-10 (JPEG of quality 75).

    python benchmarks/real_images.py --data DIR                everything, from the kept factories
    python benchmarks/real_images.py --data DIR --only bulk    some sections
    python benchmarks/real_images.py --quick --json            about a minute; the rest from the kept CSV
    python benchmarks/_train_factories.py --what resnet56 --seed 0 --data DIR             ours
    python benchmarks/_train_factories.py --what resnet56 --seed 0 --data DIR --generic   trained on whole

Both start from the same network, which the first of the two fine-tunes whole and keeps, and then see the same
number of pictures. Every number is a row of a CSV file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import _adaptor
import numpy as np
from _command import begin, finish, ledger_of, numbers, options
from _factories import Kept, kept_factories, resnet56, tuned_weights
from _record import Ledger, Row, columns, mean, pick, say

SECTIONS = ("whole", "half", "subsets", "limits", "runtimes", "bulk")
QUICK = ("whole", "bulk")
WHAT = "resnet56"
ALL_ON, OURS = "ours, all bricks on", "ours"
RULE = "50%, equal latency"

TARGETS = {
    "all_on_loss_points": "<= 0.5",
    "half_macs_loss_points": "<= 3",
    "subset_gap_points": "<= 1.5",
    "ahead_of_cut_points": ">= 20",
    "bulk_seconds_per_request": "<= 0.7",
    "limits_met_share": ">= 0.97",
    "latency_mape": "<= 0.05",
    "int8_loss_points": "<= 1",
}


def whole(ledger: Ledger, entries: Sequence[Kept], *, count: int) -> None:
    """Measure the networks with everything on over all ten classes: as it came, fine-tuned, and ours.

    Args:
        ledger: Takes the rows.
        entries: Factories.
        count: Most test pictures.
    """
    from _runtime import forward

    for entry in entries:
        task = entry.vocabulary.all()
        images, labels = _test_pictures(entry, count)
        inputs = entry.preprocess.apply(images)
        more = {"task": task.text, "limit": "100%", "seed": entry.seed, "count": len(labels)}

        def accuracy(network: object, inputs: np.ndarray = inputs, labels: np.ndarray = labels) -> float:
            return float((forward(network, inputs).argmax(1).numpy() == labels).mean())  # type: ignore[arg-type]

        if entry.seed == 0:
            ledger.add(
                "whole", "trained network as it came", "accuracy", accuracy(entry.fresh_network()), **more
            )
        start = tuned_weights(entry.seed, kept=entry.path.parent)
        if start.is_file():
            value = accuracy(resnet56(start))
            ledger.add("whole", "fine-tuned whole, where ours starts", "accuracy", value, **more)
        if entry.generic_path is not None:
            tuned = entry.generic()
            assert tuned is not None
            ledger.add("whole", "fine-tuned whole", "accuracy", accuracy(tuned[0]), **more)
        largest = entry.factory.folder.blueprint.space.largest()
        for method, config in ((ALL_ON, largest), (f"{OURS} at 50%", entry.config(task, "50%"))):
            ledger.add("whole", method, "accuracy", entry.judge(config, task, (images, labels)), **more)


def half(ledger: Ledger, entries: Sequence[Kept], arguments: argparse.Namespace) -> None:
    """Compare half of the MACs over all ten classes with library cuts, before and after fine-tuning."""
    from _peers import Effort, Trial, run_trial

    for place, entry in enumerate(entries):
        examples = _test_pictures(entry, arguments.pictures)
        trial = Trial(
            section="half",
            entry=entry,
            tasks=[(entry.vocabulary.all(), "")],
            examples=lambda task, examples=examples: examples,
            metric="accuracy",
            limit="50%",
        )
        effort = Effort(tune_steps=arguments.tune_steps, alone=0, threads=arguments.threads)
        run_trial(ledger, trial, effort if place == 0 else replace(effort, tune_steps=0))


def subsets(ledger: Ledger, entries: Sequence[Kept], arguments: argparse.Namespace) -> None:
    """Compare subsets of 2 to 5 classes at a quarter of the MACs with networks trained for each."""
    from _classes import subsets as draw
    from _classes import test_pictures
    from _peers import Effort, Trial, run_trial

    for entry in entries:
        trial = Trial(
            section="subsets",
            entry=entry,
            tasks=draw(entry, arguments.subsets),
            examples=test_pictures(entry, 5000),
            metric="accuracy",
            limit="25%",
        )
        effort = Effort(
            tune_steps=0,
            schedules=arguments.schedules,
            short_schedules=arguments.short_schedules,
            alone=arguments.subsets if arguments.alone is None else arguments.alone,
            cuts=False,  # those of the section half tell what they are worth
            threads=arguments.threads,
        )
        run_trial(ledger, trial, effort)


def _test_pictures(entry: Kept, count: int) -> tuple[np.ndarray, np.ndarray]:
    heldout = entry.data.heldout
    keep = np.random.default_rng(0).permutation(len(heldout))[:count]
    return heldout.images[keep], heldout.classes[keep].astype(np.int64)


def _measure(ledger: Ledger, arguments: argparse.Namespace, wanted: Sequence[str]) -> None:
    from _bulk import bulk
    from _limits import limits
    from _runtimes import runtimes

    entries = kept_factories(WHAT, arguments.seeds, kept=arguments.kept)
    if not entries:
        say("no kept factory; see the head of this file for how they are trained")
        return
    quick, threads, first = arguments.quick, arguments.threads, entries[0]
    requests = arguments.requests or (20 if quick else 100)
    many = arguments.bulk or (40 if quick else 1000)
    parts: dict[str, Callable[[], None]] = {
        "whole": lambda: whole(ledger, entries[:1] if quick else entries, count=1000 if quick else 10_000),
        "half": lambda: half(ledger, entries, arguments),
        "subsets": lambda: subsets(ledger, entries, arguments),
        "limits": lambda: limits(ledger, first, requests=requests, threads=threads),
        "runtimes": lambda: runtimes(ledger, first, requests=requests),
        "bulk": lambda: bulk(ledger, first, requests=many, threads=threads),
    }
    for name in wanted:
        say(f"-- {name}")
        parts[name]()


def _loss(rows: Sequence[Row], reference: Sequence[Row]) -> float | None:
    """Return how many points a method lies below the reference, over the seeds that both have."""
    ours = {row.seed: row.value for row in rows}
    theirs = {row.seed: row.value for row in reference}
    both = sorted(set(ours) & set(theirs))
    return 100 * float(np.mean([theirs[seed] - ours[seed] for seed in both])) if both else None


def figures(ledger: Ledger) -> tuple[dict[str, float | None], str]:
    """Boil the rows down.

    Args:
        ledger: The rows of this run and of earlier ones.

    Returns:
        The figures by name, None where nothing was ever measured; and a table of them with targets. Losses of
        whole networks are those on most pictures: a quick run shows its own, on a tenth, in its table alone.
    """
    at_all = pick(ledger.most_counted("whole"), metric="accuracy")
    tuned = pick(at_all, method="fine-tuned whole")
    bulk_rows = ledger.section("bulk")
    met = _by_device(ledger, "latency requests met, file measured again", "share")
    errors = _by_device(ledger, "predicted latency of held-out subnets", "mean absolute error, share")
    cuts = pick(ledger.section("half"), metric="difference", limit=RULE)
    ahead = mean(pick(cuts, method="ours - best library cut as it leaves it"))
    values = {
        "all_on_loss_points": _loss(pick(at_all, method=ALL_ON), tuned),
        "half_macs_loss_points": _loss(pick(at_all, method=f"{OURS} at 50%"), tuned),
        "subset_gap_points": _subset_gap(ledger),
        "ahead_of_cut_points": None if ahead is None else 100 * ahead,
        "bulk_seconds_per_request": mean(pick(bulk_rows, metric="seconds per request")),
        "limits_met_share": min(met, default=None),
        "latency_mape": max(errors, default=None),
        "int8_loss_points": mean(pick(ledger.section("runtimes"), method="int8", metric="loss, points")),
    }
    rounded = {name: None if values[name] is None else float(f"{values[name]:.4g}") for name in TARGETS}
    lines = [("figure", "value", "wanted")]
    lines += [(name, "-" if value is None else str(value), TARGETS[name]) for name, value in rounded.items()]
    return rounded, columns(lines)


def _by_device(ledger: Ledger, method: str, metric: str) -> list[float]:
    """Return the mean of a number on each device that limits were looked at on: plain, and each runtime."""
    rows = [row for section in ("limits", "runtimes") for row in ledger.section(section)]
    rows = pick(rows, method=method, metric=metric)
    groups = {(row.section, row.group) for row in rows}
    means = [mean(pick(rows, section=section, group=group)) for section, group in sorted(groups)]
    return [value for value in means if value is not None]


def _subset_gap(ledger: Ledger) -> float | None:
    """Return how far ours lies below the better of two nets trained for a task, in points, a mean."""
    rows = pick(ledger.section("subsets"), metric="accuracy", limit="25%")
    trained = [
        row
        for method in ("net of equal MACs trained for the task", "magnitude cut fine-tuned for the task")
        for row in pick(rows, method=method)
    ]
    gaps: dict[tuple[str, str], float] = {}
    for row in pick(rows, method=OURS):
        others = [other.value for other in trained if (other.seed, other.task) == (row.seed, row.task)]
        if others:
            gaps[row.seed, row.task] = max(others) - row.value
    seeds = sorted({seed for seed, _ in gaps})
    means = [np.mean([gap for (of, _), gap in gaps.items() if of == seed]) for seed in seeds]
    return 100 * float(np.mean(means)) if means else None


def _arguments() -> argparse.Namespace:
    parser = options(__doc__, SECTIONS)
    parser.add_argument("--requests", type=int, help="latency requests of a device")
    parser.add_argument("--bulk", type=int, help="requests of the section bulk")
    parser.add_argument("--pictures", type=int, default=10_000, help="test pictures of the section half")
    parser.add_argument("--subsets", type=int, default=4, help="class subsets")
    parser.add_argument("--alone", type=int, help="of them, how many get nets trained alone")
    parser.add_argument("--tune-steps", type=int, default=390, help="fine-tuning of library cuts, first seed")
    parser.add_argument("--schedules", type=numbers, default=[1000], help="steps of nets for a task")
    parser.add_argument("--short-schedules", type=numbers, default=[300], help="steps of tuned cuts")
    return parser.parse_args()


def main() -> None:
    """Read the command line, measure, print tables to stderr (stdout without --json) and the figures."""
    arguments = _arguments()
    wanted = begin(arguments, SECTIONS, QUICK)
    ledger = ledger_of(arguments, "real_images")
    if _adaptor.has_cifar10():
        _measure(ledger, arguments, wanted)
    else:
        say(f"nothing is measured without real data; name its folder by --data DIR or {_adaptor.VARIABLE}")
    finish(ledger, arguments, SECTIONS, figures)


if __name__ == "__main__":
    main()
