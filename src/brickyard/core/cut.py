"""How a decision cuts one axis of a tensor: the one slicing, for forward, extraction and graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

CutKind = Literal["subset", "prefix", "center"]


@dataclass(frozen=True)
class Cut:
    """One axis of a tensor, cut by the value of one decision.

    Attributes:
        axis: Axis of the tensor.
        decision: Name of the decision.
        kind: `subset` keeps the units whose index is in the value, `prefix` the first `value` units, `center`
            the middle `value` entries (kernel sizes).
        unit: Entries of the axis that form one unit.
        full: Entries of the axis in the whole network.
        fixed: Entries behind the units of a subset that stay whatever its value.
    """

    axis: int
    decision: str
    kind: CutKind
    full: int
    unit: int = 1
    fixed: int = 0

    def indices(self, value: Any) -> npt.NDArray[np.int64]:
        """Return the entries that stay, ascending.

        Args:
            value: Value of the decision.

        Returns:
            Indices `[kept]` into the axis.
        """
        if self.kind == "subset":
            units = np.asarray(value, dtype=np.int64)
            chosen = (units[:, None] * self.unit + np.arange(self.unit)[None, :]).reshape(-1)
            return np.concatenate([chosen, np.arange(self.full - self.fixed, self.full)])
        if self.kind == "prefix":
            return np.arange(int(value) * self.unit)
        start = (self.full - int(value)) // 2
        return np.arange(start, start + int(value))

    def length(self, value: Any) -> int:
        """Return the number of entries that stay."""
        return (len(value) if self.kind == "subset" else int(value)) * self.unit + self.fixed

    def to_json(self) -> dict[str, Any]:
        """Return a JSON record."""
        return {
            "axis": self.axis,
            "decision": self.decision,
            "kind": self.kind,
            "full": self.full,
            "unit": self.unit,
            **({"fixed": self.fixed} if self.fixed else {}),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Cut:
        """Build a cut from its JSON record."""
        return cls(**record)
