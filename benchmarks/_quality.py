"""Quality on fresh scenes, and controls that must fail if the gates carry the task."""

from __future__ import annotations

import numpy as np
from _factories import SCENES, Kept, fresh_scenes
from _record import Ledger, say

from brickyard.core.config import Config
from brickyard.core.decision import Subset
from brickyard.core.space import WORDS, block_subsets
from brickyard.core.task import Task

LIMITS = ("25%", "50%")


def tasks_of(entry: Kept, *, most: int | None = None) -> list[tuple[Task, str]]:
    """Return tasks with their groups, `known` or `unseen`; a spread-out choice of `most` of each if given."""
    chosen = []
    for group, tasks in zip(("known", "unseen"), entry.pairs(), strict=True):
        step = 1 if most is None else max(1, len(tasks) // most)
        chosen += [(task, group) for task in tasks[::step][: most or len(tasks)]]
    return chosen


def quality(ledger: Ledger, entries: list[Kept], *, most: int | None, count: int = SCENES) -> None:
    """Measure every two-property task at 25 % and 50 % of the MACs.

    Args:
        ledger: Takes the rows.
        entries: Factories.
        most: Most tasks of each group, None for all.
        count: Scenes for each task.
    """
    for entry in entries:
        whole = entry.maker.whole.macs
        for task, group in tasks_of(entry, most=most):
            pair = {entry.vocabulary.locate(index)[0] for index in map(entry.vocabulary.index, task.words)}
            main = pair == {2, 3}
            examples = fresh_scenes(entry, task, count=count)
            for limit in LIMITS:
                config = entry.config(task, limit)
                value = entry.judge(config, task, examples)
                share = entry.factory.folder.blueprint.count(config).macs / whole
                more = {"group": group, "task": task.text, "limit": limit, "seed": entry.seed, "count": count}
                ledger.add("quality", "ours", "balanced accuracy", value, **more)
                ledger.add("quality", "ours", "share of MACs", share, **more)
                if main:
                    ledger.add("quality", "ours, colour x shape alone", "balanced accuracy", value, **more)
        say(f"quality: seed {entry.seed} done")


def other_task(task: Task, tasks: list[Task], rng: np.random.Generator) -> Task:
    """Draw a task that shares no word with this one."""
    apart = [other for other in tasks if not set(other.words) & set(task.words)]
    return apart[int(rng.integers(len(apart)))]


def random_gates(entry: Kept, config: Config, rng: np.random.Generator, *, within: float = 0.02) -> Config:
    """Draw bricks at random until they cost what a config costs.

    Args:
        entry: The factory.
        config: The config; as many words of the head are drawn as it has.
        rng: Source of the draw.
        within: Share by which the MACs may differ.

    Returns:
        The random config.

    Raises:
        RuntimeError: No draw came near enough.
    """
    blueprint = entry.factory.folder.blueprint
    target = blueprint.count(config).macs
    blocks = block_subsets(blueprint.space)
    bricks = [(block.name, index) for block in blocks for index in range(block.count)]
    words = blueprint.space[WORDS]
    assert isinstance(words, Subset)
    head = {WORDS: tuple(sorted(rng.choice(words.count, len(config[WORDS]), replace=False).tolist()))}
    for _ in range(100):
        chosen: dict[str, list[int]] = {block.name: [] for block in blocks}
        for place in rng.permutation(len(bricks)):
            name, index = bricks[place]
            chosen[name].append(index)
            if blueprint.count({**config, **head, **chosen}).macs > target * (1 + within / 2):
                chosen[name].pop()
        drawn = {name: tuple(sorted(indices)) for name, indices in chosen.items()}
        result = config.replace({**head, **drawn})
        if blueprint.space.contains(result) and abs(blueprint.count(result).macs / target - 1) <= within:
            return result
    raise RuntimeError(f"no random gates within {within:.0%} of {target} MACs were found")


def controls(ledger: Ledger, entries: list[Kept], *, most: int | None, count: int = SCENES) -> None:
    """Judge, at 25 % of the MACs, gates of a wrong task and random gates of equal cost; chance is 0.5.

    Gates are the bricks of the blocks and the words of the head. What the bricks carry without the words
    shows when the head keeps the words of the right task.

    Args:
        ledger: Takes the rows.
        entries: Factories.
        most: Most tasks of each group, None for all.
        count: Scenes for each task.
    """
    for entry in entries:
        rng = np.random.default_rng(900 + entry.seed)
        tasks = [task for task, _ in tasks_of(entry)]
        for task, group in tasks_of(entry, most=most):
            examples = fresh_scenes(entry, task, count=count)
            right = entry.config(task, "25%")
            words = {WORDS: right[WORDS]}
            wrong = entry.config(other_task(task, tasks, rng), "25%")
            drawn = random_gates(entry, right, rng)
            made = {
                "gates of a wrong task": wrong,
                "bricks of a wrong task, words of the right one": wrong.replace(words),
                "random gates of equal cost": drawn,
                "random bricks of equal cost, words of the right task": drawn.replace(words),
            }
            for method, config in made.items():
                value = entry.judge(config, task, examples)
                more = {"group": group, "task": task.text, "limit": "25%", "seed": entry.seed, "count": count}
                ledger.add("controls", method, "balanced accuracy", value, **more)
        say(f"controls: seed {entry.seed} done")
