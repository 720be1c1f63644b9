"""Records that say how an exported graph is cut; JSON on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.cut import Cut


@dataclass(frozen=True, eq=False)
class Leftover:
    """A branch that becomes a constant when no brick of a decision is on.

    Attributes:
        decision: Name of the `Subset`.
        prefix: Module path of the branch; its nodes are named below it.
        value: What it then gives, in a shape that broadcasts; with several norm sets, one after the other.
        sets: Number of norm sets.
    """

    decision: str
    prefix: str
    value: npt.NDArray[np.float32]
    sets: int = 1

    @property
    def name(self) -> str:
        """Name of the constant, as the plain torch twin calls it."""
        return f"{self.prefix}.value"

    def of(self, number: int) -> npt.NDArray[np.float32]:
        """Return what it gives in a subnet that uses a norm set."""
        return self.value if self.sets == 1 else self.value[number]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON record."""
        value = {"shape": list(self.value.shape), "value": self.value.reshape(-1).tolist()}
        sets = {} if self.sets == 1 else {"sets": self.sets}
        return {"decision": self.decision, "prefix": self.prefix, **value, **sets}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Leftover:
        """Build a leftover from its JSON record."""
        value = np.array(record["value"], dtype=np.float32).reshape(record["shape"])
        return cls(record["decision"], record["prefix"], value, record.get("sets", 1))


@dataclass(frozen=True)
class Stage:
    """A sequence of blocks of which a decision keeps the first.

    Attributes:
        decision: Name of the `Choice`.
        prefix: Module path of the sequence; block `i` lies at `<prefix>.<i>`.
        count: Number of blocks.
    """

    decision: str
    prefix: str
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON record."""
        return {"decision": self.decision, "prefix": self.prefix, "count": self.count}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Stage:
        """Build a stage from its JSON record."""
        return cls(**record)


@dataclass(frozen=True)
class Activation:
    """A tensor that flows through the graph.

    Attributes:
        shape: Its shape in the whole network, batch of 1 included.
        cuts: How decisions cut it.
    """

    shape: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()

    def cut_shape(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape it has in a subnet."""
        shape = list(self.shape)
        for cut in self.cuts:
            shape[cut.axis] = cut.length(config[cut.decision])
        return tuple(shape)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON record."""
        return {"shape": list(self.shape), "cuts": [cut.to_json() for cut in self.cuts]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Activation:
        """Build an activation from its JSON record."""
        return cls(tuple(record["shape"]), tuple(Cut.from_json(cut) for cut in record["cuts"]))
