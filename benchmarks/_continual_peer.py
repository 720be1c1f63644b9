"""ExSSNeT's own code (github.com/prateeky2806/exessnet) as a peer on permuted MNIST, from a folder of it.

It runs in a process of its own, as `_continual_peer_run.py` describes. Its learning rate, one for scores and
weights, is chosen like ours, on held-out examples of two other tasks; its checkpoints by the held-out
examples, too. Without weight epochs the same code is SupSup's, which it was made from.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
ARMS = {"original ExSSNeT": True, "original SupSup": False}
"""Methods, and whether they train weights."""
RATES = (1e-3, 1e-2)
_RATE_SEED, _RATE_TASKS = 1000, 2
_RATE = "accuracy on held-out examples"

Table = npt.NDArray[np.float64]


def run_original(ledger: Ledger, wanted: Wanted, code: Path | None) -> None:
    """Let the original code learn the streams of permuted MNIST.

    Args:
        ledger: Takes the rows.
        wanted: What is wanted.
        code: Its folder; None to leave it out.

    Raises:
        SystemExit: The folder is another one, or its code ended by an error.
    """
    if code is None:
        say(f"{ORIGINAL}: left out; name a folder of github.com/prateeky2806/exessnet by --exssnet-code")
        return
    if not (code / "main_vision.py").is_file():
        raise SystemExit(f"--exssnet-code {code}: has no main_vision.py; clone prateeky2806/exessnet there")
    train, test = pictures(wanted.examples)
    runs = _Runs(code.resolve(), wanted, train, held=pictures(wanted.examples, held_out=True)[1])
    for density in wanted.densities:
        for arm, weights in ARMS.items():
            key = {"method": arm, "limit": percent(density), "note": wanted.note}
            for seed in wanted.seeds:
                if is_kept(ledger, ORIGINAL, wanted, metric=AVERAGE, seed=str(seed), **key):
                    continue
                rate = runs.best_rate(ledger, arm, density)
                table = runs.table(test, density, rate, seed=seed, tasks=wanted.tasks, weights=weights)
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
        code: Its folder.
        wanted: Epochs and the like.
        train: What to learn from.
        held: What its checkpoints, and its learning rate, are chosen by.
    """

    code: Path
    wanted: Wanted
    train: TensorDataset
    held: TensorDataset

    def best_rate(self, ledger: Ledger, arm: str, density: float) -> float:
        """Return the learning rate that is best on held-out examples of two other tasks."""
        key = {"method": arm, "limit": percent(density), "note": self.wanted.rates_note}
        for rate in RATES:
            rows = [*ledger.earlier, *ledger.rows]
            if not pick(rows, section=ORIGINAL, metric=_RATE, group=f"{rate:g}", **key):
                table = self.table(
                    self.held, density, rate, seed=_RATE_SEED, tasks=_RATE_TASKS, weights=ARMS[arm]
                )
                found = float(np.diagonal(table).mean())
                say(f"   {arm}, {percent(density)}, rate {rate:g}: {found:.4f} on held-out examples")
                more = {"group": f"{rate:g}", "seed": _RATE_SEED}
                ledger.add(ORIGINAL, metric=_RATE, value=found, **more, **key)
        rows = pick([*ledger.earlier, *ledger.rows], section=ORIGINAL, metric=_RATE, **key)
        return float(max(rows, key=lambda row: row.value).group)

    def table(
        self, test: TensorDataset, density: float, rate: float, *, seed: int, tasks: int, weights: bool
    ) -> Table:
        """Run the code on one stream; accuracies on tasks (columns) after each was learned (rows)."""
        generator = torch.Generator().manual_seed(seed)  # as `permuted_tasks` draws them
        orders = np.stack([torch.randperm(784, generator=generator).numpy() for _ in range(tasks)])
        half = self.wanted.epochs // 2 if weights else 0
        settings = {
            "num_tasks": tasks,
            "sparsity": density,
            "epochs": self.wanted.epochs - half,
            "weight_epochs": half,
            "weight_mask_type": "exclusive",
            "lr": rate,
            "train_weight_lr": rate,
            "batch_size": BATCH,
            "test_batch_size": BATCH,
            "seed": seed,
        }
        arrays = {
            f"{part}_{kind}": tensor.numpy()
            for part, dataset in (("train", self.train), ("held", self.held), ("test", test))
            for kind, tensor in zip(("inputs", "labels"), dataset.tensors, strict=True)
        }
        script = str(Path(__file__).with_name("_continual_peer_run.py"))
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "settings.json").write_text(json.dumps(settings))
            np.savez(Path(name) / "data.npz", orders=orders, **arrays)  # type: ignore[arg-type]
            command = [sys.executable, script, str(self.code), name, str(torch.get_num_threads())]
            done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"the original code ended by an error:\n{done.stderr[-2000:]}")
            found: Table = np.load(Path(name) / "accuracies.npy")
        return found


def over_original(permuted: Sequence[Row], original: Sequence[Row]) -> list[float]:
    """Return, for each seed and density, points of average accuracy of ours over the original ExSSNeT.

    Args:
        permuted: Our rows.
        original: Those of the original code.
    """
    found = []
    for row in pick(permuted, method=EXSSNET, metric=AVERAGE):
        same = {"limit": row.limit, "seed": row.seed, "note": row.note}
        others = pick(original, method="original ExSSNeT", metric=AVERAGE, **same)
        found += [100 * (row.value - other.value) for other in others]
    return found
