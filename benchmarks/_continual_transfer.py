"""Starting from earlier masks (KKT): how many steps it saves on related tasks, and whether it harms others.

Related tasks are turned pictures, each 9 degrees further; unrelated ones have their pixels in random orders.
A network that starts from earlier masks is trained for a share of the epochs, its schedules shortened with
them; the least share with which it is as good as one that starts at random with all epochs is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from _continual_arms import BATCH, EXSSNET
from _continual_nets import lenet
from _continual_runs import Wanted, best_rates, is_kept, percent, pictures
from _record import Ledger, Row, pick, say
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from brickyard.continual import Learner, LearnSettings, StreamTask, accuracy, masked, permuted_tasks
from brickyard.continual.settings import Transfer

KKT = "transfer"
RELATED, UNRELATED = "turned", "permuted"
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
ACCURACY, ACCEPTED, TIME = "accuracy after the first task", "share of accepted tasks", "seconds of k-NN"
_DEGREES = 9.0
_RANDOM, _KKT = "at random", "from the best earlier mask"

Streams = dict[str, Callable[[int], Iterator[StreamTask]]]


def turned_tasks(train: TensorDataset, test: TensorDataset, *, num_tasks: int) -> Iterator[StreamTask]:
    """Yield tasks whose pictures of 28 x 28 pixels are turned, each 9 degrees further than the one before."""
    for number in range(num_tasks):
        angle = math.radians(_DEGREES * number)
        turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
        parts = []
        for part in (train, test):
            inputs, labels = part.tensors
            images = inputs.reshape(-1, 1, 28, 28)
            low = float(images.min())  # what comes in from outside is background
            grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
            images = F.grid_sample(images - low, grid, align_corners=False) + low
            parts.append(TensorDataset(images.reshape(len(images), -1), labels))
        yield StreamTask(f"{_DEGREES * number:g} degrees", parts[0], parts[1], 10)


def measure_transfer(ledger: Ledger, wanted: Wanted, *, rates_note: str) -> None:
    """Learn streams of both kinds from random scores and from earlier masks.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted; the first density counts.
        rates_note: Examples and epochs of the rows that tell the learning rates.
    """
    train, test = pictures(wanted.examples)
    streams: Streams = {
        RELATED: lambda seed: turned_tasks(train, test, num_tasks=wanted.tasks),
        UNRELATED: lambda seed: permuted_tasks(
            train, test, num_tasks=wanted.tasks, num_classes=10, seed=seed
        ),
    }
    all_epochs = wanted.epochs // 2  # of each phase
    for group, stream in streams.items():
        shares = SHARES if group == RELATED else (1.0,)
        runs = [(_RANDOM, all_epochs)]
        for epochs in sorted({max(1, round(share * all_epochs)) for share in shares}):
            runs.append((f"{_KKT}, {epochs / all_epochs:.3g} of the epochs", epochs))
        for seed in wanted.seeds:
            for method, epochs in runs:
                key = {
                    "method": method,
                    "group": group,
                    "limit": percent(wanted.densities[0]),
                    "seed": str(seed),
                }
                if not is_kept(ledger, KKT, wanted, note=wanted.note, **key):
                    rates = best_rates(ledger, EXSSNET, wanted.densities[0], rates_note)
                    _run(ledger, wanted, stream(seed), epochs=epochs, rates=rates, **key)


def _run(
    ledger: Ledger,
    wanted: Wanted,
    stream: Iterator[StreamTask],
    *,
    epochs: int,
    rates: tuple[float, float],
    seed: str,
    **key: str,
) -> None:
    network = masked(lenet(), input_shape=(784,), density=wanted.densities[0], seed=int(seed))
    settings = LearnSettings(
        mask_epochs=wanted.epochs // 2,
        weight_epochs=wanted.epochs // 2,
        batch_size=BATCH,
        mask_rate=rates[0],
        weight_rate=rates[1],
        seed=int(seed),
    )
    transfer: Transfer = "off" if key["method"] == _RANDOM else "best"
    later = replace(settings, mask_epochs=epochs, weight_epochs=epochs, transfer=transfer)
    learner = Learner(network, settings=settings)
    accuracies, accepted, seconds = [], [], []
    for number, task in enumerate(stream):
        learner.settings = later if number else settings
        learned = learner.learn(task.name, task.train, num_classes=task.num_classes)
        if number:
            accuracies.append(accuracy(network, task.name, task.test))
            seconds.append(learned.transfer_seconds)
            if learned.suited is not None:
                accepted.append(len(learned.suited.accepted) / number)
    mean, more = float(np.mean(accuracies)), {**key, "seed": seed, "note": wanted.note}
    say(f"   {key['group']}, seed {seed}, {key['method']}: {mean:.4f}")
    ledger.add(KKT, metric=ACCURACY, value=mean, count=len(accuracies), **more)
    if accepted:
        ledger.add(KKT, metric=ACCEPTED, value=float(np.mean(accepted)), count=len(accepted), **more)
        ledger.add(KKT, metric=TIME, value=float(np.mean(seconds)), count=len(seconds), **more)


def steps_shares(rows: Sequence[Row]) -> list[float]:
    """Return the least share of the epochs with which earlier masks do as well as all epochs without.

    On turned pictures, one number for each seed; 2 where no share does.
    """
    related = pick(rows, group=RELATED, metric=ACCURACY)
    found = []
    for row in pick(related, method=_RANDOM):
        others = [other for other in related if (other.seed, other.note) == (row.seed, row.note)]
        enough = [
            float(other.method.removeprefix(f"{_KKT}, ").split()[0])
            for other in others
            if other.method != _RANDOM and other.value >= row.value
        ]
        found.append(min(enough, default=2.0))
    return found
