"""Tells whether other work slows this machine down, by how long a fixed piece of work takes.

Processors that share a core, or a clock that changes, make everything slower for tenths of a second or for
minutes, by up to two times. A measurement in such a time says nothing of a model; one between two quick
pulses does.
"""

from __future__ import annotations

import time

import numpy as np

_SIDE, _PRODUCTS, _TRIES = 64, 8, 3
_SLOWER = 1.12  # a pulse may be so much slower than the quickest one
_LEARN_SECONDS = 0.1


class Pulse:
    """A fixed piece of work: some small products of matrices, on one thread, a tenth of a millisecond.

    Attributes:
        quickest: Milliseconds of the quickest pulse so far; infinite before the first.
    """

    def __init__(self) -> None:
        self.quickest = float("inf")
        self._matrix = np.full((_SIDE, _SIDE), 1.0 / _SIDE, dtype=np.float32)

    def is_quiet(self) -> bool:
        """Return whether the machine works about as quickly now as it ever did."""
        if self.quickest == float("inf"):
            self._learn()
        now = min(self._beat() for _ in range(_TRIES))
        self.quickest = min(self.quickest, now)
        return now <= _SLOWER * self.quickest

    def _learn(self) -> None:
        until = time.perf_counter() + _LEARN_SECONDS
        while time.perf_counter() < until:
            self.quickest = min(self.quickest, self._beat())
            time.sleep(0.001)

    def _beat(self) -> float:
        started, found = time.perf_counter_ns(), self._matrix
        for _ in range(_PRODUCTS):
            found = found @ self._matrix
        return (time.perf_counter_ns() - started) / 1e6
