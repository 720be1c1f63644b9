"""What masks cost: bits, memory, the time of a step, the time of a network that was cut out.

Times are processor times, which other processes disturb less.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice, pairwise, permutations
from pathlib import Path

import torch
from _continual_arms import BATCH
from _continual_nets import lenet
from _continual_runs import percent
from _record import Ledger, say
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from brickyard.continual import Learner, LearnSettings, TaskFolder, masked
from brickyard.continual.optimizer import one_cycle

COST = "cost"
GROWTH, GROWN = "memory of a task beside its mask, in MB", 50
BLOCK = 8  # steps
CALLS = 200
BITS, STEP, CUT = "bits of a mask over its entropy", "masked step over dense step", "cut over hand-built"


def conv_net() -> nn.Sequential:
    """Build a small convolutional network for pictures of 32 x 32 pixels."""
    layers: list[nn.Module] = []
    for width_in, width_out, stride in ((3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        conv = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(width_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10, bias=False))


# and steps of a phase: a short one is not like training, since at first the thresholds of masks move far
NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], int]] = {
    "LeNet-300-100": (lenet, (784,), 64),
    "conv net": (conv_net, (3, 32, 32), 16),
}


def measure_cost(ledger: Ledger, densities: Sequence[float], *, rounds: int) -> None:
    """Measure bits, steps and cut networks.

    Args:
        ledger: Takes the rows.
        densities: Densities.
        rounds: How often steps and latencies are measured, in turns with what they are compared with.
    """
    for name, (build, shape, steps) in NETWORKS.items():
        data = _data(shape, steps)
        rows = [  # round by round, so that what else the machine does meets all densities
            [_step_ratio(build, shape, data, density) for density in densities] for _ in range(rounds)
        ]
        for density, ratios in zip(densities, zip(*rows, strict=True), strict=True):
            where = {"limit": percent(density), "count": rounds, "group": name}
            step = statistics.median(ratios)
            ledger.add(COST, "ExSSNeT", BITS, _bits(build, shape, data, density), **where)
            if rounds > 5 and density == min(densities):
                ledger.add(COST, "ExSSNeT", GROWTH, _growth(build, shape, data, density), **where)
            ledger.add(COST, "ExSSNeT", STEP, step, **where)
            cut, other = _cut_ratios(build, shape, data, density, rounds)
            ledger.add(COST, "ExSSNeT", CUT, cut, **where)
            ledger.add(COST, "built by hand", CUT, other, **where)
            say(f"   {name}, {percent(density)}: step {step:.2f} of a dense one")


def _data(shape: tuple[int, ...], steps: int) -> TensorDataset:
    return TensorDataset(torch.randn(BATCH * steps, *shape), torch.randint(0, 10, (BATCH * steps,)))


def _learner(
    build: Callable[[], nn.Sequential], shape: tuple[int, ...], density: float, *, epochs: int = 1
) -> Learner:
    settings = LearnSettings(mask_epochs=epochs, weight_epochs=epochs, batch_size=BATCH)
    return Learner(masked(build(), input_shape=shape, density=density), settings=settings)


def _bits(
    build: Callable[[], nn.Sequential], shape: tuple[int, ...], data: TensorDataset, density: float
) -> float:
    """Return the size of a learned mask's file over its entropy."""
    learner = _learner(build, shape, density)
    with tempfile.TemporaryDirectory() as name:
        learner.folder = TaskFolder.create(Path(name) / "tasks", learner.network)
        learner.learn("first", data, num_classes=10)
        (stored,) = learner.folder.stored()
    return stored.mask_bits / stored.entropy


def _growth(
    build: Callable[[], nn.Sequential], shape: tuple[int, ...], data: TensorDataset, density: float
) -> float:
    """Return by how much this process grows with each task, beside the task's mask."""
    import psutil

    learner, process, sizes = _learner(build, shape, density), psutil.Process(), []
    few = TensorDataset(*data[: 2 * BATCH])
    for task in range(GROWN + 5):
        learner.learn(f"task {task}", few, num_classes=10)
        sizes.append(process.memory_info().rss)
    return ((sizes[-1] - sizes[4]) / GROWN - learner.network.num_weights / 8) / 1e6


def _step_ratio(
    build: Callable[[], nn.Sequential], shape: tuple[int, ...], data: TensorDataset, density: float
) -> float:
    """Return the mean of the two phases' steps over that of the same network without masks.

    Blocks of masked and dense steps take turns, since machines change their speed, and each block is compared
    with the one behind it; its first step brings the network back into the caches and does not count.
    """
    dense = _dense_steps(build(), data)
    ratios: list[float] = []
    times: list[float] = []

    def note(done: int, steps: int, loss: float) -> None:
        times.append(time.process_time())
        if done % BLOCK == 0:
            masked_steps = [end - start for start, end in pairwise(times)]
            plain = [next(dense) for _ in range(BLOCK)]
            ratios.append(statistics.median(masked_steps) / statistics.median(plain[1:]))
            times.clear()

    _learner(build, shape, density).learn("first", data, num_classes=10, progress=note)
    half = len(ratios) // 2
    return (statistics.median(ratios[:half]) + statistics.median(ratios[half:])) / 2


def _dense_steps(module: nn.Module, data: TensorDataset) -> Iterator[float]:
    """Make steps of two epochs, each when it is asked for, and yield their times."""
    optimizer = torch.optim.Adam(module.parameters(), 1e-3, fused=True)
    batches = [batch for _ in range(2) for batch in torch.randperm(len(data)).split(BATCH)]
    schedule = one_cycle(optimizer, len(batches))
    for places in batches:
        started = time.process_time()
        inputs, labels = data[places]
        loss = F.cross_entropy(module(inputs), labels)
        float(loss.detach())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        yield time.process_time() - started


def _cut_ratios(
    build: Callable[[], nn.Sequential],
    shape: tuple[int, ...],
    data: TensorDataset,
    density: float,
    rounds: int,
) -> tuple[float, float]:
    """Return the latency of one input of a network that was cut out over one built by hand.

    And that of another one built by hand, whose distance from 1 is what the measurement may be wrong by. All
    three are made anew each round and in another order, since where weights lie in memory changes their
    speed; the median over rounds counts.
    """
    learner = _learner(build, shape, density)
    learner.learn("first", data, num_classes=10)
    x = torch.randn(1, *shape)
    makers = [lambda: learner.network.extract("first"), build, build]
    ratios: list[tuple[float, float]] = []
    for order in islice(cycle(permutations(range(3))), rounds):
        modules = {which: makers[which]().eval() for which in order}
        times: dict[int, list[float]] = {which: [] for which in order}
        with torch.no_grad():
            for call in range(CALLS):
                for which in order if call % 2 else reversed(order):
                    started = time.process_time()
                    modules[which](x)
                    times[which].append(time.process_time() - started)
        cut, built, other = (statistics.median(times[which]) for which in range(3))
        ratios.append((cut / built, other / built))
    cuts, others = zip(*ratios, strict=True)
    return statistics.median(cuts), statistics.median(others)
