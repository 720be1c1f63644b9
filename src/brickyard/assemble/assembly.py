"""A trained assembler at work: from a task and a limit to a config, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.assemble.assembler import ASSEMBLERS, Floats, limit_features
from brickyard.assemble.ceiling import ALWAYS, open_bricks
from brickyard.core.config import Config
from brickyard.core.decision import Subset
from brickyard.core.space import Space, block_subsets

Mask = npt.NDArray[np.bool_]


def raise_floors(logits: Floats, subsets: Sequence[Subset]) -> Floats:
    """Lift the best bricks of blocks that must keep some above all others.

    Args:
        logits: `[batch, bricks]`.
        subsets: The blocks in the order of the logits.

    Returns:
        Logits in which the `minimum` best bricks of each block rank first and are positive.
    """
    lifted, start = logits.copy(), 0
    for subset in subsets:
        part = lifted[:, start : start + subset.count]
        if subset.minimum:
            best = np.argsort(-part, axis=1, kind="stable")[:, : subset.minimum]
            np.put_along_axis(part, best, np.take_along_axis(part, best, axis=1).clip(0) + ALWAYS, axis=1)
        start += subset.count
    return lifted


@dataclass(frozen=True)
class Assembly:
    """An assembler bound to the bricks it opens.

    Attributes:
        kind: Name of the assembler.
        weights: Its weights.
        space: Space of the network.
        costs: Share of the whole network's MACs that each brick costs, `[bricks]`.
        fixed_cost: Share that is always on.
    """

    kind: str
    weights: Mapping[str, Floats]
    space: Space
    costs: Floats
    fixed_cost: float

    @cached_property
    def subsets(self) -> list[Subset]:
        """The blocks, in the order of the logits."""
        return block_subsets(self.space)

    def logits(self, task: Floats, limits: Sequence[float] | Floats) -> Floats:
        """Compute one logit per brick.

        Args:
            task: Multi-hot task `[words]`.
            limits: Shares of all MACs in (0, 1], `[batch]`.

        Returns:
            Logits `[batch, bricks]`.
        """
        features = limit_features(np.asarray(limits, dtype=np.float32))
        tasks = np.broadcast_to(task, (len(features), len(task)))
        logits: Floats = ASSEMBLERS[self.kind](self.weights, tasks, features)
        return raise_floors(logits, self.subsets)

    def masks(self, logits: Floats, limits: Sequence[float] | Floats) -> Mask:
        """Open bricks under the ceiling.

        Args:
            logits: `[batch, bricks]`.
            limits: Shares of all MACs, `[batch]`.

        Returns:
            Whether each brick is on, `[batch, bricks]`.
        """
        budget = np.asarray(limits, dtype=np.float32) - np.float32(self.fixed_cost)
        return open_bricks(logits, self.costs, budget)

    def floors(self, logits: Floats) -> Mask:
        """Return the bricks that always stay: the best of blocks with a minimum.

        Args:
            logits: `[bricks]`, as `logits` gives them.

        Returns:
            `[bricks]`.
        """
        kept, start = np.zeros(len(logits), dtype=np.bool_), 0
        for subset in self.subsets:
            part = logits[start : start + subset.count]
            kept[start + np.argsort(-part, kind="stable")[: subset.minimum]] = True
            start += subset.count
        return kept

    def config(self, mask: Mask, others: Mapping[str, Any]) -> Config:
        """Turn a mask into a config.

        Args:
            mask: Whether each brick is on, `[bricks]`.
            others: Values of the decisions that the assembler does not make.

        Returns:
            The config, checked.
        """
        opened = {name: tuple(part.tolist()) for name, part in self.opened(mask).items()}
        return self.space.check({**others, **opened})

    def opened(self, mask: Mask) -> dict[str, npt.NDArray[np.int64]]:
        """Return the indices of the open bricks of each block."""
        parts = np.split(mask, self._ends[:-1])
        return {name: np.flatnonzero(part) for name, part in zip(self._names, parts, strict=True)}

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(subset.name for subset in self.subsets)

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum([subset.count for subset in self.subsets])

    def mask(self, config: Mapping[str, Any]) -> Mask:
        """Turn a config back into a mask `[bricks]`."""
        parts = []
        for subset in self.subsets:
            part = np.zeros(subset.count, dtype=np.bool_)
            part[list(config[subset.name])] = True
            parts.append(part)
        return np.concatenate(parts)
