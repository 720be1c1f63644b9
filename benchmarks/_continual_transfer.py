"""Starting from earlier masks (KKT): how many steps it saves on related tasks, and whether it harms others.

Related tasks are alphabets, whose weights are trained with the masks or after them, and pictures turned 9
degrees further each; unrelated ones have their pixels in random orders. A network that starts from earlier
masks is trained for a share of the epochs, its schedules shortened with them; the least share with which it
is as good as one that starts at random with all epochs is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from _continual_arms import BATCH, EXSSNET, JOINT, JOINT_KKT, Rates
from _continual_nets import LENET, Net
from _continual_runs import Wanted, best_rates, is_kept, percent, pictures
from _continual_sections import stream_rates
from _continual_streams import ALPHABETS, BENCHES
from _record import Ledger, Row, pick, say
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from brickyard.continual import Learner, LearnSettings, StreamTask, accuracy, permuted_tasks
from brickyard.continual.settings import Transfer

KKT = "transfer"
TURNED, UNRELATED = "turned", "permuted"
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
ACCURACY, ACCEPTED, TIME = "accuracy after the first task", "share of accepted tasks", "seconds of k-NN"
_DEGREES = 9.0
_RANDOM, _KKT = "at random", "from the best earlier mask"


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Tasks of one kind.

    Attributes:
        name: Their name.
        wanted: Their sizes.
        net: The network.
        tasks: Gives the tasks of a seed.
        rates: Learning rates.
        later: Those of networks that start from earlier masks.
        shares: Shares of the epochs that networks which start from earlier masks are given.
        joint: Whether weights are trained with the masks, in place of after them.
    """

    name: str
    wanted: Wanted
    net: Net
    tasks: Callable[[int], Iterable[StreamTask]]
    rates: Rates
    later: Rates
    shares: Sequence[float] = SHARES
    joint: bool = False

    @property
    def epochs(self) -> tuple[int, int]:
        """All epochs of masks and of weights."""
        weights = 0 if self.joint else self.wanted.epochs // 2
        return self.wanted.epochs - weights, weights


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


def measure_transfer(ledger: Ledger, wanted: Wanted, alphabets: Wanted, *, rates_note: str) -> None:
    """Learn streams of all kinds from random scores and from earlier masks.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted of pictures; the first density counts.
        alphabets: What is wanted of alphabets.
        rates_note: Examples and epochs of the rows that tell the learning rates of pictures.
    """
    for kind in _kinds(ledger, wanted, alphabets, rates_note):
        all_epochs = sum(kind.epochs)
        runs = {_RANDOM: kind.epochs}
        for share in kind.shares:
            mask, weight = (max(1, round(share * epochs)) if epochs else 0 for epochs in kind.epochs)
            runs[f"{_KKT}, {(mask + weight) / all_epochs:.3g} of the epochs"] = mask, weight
        for seed in kind.wanted.seeds:
            for method, epochs in runs.items():
                limit = percent(kind.wanted.densities[0])
                key = {"method": method, "group": kind.name, "limit": limit, "seed": str(seed)}
                if not is_kept(ledger, KKT, kind.wanted, note=kind.wanted.note, **key):
                    _run(ledger, kind, epochs, key)


def _kinds(ledger: Ledger, wanted: Wanted, alphabets: Wanted, rates_note: str) -> Iterator[_Kind]:
    bench, density = BENCHES[ALPHABETS], alphabets.densities[0]
    together = _Kind(
        name=ALPHABETS,
        wanted=alphabets,
        net=bench.net(),
        tasks=lambda seed: bench.tasks(seed, alphabets.examples, bench.tests)[: alphabets.tasks],
        rates=stream_rates(ledger, alphabets, bench, JOINT, density),
        later=stream_rates(ledger, alphabets, bench, JOINT_KKT, density),
        joint=True,
    )
    yield together
    rates = stream_rates(ledger, alphabets, bench, EXSSNET, density)
    yield replace(together, name=f"{ALPHABETS}, in turns", rates=rates, later=rates, joint=False)
    train, test = pictures(wanted.examples)
    rates = best_rates(ledger, EXSSNET, wanted.densities[0], rates_note)
    yield _Kind(
        name=TURNED,
        wanted=wanted,
        net=LENET,
        tasks=lambda seed: turned_tasks(train, test, num_tasks=wanted.tasks),
        rates=rates,
        later=rates,
    )
    yield _Kind(
        name=UNRELATED,
        wanted=wanted,
        net=LENET,
        tasks=lambda seed: permuted_tasks(train, test, num_tasks=wanted.tasks, num_classes=10, seed=seed),
        rates=rates,
        later=rates,
        shares=(1.0,),
    )


def _run(ledger: Ledger, kind: _Kind, epochs: tuple[int, int], key: dict[str, str]) -> None:
    seed = int(key["seed"])
    network = kind.net.masked(density=kind.wanted.densities[0], seed=seed)
    settings = LearnSettings(
        mask_epochs=kind.epochs[0],
        weight_epochs=kind.epochs[1],
        batch_size=BATCH,
        joint=kind.joint,
        seed=seed,
        **_settings(kind.rates),
    )
    transfer: Transfer = "off" if key["method"] == _RANDOM else "best"
    later = replace(settings, mask_epochs=epochs[0], weight_epochs=epochs[1], transfer=transfer)
    later = later if transfer == "off" else replace(later, **_settings(kind.later))
    learner = Learner(network, settings=settings)
    accuracies, accepted, seconds = [], [], []
    for number, task in enumerate(kind.tasks(seed)):
        learner.settings = later if number else settings
        learned = learner.learn(task.name, task.train, num_classes=task.num_classes)
        if number:
            accuracies.append(accuracy(network, task.name, task.test))
            seconds.append(learned.transfer_seconds)
            if learned.suited is not None:
                accepted.append(len(learned.suited.accepted) / number)
    mean, more = float(np.mean(accuracies)), {**key, "note": kind.wanted.note}
    say(f"   {kind.name}, seed {seed}, {key['method']}: {mean:.4f}")
    ledger.add(KKT, metric=ACCURACY, value=mean, count=len(accuracies), **more)
    if accepted:
        ledger.add(KKT, metric=ACCEPTED, value=float(np.mean(accepted)), count=len(accepted), **more)
        ledger.add(KKT, metric=TIME, value=float(np.mean(seconds)), count=len(seconds), **more)


def _settings(rates: Rates) -> dict[str, Any]:
    return {"mask_rate": rates.mask, "weight_rate": rates.weight, "own_rate": rates.own}


def steps_shares(rows: Sequence[Row], kind: str) -> list[float]:
    """Return the least share of the epochs with which earlier masks do as well as all epochs without.

    One number for each seed; 2 where no share does.

    Args:
        rows: Rows.
        kind: Which tasks count.
    """
    related = pick(rows, group=kind, metric=ACCURACY)
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
