"""Batches of sequences of about the same length, so that little is padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_POOL = 40  # batches that are sorted together


class LengthBatches:
    """Gives the indices of the sequences of a step; every epoch shows each once, but for a last part.

    An epoch's order is drawn; stretches of it are sorted by length and cut into batches, whose order is drawn
    again. It is decided by seed and epoch alone.

    Args:
        lengths: Length of each sequence.
        batch_size: Sequences of a batch; all of them where there are fewer.
        seed: Seed of the draws.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch_size, self.seed = min(batch_size, len(self.lengths)), seed
        self._epoch, self._order = -1, np.empty((0, self.batch_size), dtype=np.int64)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self.lengths) // self.batch_size

    def __call__(self, step: int) -> npt.NDArray[np.int64]:
        """Return the indices of a step, `[batch_size]`."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._draw(epoch)
        found: npt.NDArray[np.int64] = self._order[place]
        return found

    def _draw(self, epoch: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, epoch, 2])
        order = rng.permutation(len(self.lengths))[: self.per_epoch * self.batch_size]
        pools = np.split(order, range(_POOL * self.batch_size, len(order), _POOL * self.batch_size))
        ordered = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        batches = np.concatenate(ordered).reshape(-1, self.batch_size)
        return batches[rng.permutation(len(batches))]
