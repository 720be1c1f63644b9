"""The own code of ExSSNeT and of SupSup as peers, each from a folder of it.

They run in processes of their own, as `_continual_peer_run.py` describes: both on permuted MNIST, ExSSNeT's
on alphabets and pairs of CIFAR-10's classes as well, by the residual network that ours learn these by. The
learning rate, one for scores and weights, is chosen like ours, on held-out examples of other tasks. ExSSNeT's
code chooses its checkpoints by held-out examples, too; SupSup's takes the last state. Without weight epochs
ExSSNeT's code is a later version of SupSup's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from _continual_arms import BATCH, EXSSNET
from _continual_runs import AVERAGE, Wanted, is_kept, percent, pictures
from _continual_sections import bench_note, bench_rates_note
from _continual_streams import Bench, hold_out
from _record import Ledger, Row, pick, say
from torch.utils.data import TensorDataset

from brickyard.continual import StreamTask

ORIGINAL = "original code"
REPOSITORIES = {
    "exssnet": ("github.com/prateeky2806/exessnet", "main_vision.py"),
    "supsup": ("github.com/RAIVNLab/supsup", "adaptors.py"),
}
"""Where the code is, and a file of it, by the names of the options."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """A method of the original code.

    Attributes:
        kind: Whose code.
        weights: Whether it trains weights.
        rates: Learning rates to choose from.
        own_heads: Whether each task has an output layer of its own, as ours have; else all tasks share one
            that is masked like any other layer, as the authors have it.
        spares: Whether it learns without the examples that its checkpoints are chosen by, where there are no
            others; else it learns from them, too.
    """

    kind: str
    weights: bool = False
    rates: tuple[float, ...] = (1e-3, 1e-2)
    own_heads: bool = False
    spares: bool = True


ORIGINAL_EXSSNET, FROM_ALL = "ExSSNeT's code", "ExSSNeT's code, learning from all"
_RATES, _BENCH_RATES = (1e-3, 1e-2, 3e-2), (3e-3, 1e-2, 3e-2, 1e-1)
ARMS = {
    ORIGINAL_EXSSNET: Original(kind="exssnet", weights=True, rates=_RATES),
    "ExSSNeT's code, masks only": Original(kind="exssnet"),
    "SupSup's code": Original(kind="supsup", rates=(1e-4, 1e-3, 1e-2)),  # its authors' first
}
"""Methods on permuted MNIST by name."""
BENCH_ARMS = {
    ORIGINAL_EXSSNET: Original(kind="exssnet", weights=True, rates=_BENCH_RATES, own_heads=True),
    FROM_ALL: Original(kind="exssnet", weights=True, rates=_BENCH_RATES, own_heads=True, spares=False),
    "ExSSNeT's code, one masked head": Original(kind="exssnet", weights=True, rates=_BENCH_RATES),
}
"""Methods on streams by a residual network by name."""
_SAME_RATES = {FROM_ALL: ORIGINAL_EXSSNET}
"""Methods that differ where nothing is measured by held-out examples, and so have the same rates."""
_WITH_WEIGHTS = tuple(BENCH_ARMS)
_RATE_SEED, _RATE_TASKS = 1000, 2
_RATE = "accuracy on held-out examples"

Table = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[np.generic]]


class _Source(Protocol):
    """Tasks for the original code.

    Attributes:
        note: What a kept run must agree on.
        rates_note: What kept rates must agree on.
        resnet_channels: Channels of a picture where the residual network learns; None where LeNet does.
    """

    note: str
    rates_note: str
    resnet_channels: int | None

    def measured(self, original: Original, seed: int) -> tuple[int, Arrays]:
        """Return the number of tasks that are measured, and their examples."""
        ...

    def judged(self) -> tuple[int, Arrays]:
        """Return the number of tasks by which rates are chosen, and their examples."""
        ...


class _Permuted:
    """Tasks of permuted MNIST: the same pictures for all, and an order of pixels for each."""

    resnet_channels = None

    def __init__(self, wanted: Wanted) -> None:
        self.tasks = wanted.tasks
        self.note, self.rates_note = wanted.note, wanted.rates_note
        self.train, self.test = pictures(wanted.examples)
        self.held = pictures(wanted.examples, held_out=True)[1]

    def measured(self, _original: Original, seed: int) -> tuple[int, Arrays]:
        return self.tasks, self._arrays(self.test, seed, self.tasks)

    def judged(self) -> tuple[int, Arrays]:
        return _RATE_TASKS, self._arrays(self.held, _RATE_SEED, _RATE_TASKS)

    def _arrays(self, test: TensorDataset, seed: int, tasks: int) -> Arrays:
        generator = torch.Generator().manual_seed(seed)  # as `permuted_tasks` draws them
        orders = np.stack([torch.randperm(784, generator=generator).numpy() for _ in range(tasks)])
        parts = {"train": self.train, "held": self.held, "test": test}
        return {"orders": orders} | _tensors(parts)


class _Stream:
    """Tasks of a stream, each with pictures of its own."""

    def __init__(self, wanted: Wanted, bench: Bench) -> None:
        self.wanted, self.bench = wanted, bench
        self.note, self.rates_note = bench_note(wanted, bench), bench_rates_note(wanted, bench)
        self.resnet_channels = bench.net().input_shape[0]

    def measured(self, original: Original, seed: int) -> tuple[int, Arrays]:
        bench, examples = self.bench, self.wanted.examples + self.bench.judged
        tasks = bench.tasks(seed, examples, bench.tests)[: self.wanted.tasks]
        arrays: Arrays = {}
        for number, (task, spared) in enumerate(zip(tasks, hold_out(tasks, bench.judged), strict=True)):
            whole = not (bench.judged or original.spares)
            parts = {"train": task.train if whole else spared.train, "held": spared.test, "test": task.test}
            arrays |= _tensors(parts, f"_{number}")
        return len(tasks), arrays

    def judged(self) -> tuple[int, Arrays]:
        tasks: list[StreamTask] = self.bench.rate_stream(self.bench.rate_seeds[0], self.wanted.examples)
        arrays: Arrays = {}
        for number, task in enumerate(tasks):
            arrays |= _tensors({"train": task.train, "held": task.test, "test": task.test}, f"_{number}")
        return len(tasks), arrays


def _tensors(parts: Mapping[str, object], suffix: str = "") -> Arrays:
    """Return inputs and labels of parts under the names by which they travel."""
    arrays: Arrays = {}
    for part, dataset in parts.items():
        assert isinstance(dataset, TensorDataset)
        for kind, tensor in zip(("inputs", "labels"), dataset.tensors, strict=True):
            arrays[f"{part}_{kind}{suffix}"] = tensor.numpy()
    return arrays


def run_original(
    ledger: Ledger, wanted: Wanted, folders: Mapping[str, Path | None], bench: Bench | None = None
) -> None:
    """Let the original code learn streams of permuted MNIST, or another one.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted.
        folders: Folders of the code by names of `REPOSITORIES`; None to leave one out.
        bench: The other one.

    Raises:
        SystemExit: A folder is another one, or its code ended by an error.
    """
    arms = ARMS if bench is None else BENCH_ARMS
    section = ORIGINAL if bench is None else section_of(bench)
    codes = {}
    for kind in {original.kind: None for original in arms.values()}:
        address, file = REPOSITORIES[kind]
        code = folders[kind]
        if code is None:
            say(f"{section}: {address} is left out; name a folder of it by --{kind}-code")
        elif not (code / file).is_file():
            raise SystemExit(f"--{kind}-code {code}: has no {file}; clone {address} there")
        else:
            codes[kind] = code.resolve()
    if not codes:
        return
    source: _Source = _Permuted(wanted) if bench is None else _Stream(wanted, bench)
    for arm, original in arms.items():
        if original.kind not in codes or (bench is not None and bench.judged and not original.spares):
            continue
        runs = _Runs(ledger, section, arm, original, codes[original.kind], wanted, source)
        for density in wanted.densities:
            key = {"method": arm, "limit": percent(density), "note": source.note}
            for seed in wanted.seeds:
                if is_kept(ledger, section, wanted, metric=AVERAGE, seed=str(seed), **key):
                    continue
                rate = runs.best_rate(density)
                table = runs.table(*source.measured(original, seed), density, rate, seed=seed)
                say(f"   {arm}, {percent(density)}, seed {seed}: {table[-1].mean():.4f}")
                lost = table[:-1, :-1].max(0) - table[-1, :-1] if len(table) > 1 else np.zeros(1)
                numbers = {
                    AVERAGE: table[-1].mean(),
                    "accuracy right after learning": np.diagonal(table).mean(),
                    "forgetting": lost.mean(),
                }
                for metric, value in numbers.items():
                    ledger.add(section, metric=metric, value=value, seed=seed, count=len(table), **key)


def section_of(bench: Bench) -> str:
    """Return the section of the original code on a stream."""
    return f"{ORIGINAL} on {bench.name}"


@dataclass(frozen=True)
class _Runs:
    """Runs of a method of the original code.

    Attributes:
        ledger: Takes the rows.
        section: Their section.
        arm: Name of the method.
        original: The method.
        code: Folder of its code.
        wanted: Epochs and the like.
        source: The tasks.
    """

    ledger: Ledger
    section: str
    arm: str
    original: Original
    code: Path
    wanted: Wanted
    source: _Source

    def best_rate(self, density: float) -> float:
        """Return the learning rate that is best on held-out examples of other tasks."""
        ledger, arm = self.ledger, _SAME_RATES.get(self.arm, self.arm)
        key = {"method": arm, "limit": percent(density), "note": self.source.rates_note}
        for rate in self.original.rates:
            rows = [*ledger.earlier, *ledger.rows]
            if not pick(rows, section=self.section, metric=_RATE, group=f"{rate:g}", **key):
                table = self.table(*self.source.judged(), density, rate, seed=_RATE_SEED)
                found = float(np.diagonal(table).mean())
                say(f"   {arm}, {percent(density)}, rate {rate:g}: {found:.4f} on held-out examples")
                more = {"group": f"{rate:g}", "seed": _RATE_SEED}
                ledger.add(self.section, metric=_RATE, value=found, **more, **key)
        rows = pick([*ledger.earlier, *ledger.rows], section=self.section, metric=_RATE, **key)
        return float(max(rows, key=lambda row: row.value).group)

    def table(self, tasks: int, arrays: Arrays, density: float, rate: float, *, seed: int) -> Table:
        """Run the code on one stream; accuracies on tasks (columns) after each was learned (rows)."""
        half = self.wanted.epochs // 2 if self.original.weights else 0
        settings: dict[str, object] = {
            "num_tasks": tasks,
            "sparsity": density,
            "epochs": self.wanted.epochs - half,
            "lr": rate,
            "batch_size": BATCH,
            "test_batch_size": BATCH,
            "seed": seed,
        }
        settings |= {
            "exssnet": {"weight_epochs": half, "weight_mask_type": "exclusive", "train_weight_lr": rate},
            "supsup": {"optimizer": "rmsprop", "no_scheduler": True},  # as its authors do on this data
        }[self.original.kind]
        network = {"resnet_channels": self.source.resnet_channels, "own_heads": self.original.own_heads}
        script = str(Path(__file__).with_name("_continual_peer_run.py"))
        with tempfile.TemporaryDirectory() as name:
            request = {"settings": settings, "network": network}
            (Path(name) / "request.json").write_text(json.dumps(request))
            np.savez(Path(name) / "data.npz", **arrays)  # type: ignore[arg-type]
            command = [sys.executable, script, self.original.kind, str(self.code), name]
            command.append(str(torch.get_num_threads()))
            done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"the original code ended by an error:\n{done.stderr[-2000:]}")
            found: Table = np.load(Path(name) / "accuracies.npy")
        return found


def over_original(ours: Sequence[Row], original: Sequence[Row], arm: str = EXSSNET) -> list[float]:
    """Return, for each seed and density, points of average accuracy of ours over ExSSNeT's own code.

    Where that code ran in several ways, its best one counts, for each seed and density anew.

    Args:
        ours: Our rows.
        original: Those of the original code.
        arm: Which of our methods.
    """
    found = []
    for row in pick(ours, method=arm, metric=AVERAGE):
        same = {"limit": row.limit, "seed": row.seed, "note": row.note, "metric": AVERAGE}
        ways = [each.value for way in _WITH_WEIGHTS for each in pick(original, method=way, **same)]
        found += [100 * (row.value - max(ways))] if ways else []
    return found
