"""The own code of ExSSNeT and of SupSup as peers on permuted MNIST, each from a folder of it.

They run in processes of their own, as `_continual_peer_run.py` describes. The learning rate, one for scores
and weights, is chosen like ours, on held-out examples of two other tasks. ExSSNeT's code chooses its
checkpoints by the held-out examples, too; SupSup's takes the last state. Without weight epochs ExSSNeT's code
is a later version of SupSup's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from _continual_arms import BATCH, EXSSNET
from _continual_runs import AVERAGE, Wanted, is_kept, percent, pictures
from _record import Ledger, Row, pick, say
from torch.utils.data import TensorDataset

ORIGINAL = "original code"
REPOSITORIES = {
    "exssnet": ("github.com/prateeky2806/exessnet", "main_vision.py"),
    "supsup": ("github.com/RAIVNLab/supsup", "adaptors.py"),
}
"""Where the code is, and a file of it, by the names of the options."""


@dataclass(frozen=True)
class Original:
    """A method of the original code.

    Attributes:
        kind: Whose code.
        weights: Whether it trains weights.
        rates: Learning rates to choose from.
    """

    kind: str
    weights: bool = False
    rates: tuple[float, ...] = (1e-3, 1e-2)


ORIGINAL_EXSSNET = "ExSSNeT's code"
ARMS = {
    ORIGINAL_EXSSNET: Original("exssnet", weights=True, rates=(1e-3, 1e-2, 3e-2)),
    "ExSSNeT's code, masks only": Original("exssnet"),
    "SupSup's code": Original("supsup", rates=(1e-4, 1e-3, 1e-2)),  # the first is its authors' on this data
}
"""Methods by name."""
_RATE_SEED, _RATE_TASKS = 1000, 2
_RATE = "accuracy on held-out examples"

Table = npt.NDArray[np.float64]


def run_original(ledger: Ledger, wanted: Wanted, folders: Mapping[str, Path | None]) -> None:
    """Let the original code learn the streams of permuted MNIST.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted.
        folders: Folders of the code by names of `REPOSITORIES`; None to leave one out.

    Raises:
        SystemExit: A folder is another one, or its code ended by an error.
    """
    codes = {}
    for kind, (address, file) in REPOSITORIES.items():
        code = folders[kind]
        if code is None:
            say(f"{ORIGINAL}: {address} is left out; name a folder of it by --{kind}-code")
        elif not (code / file).is_file():
            raise SystemExit(f"--{kind}-code {code}: has no {file}; clone {address} there")
        else:
            codes[kind] = code.resolve()
    if not codes:
        return
    train, test = pictures(wanted.examples)
    held = pictures(wanted.examples, held_out=True)[1]
    for arm, original in ARMS.items():
        if original.kind not in codes:
            continue
        runs = _Runs(original, codes[original.kind], wanted, train, held)
        for density in wanted.densities:
            key = {"method": arm, "limit": percent(density), "note": wanted.note}
            for seed in wanted.seeds:
                if is_kept(ledger, ORIGINAL, wanted, metric=AVERAGE, seed=str(seed), **key):
                    continue
                rate = runs.best_rate(ledger, arm, density)
                table = runs.table(test, density, rate, seed=seed, tasks=wanted.tasks)
                say(f"   {arm}, {percent(density)}, seed {seed}: {table[-1].mean():.4f}")
                lost = table[:-1, :-1].max(0) - table[-1, :-1] if len(table) > 1 else np.zeros(1)
                numbers = {
                    AVERAGE: table[-1].mean(),
                    "accuracy right after learning": np.diagonal(table).mean(),
                    "forgetting": lost.mean(),
                }
                for metric, value in numbers.items():
                    ledger.add(ORIGINAL, metric=metric, value=value, seed=seed, count=len(table), **key)


@dataclass(frozen=True)
class _Runs:
    """Runs of the original code on permuted MNIST.

    Attributes:
        original: The method.
        code: Folder of its code.
        wanted: Epochs and the like.
        train: What to learn from.
        held: What its learning rate, and checkpoints if any, are chosen by.
    """

    original: Original
    code: Path
    wanted: Wanted
    train: TensorDataset
    held: TensorDataset

    def best_rate(self, ledger: Ledger, arm: str, density: float) -> float:
        """Return the learning rate that is best on held-out examples of two other tasks."""
        key = {"method": arm, "limit": percent(density), "note": self.wanted.rates_note}
        for rate in self.original.rates:
            rows = [*ledger.earlier, *ledger.rows]
            if not pick(rows, section=ORIGINAL, metric=_RATE, group=f"{rate:g}", **key):
                table = self.table(self.held, density, rate, seed=_RATE_SEED, tasks=_RATE_TASKS)
                found = float(np.diagonal(table).mean())
                say(f"   {arm}, {percent(density)}, rate {rate:g}: {found:.4f} on held-out examples")
                more = {"group": f"{rate:g}", "seed": _RATE_SEED}
                ledger.add(ORIGINAL, metric=_RATE, value=found, **more, **key)
        rows = pick([*ledger.earlier, *ledger.rows], section=ORIGINAL, metric=_RATE, **key)
        return float(max(rows, key=lambda row: row.value).group)

    def table(self, test: TensorDataset, density: float, rate: float, *, seed: int, tasks: int) -> Table:
        """Run the code on one stream; accuracies on tasks (columns) after each was learned (rows)."""
        generator = torch.Generator().manual_seed(seed)  # as `permuted_tasks` draws them
        orders = np.stack([torch.randperm(784, generator=generator).numpy() for _ in range(tasks)])
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
        arrays = {
            f"{part}_{kind}": tensor.numpy()
            for part, dataset in (("train", self.train), ("held", self.held), ("test", test))
            for kind, tensor in zip(("inputs", "labels"), dataset.tensors, strict=True)
        }
        script = str(Path(__file__).with_name("_continual_peer_run.py"))
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "settings.json").write_text(json.dumps(settings))
            np.savez(Path(name) / "data.npz", orders=orders, **arrays)  # type: ignore[arg-type]
            command = [sys.executable, script, self.original.kind, str(self.code), name]
            command.append(str(torch.get_num_threads()))
            done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"the original code ended by an error:\n{done.stderr[-2000:]}")
            found: Table = np.load(Path(name) / "accuracies.npy")
        return found


def over_original(permuted: Sequence[Row], original: Sequence[Row]) -> list[float]:
    """Return, for each seed and density, points of average accuracy of ours over ExSSNeT's own code.

    Args:
        permuted: Our rows.
        original: Those of the original code.
    """
    found = []
    for row in pick(permuted, method=EXSSNET, metric=AVERAGE):
        same = {"limit": row.limit, "seed": row.seed, "note": row.note}
        others = pick(original, method=ORIGINAL_EXSSNET, metric=AVERAGE, **same)
        found += [100 * (row.value - other.value) for other in others]
    return found
