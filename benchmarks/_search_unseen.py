"""Judges what searches of super-networks found by examples that no search saw.

The best of 800 subnets by some thousand examples owe part of that to luck, those of 100 less; other examples
tell which front is better in truth.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import _adaptor
import numpy as np
from _record import say

from brickyard.core.config import Config

METRIC = "ratio of hypervolumes, unseen examples"


def _pictures(held: Any) -> Any:
    """Return the pictures of Fashion-MNIST's test set that are not among those of a folder."""

    def digests(examples: Any) -> list[bytes]:
        return [
            hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest() for picture in examples.images
        ]

    every, known = _adaptor.fashion_mnist().heldout, set(digests(held))
    return every.subset(np.array([digest not in known for digest in digests(every)]))


UNSEEN: dict[str, Callable[[Any], Any]] = {
    "mobile": _pictures,
    "encoder": lambda held: _adaptor.clinc150_validation(),
    "translation": lambda held: _adaptor.multi30k_of_2017(),
}
"""Examples that subnets were neither trained nor searched on, by the name of the super-network."""


class Unseen:
    """Judges subnets by unseen examples, each once.

    Args:
        trained: Name of the super-network for `_train_supernets.py`.
        folder: Its folder.
        path: File of what was judged, one line for each subnet.
    """

    def __init__(self, trained: str, folder: Path, path: Path) -> None:
        self.trained, self.folder, self.path = trained, folder, path
        self.known: dict[str, float] = {}
        if path.is_file():
            with path.open(newline="") as stream:
                self.known = {row["config"]: float(row["quality"]) for row in csv.DictReader(stream)}

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        from brickyard.factory.supernet import load_trained

        network = load_trained(self.folder)
        examples = UNSEEN[self.trained](network.heldout)
        say(f"   {self.trained}: judged by {len(examples)} examples that no search saw")
        return network, examples

    def loss(self, config: Config) -> float:
        """Return minus the quality of a subnet: the smaller the better, as objectives of searches are."""
        key = config.digest()
        if key not in self.known:
            network, examples = self._opened
            [quality] = network.evaluate(config, examples).values()
            self.known[key] = round(float(quality), 6)
            fresh = not self.path.is_file()
            with self.path.open("a", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                if fresh:
                    writer.writerow(["config", "quality"])
                writer.writerow([key, self.known[key]])
        return -self.known[key]
