"""Random subsets of 2 to 5 classes of digits and of CIFAR-10, against the same peers as geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from _factories import Kept
from _generic import Labels, Pictures
from _peers import Effort, Trial, run_trial
from _record import Ledger

from brickyard.core.task import Task
from brickyard.factory.quality import task_examples


def subsets(entry: Kept, count: int) -> list[tuple[Task, str]]:
    """Draw random subsets of 2 to 5 classes, the same for all seeds of the factory."""
    rng = np.random.default_rng(4321)
    words = np.array(entry.vocabulary.words)
    drawn: dict[Task, str] = {}
    while len(drawn) < count:
        size = 2 + len(drawn) % 4
        drawn[entry.vocabulary.task(rng.choice(words, size, replace=False).tolist())] = ""
    return list(drawn.items())


def classes(
    ledger: Ledger, what: str, entries: list[Kept], effort: Effort, *, count: int, most_pictures: int = 2000
) -> None:
    """Measure class subsets at 25 % and 50 % of the MACs.

    Args:
        ledger: Takes the rows.
        what: `digits` or `cifar10`.
        entries: Factories.
        effort: What is spent on the peers; only the first seed trains nets for tasks alone, at 25 %.
        count: Subsets.
        most_pictures: Most test pictures of a subset.
    """
    for place, entry in enumerate(entries):
        examples = test_pictures(entry, most_pictures)
        for limit in ("25%", "50%"):
            trial = Trial(
                section="cifar" if what == "cifar10" else what,
                entry=entry,
                tasks=subsets(entry, count),
                examples=examples,
                metric="accuracy",
                limit=limit,
            )
            first = place == 0 and limit == "25%"
            run_trial(ledger, trial, effort if first else replace(effort, alone=0))


def test_pictures(entry: Kept, most: int) -> Callable[[Task], tuple[Pictures, Labels]]:
    heldout = entry.data.heldout

    @cache
    def examples(task: Task) -> tuple[Pictures, Labels]:
        drawn = task_examples(task, entry.vocabulary, heldout=heldout, geometry=None, count=most, seed=0)
        assert drawn is not None
        return drawn

    return examples
