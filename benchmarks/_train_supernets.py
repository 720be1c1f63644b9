"""Trains the supernets that searches are measured on.

Killed runs go on where they were: call it again with the same arguments. Every one runs on one core.

    python benchmarks/_train_supernets.py --what mobile --data DIR        # Fashion-MNIST
    python benchmarks/_train_supernets.py --what resnet --data DIR        # CIFAR-10
    python benchmarks/_train_supernets.py --what encoder --data DIR       # CLINC150
    python benchmarks/_train_supernets.py --what translation --data DIR   # Multi30k, English to German
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import _adaptor
import recipes
from _factories import KEPT
from _record import say

from brickyard.factory.supernet_build import Source, SupernetBuild, train_supernet


@dataclass(frozen=True)
class Supernet:
    """A supernet of the benchmarks.

    Attributes:
        data: Reads its data.
        recipe: Returns its settings for a seed.
    """

    data: Callable[[], Source]
    recipe: Callable[[int], SupernetBuild]


SUPERNETS = {
    "mobile": Supernet(_adaptor.fashion_mnist, recipes.supernet_mobile),
    "resnet": Supernet(_adaptor.cifar10, recipes.supernet_resnet),
    "encoder": Supernet(_adaptor.clinc150, recipes.supernet_encoder),
    "translation": Supernet(_adaptor.multi30k, recipes.supernet_translation),
}
"""The supernets by name."""


def supernet_folder(what: str, seed: int, *, kept: Path = KEPT) -> Path:
    """Return the folder of a trained supernet, which may not exist yet."""
    return kept / f"supernet-{what}-seed{seed}"


def train(what: str, seed: int, *, threads: int = 1, kept: Path = KEPT) -> Path:
    """Train a supernet.

    Args:
        what: A name of `SUPERNETS`.
        seed: Seed of everything.
        threads: Threads of torch.
        kept: Where it is kept.

    Returns:
        Its folder; trained nothing if it is there already.
    """
    out = supernet_folder(what, seed, kept=kept)
    if (out / "manifest.json").is_file():
        return out
    kept.mkdir(parents=True, exist_ok=True)

    def progress(stage: str, done: int, total: int, text: str) -> None:
        if stage == "test" or done % 100 == 0 or done == total:
            say(f"{out.name}: {stage} {done} of {total}, {text}")

    entry = SUPERNETS[what]
    return train_supernet(
        entry.data(), replace(entry.recipe(seed), threads=threads), out=out, progress=progress
    )


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--what", required=True, choices=tuple(SUPERNETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--data", help=f"folder of real data; else the environment variable {_adaptor.VARIABLE}"
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="where supernets are kept")
    arguments = parser.parse_args()
    if arguments.data:
        os.environ[_adaptor.VARIABLE] = arguments.data
    say(str(train(arguments.what, arguments.seed, threads=arguments.threads, kept=arguments.kept)))


if __name__ == "__main__":
    main()
