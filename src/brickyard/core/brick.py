"""Bricks: the leaves of a network that read decisions.

A brick has one method that gives its active weights, `active`; `forward` and `extract` both call it. Which
entries are active follows from `cuts`, the same records by which an exported graph is cut without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from brickyard.core.cut import Cut
from brickyard.core.decision import Choice, Decision, Subset

Extract = Callable[[nn.Module], nn.Module]
"""Cuts out a child module; handed to bricks that contain others."""


@dataclass(frozen=True)
class Width:
    """An axis of channels or features that a decision cuts.

    Attributes:
        decision: A `Subset` of groups, or a `Choice` of how many units stay.
        full: Entries in the whole network.
        unit: Entries per group of the subset, or per step of the choice.
    """

    decision: Subset | Choice
    full: int
    unit: int = 1

    @classmethod
    def of(cls, decision: Subset | Choice, unit: int = 1) -> Width:
        """Return the width that has all units of a decision, and no more.

        Args:
            decision: What cuts the axis.
            unit: Entries per group of the subset, or per step of the choice.
        """
        units = decision.count if isinstance(decision, Subset) else decision.largest()
        return cls(decision, units * unit, unit)

    def cut(self, axis: int) -> Cut:
        """Return the cut of one tensor axis by this width."""
        kind = "subset" if isinstance(self.decision, Subset) else "prefix"
        return Cut(axis=axis, decision=self.decision.name, kind=kind, full=self.full, unit=self.unit)  # type: ignore[arg-type]

    def gate(self, x: Tensor, *, axis: int = 1) -> Tensor:
        """Multiply activations by the per-sample gates of the decision, where it carries any.

        Args:
            x: Activations whose axis `axis` has `full` entries.
            axis: Axis of the channels or features.

        Returns:
            Activations of the same shape.
        """
        gates: Tensor | None = self.decision.gates if isinstance(self.decision, Subset) else None
        if gates is None:
            return x
        shape = [1] * x.dim()
        shape[0], shape[axis] = x.shape[0], self.full
        return x * gates.repeat_interleave(self.unit, dim=1).reshape(shape).to(x.dtype)


class Brick(nn.Module, ABC):
    """A leaf that reads one or more decisions.

    Attributes:
        norm_set: Which set of normalisation is in use, where there are several.
        norm_parts: How many samples of a batch, one set after the other, use each; None if all use
            `norm_set`.
    """

    norm_set: int = 0
    norm_parts: tuple[int, ...] | None = None

    def add_norm_sets(self, count: int) -> None:
        """Keep several sets of normalisation, all equal to the one there is; most bricks have none.

        Args:
            count: Number of sets.
        """

    def decisions(self) -> Iterator[Decision]:
        """Yield the decisions this brick reads itself (not those of bricks inside it)."""
        yield from ()

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return, for each own tensor that is cut, how."""
        return {}

    def active(self) -> dict[str, Tensor | None]:
        """Return the active part of every own parameter and buffer, by name.

        A tensor that is wholly active is returned as it is, not copied.
        """
        values = {decision.name: decision for decision in self.decisions()}
        cuts = self.cuts()
        tensors: dict[str, Tensor | None] = {}
        for name, tensor in [*self._parameters.items(), *self._buffers.items()]:
            for cut in cuts.get(name, ()) if tensor is not None else ():
                value = values[cut.decision].value
                if cut.length(value) < cut.full:
                    tensor = _take(tensor, cut, value)  # type: ignore[arg-type]
            tensors[name] = tensor
        return tensors

    @abstractmethod
    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build the plain torch module that computes what this brick computes now.

        Args:
            weights: Copies of the active weights, as `active` names them; use them, do not copy again.
            recurse: Cuts out a module inside this brick.

        Returns:
            A module without bricks.
        """


def _take(tensor: Tensor, cut: Cut, value: object) -> Tensor:
    indices = cut.indices(value)
    contiguous = len(indices) > 0 and int(indices[-1]) - int(indices[0]) + 1 == len(indices)
    if contiguous:
        return tensor.narrow(cut.axis, int(indices[0]), len(indices))
    return tensor.index_select(cut.axis, torch.from_numpy(np.ascontiguousarray(indices)).to(tensor.device))
