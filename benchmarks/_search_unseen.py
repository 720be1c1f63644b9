"""Judges what searches of super-networks found anew: by examples that no search saw, and timed again.

The best of 800 subnets by some thousand examples and one timing owe part of that to luck, those of 100 less;
other examples and other timings tell which front is better in truth. Even so a front's hypervolume is known
to some per cent only: 3,000 pictures tell accuracies that differ by half a point apart, and no closer.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import _adaptor
import numpy as np
from _record import say

from brickyard.core.config import Config

_ROUNDS = 5  # of timings, of which the median counts
METRIC = "ratio of hypervolumes, judged anew"


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
    """Judges subnets by unseen examples and times them again; what is known is not measured again.

    Args:
        trained: Name of the super-network for `_train_supernets.py`.
        folder: Its folder.
        path: File of what was judged: a line for each timing, and for each quality without one.
        runtime: What subnets are timed on.
    """

    def __init__(self, trained: str, folder: Path, path: Path, *, runtime: str = "ort") -> None:
        self.trained, self.folder, self.path, self.runtime = trained, folder, path, runtime
        self.qualities: dict[str, float] = {}
        self.latencies: dict[str, list[float]] = {}
        if path.is_file():
            with path.open(newline="") as stream:
                for row in csv.DictReader(stream):
                    self.qualities[row["config"]] = float(row["quality"])
                    if row["latency_ms"]:
                        self.latencies.setdefault(row["config"], []).append(float(row["latency_ms"]))

    @cached_property
    def _opened(self) -> tuple[Any, Any, Callable[[Config], Mapping[str, float]]]:
        from brickyard.factory.measures import read_measures
        from brickyard.factory.searching import SearchSetup, SubnetEvaluator
        from brickyard.factory.supernet import load_trained

        network = load_trained(self.folder)
        examples = UNSEEN[self.trained](network.heldout)
        say(f"   {self.trained}: judged by {len(examples)} examples that no search saw")
        setup = SearchSetup(
            network=str(self.folder),
            objectives=read_measures(("latency_ms", "parameters"))[0],
            runtime=self.runtime,
        )
        return network, examples, SubnetEvaluator(setup)

    def quality(self, config: Config) -> float:
        """Return minus the quality of a subnet, the smaller the better."""
        key = config.digest()
        if key not in self.qualities:
            self._write(key, self._measured(config), "")
        return -self.qualities[key]

    def judge(self, configs: Sequence[Config]) -> None:
        """Judge subnets, timed in five rounds over all of them, so that a busy minute hits none alone.

        Args:
            configs: The subnets.
        """
        for count in range(1, _ROUNDS + 1):
            for config in configs:
                key = config.digest()
                if len(self.latencies.get(key, [])) < count:
                    quality = self.qualities[key] if key in self.qualities else self._measured(config)
                    latency = round(float(self._opened[2](config)["latency_ms"]), 6)
                    self._write(key, quality, latency)
                    self.latencies.setdefault(key, []).append(latency)

    def values(self, config: Config) -> list[float]:
        """Return minus the quality of a subnet that was judged, and its latency in milliseconds."""
        return [self.quality(config), float(np.median(self.latencies[config.digest()]))]

    def _measured(self, config: Config) -> float:
        network, examples, _ = self._opened
        [quality] = network.evaluate(config, examples).values()
        return round(float(quality), 6)

    def _write(self, key: str, quality: float, latency: float | str) -> None:
        fresh = not self.path.is_file()
        with self.path.open("a", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            if fresh:
                writer.writerow(["config", "quality", "latency_ms"])
            writer.writerow([key, quality, latency])
        self.qualities[key] = quality
