"""Decisions: what can be chosen in a network.

A decision is one named object, shared by all bricks that meet there. It holds the value that is active now; a
`Network` sets it, bricks read it. Nothing here needs torch, so that a space can be searched and sliced on a
device without it.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from brickyard.core.errors import ConfigError


class Decision(ABC):
    """One thing to decide about a network.

    Attributes:
        name: Unique name inside its space, also the path in error messages.
        value: The value that is active now; starts as the largest.
    """

    kind: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name
        self.value: Any = None

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of entries of the encoded vector."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of legal values."""

    @abstractmethod
    def largest(self) -> Any:
        """Value that keeps everything."""

    @abstractmethod
    def smallest(self) -> Any:
        """Value that keeps the least."""

    @abstractmethod
    def sample(self, rng: random.Random) -> Any:
        """Draw a legal value uniformly."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """Return the value in its canonical form.

        Raises:
            ConfigError: The value is not legal.
        """

    @abstractmethod
    def encode(self, value: Any) -> list[float]:
        """Turn a value into `width` numbers."""

    @abstractmethod
    def decode(self, vector: Sequence[float]) -> Any:
        """Turn `width` numbers back into the nearest legal value."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Arguments that build this decision again, as JSON values."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON record from which `decision_from_json` builds an equal decision."""
        return {"kind": self.kind, "name": self.name, **self.arguments()}

    def refuse(self, value: Any, allowed: str) -> ConfigError:
        """Build the error for an illegal value."""
        return ConfigError(
            f"{self.name} = {value!r} is not allowed; allowed: {allowed}",
            path=self.name,
            value=value,
            allowed=allowed,
        )

    def __repr__(self) -> str:
        inner = ", ".join(f"{key}={value!r}" for key, value in self.arguments().items())
        return f"{type(self).__name__}({self.name!r}, {inner})"


class _Listed(Decision):
    """A decision that picks one of an explicit list."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        super().__init__(name)
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"{name} needs one or more different values, got {list(values)!r}", path=name)
        self.values = tuple(values)
        self.value = self.largest()

    @property
    def size(self) -> int:
        """Number of legal values."""
        return len(self.values)

    def sample(self, rng: random.Random) -> Any:
        """Draw a legal value."""
        return rng.choice(self.values)

    def check(self, value: Any) -> Any:
        """Return the value in its canonical form, or refuse it."""
        for candidate in self.values:
            if type(value) is type(candidate) and value == candidate:
                return candidate
        raise self.refuse(value, f"one of {list(self.values)}")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that build this decision again."""
        return {"values": list(self.values)}


class Choice(_Listed):
    """One of an ordered list of sizes; a size keeps the first units (prefix slice).

    Args:
        name: Unique name.
        values: Ascending numbers, for example widths, depths, kernel sizes or ratios.
    """

    kind = "choice"

    def __init__(self, name: str, values: Sequence[float]) -> None:
        if list(values) != sorted(values):
            raise ConfigError(f"{name} needs ascending values, got {list(values)!r}", path=name)
        super().__init__(name, values)

    @property
    def width(self) -> int:
        """Number of entries of the encoded vector."""
        return 1

    def largest(self) -> Any:
        """Return the value that keeps everything."""
        return self.values[-1]

    def smallest(self) -> Any:
        """Return the value that keeps the least."""
        return self.values[0]

    def encode(self, value: Any) -> list[float]:
        """Turn a value into numbers."""
        return [self.values.index(value) / max(1, len(self.values) - 1)]

    def decode(self, vector: Sequence[float]) -> Any:
        """Turn numbers into the nearest legal value."""
        position = vector[0] * max(1, len(self.values) - 1)
        return min(self.values, key=lambda value: abs(self.values.index(value) - position))


class Option(_Listed):
    """One of several alternative modules, without an order; the first is the default.

    Args:
        name: Unique name.
        values: Names of the alternatives.
    """

    kind = "option"

    @property
    def width(self) -> int:
        """Number of entries of the encoded vector."""
        return len(self.values)

    def largest(self) -> str:
        """Return the value that keeps everything."""
        return str(self.values[0])

    def smallest(self) -> str:
        """Return the value that keeps the least."""
        return str(self.values[0])

    def encode(self, value: Any) -> list[float]:
        """Turn a value into numbers."""
        return [float(value == candidate) for candidate in self.values]

    def decode(self, vector: Sequence[float]) -> str:
        """Turn numbers into the nearest legal value."""
        return str(self.values[max(range(len(self.values)), key=lambda index: vector[index])])


class Subset(Decision):
    """Which of `count` interchangeable bricks are on (index slice).

    A value is an ascending tuple of indices. For joint training `gates` may hold a tensor `[batch, count]`
    that multiplies the activations of the bricks, so that each sample of a batch has its own subset.

    Args:
        name: Unique name.
        count: Number of bricks.
        minimum: Fewest bricks that must stay on.
    """

    kind = "subset"

    def __init__(self, name: str, count: int, *, minimum: int = 0) -> None:
        super().__init__(name)
        if count < 1 or not 0 <= minimum <= count:
            raise ConfigError(
                f"{name} needs count >= 1 and 0 <= minimum <= count, got {count}, {minimum}", path=name
            )
        self.count = count
        self.minimum = minimum
        self.value = self.largest()
        self.gates: Any = None

    @property
    def width(self) -> int:
        """Number of entries of the encoded vector."""
        return self.count

    @property
    def size(self) -> int:
        """Number of legal values."""
        size, term = int(2**self.count), 1
        for chosen in range(self.minimum):
            size -= term
            term = term * (self.count - chosen) // (chosen + 1)
        return size

    def largest(self) -> tuple[int, ...]:
        """Return the value that keeps everything."""
        return tuple(range(self.count))

    def smallest(self) -> tuple[int, ...]:
        """Return the value that keeps the least."""
        return tuple(range(self.minimum))

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Draw a legal value."""
        while True:
            value = tuple(index for index in range(self.count) if rng.random() < 0.5)
            if len(value) >= self.minimum:
                return value

    def check(self, value: Any) -> tuple[int, ...]:
        """Return the value in its canonical form, or refuse it."""
        allowed = f"{self.minimum} to {self.count} different ascending indices in 0..{self.count - 1}"
        if not isinstance(value, list | tuple) or any(type(index) is not int for index in value):
            raise self.refuse(value, allowed)
        indices = tuple(value)
        legal = all(0 <= index < self.count for index in indices) and indices == tuple(sorted(set(indices)))
        if not legal or len(indices) < self.minimum:
            raise self.refuse(value, allowed)
        return indices

    def encode(self, value: Any) -> list[float]:
        """Turn a value into numbers."""
        chosen = set(value)
        return [float(index in chosen) for index in range(self.count)]

    def decode(self, vector: Sequence[float]) -> tuple[int, ...]:
        """Turn numbers into the nearest legal value."""
        ranked = sorted(range(self.count), key=lambda index: -vector[index])
        chosen = {index for index in range(self.count) if vector[index] > 0.5} | set(ranked[: self.minimum])
        return tuple(sorted(chosen))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that build this decision again."""
        return {"count": self.count, "minimum": self.minimum}


def decision_from_json(record: Mapping[str, Any]) -> Decision:
    """Build a decision from its JSON record.

    Args:
        record: What `Decision.to_json` returned.

    Returns:
        An equal decision, with its largest value active.

    Raises:
        ConfigError: Unknown kind or missing or unknown arguments.
    """
    kinds: dict[str, type[Decision]] = {kind.kind: kind for kind in (Choice, Subset, Option)}
    arguments = dict(record)
    kind = arguments.pop("kind", None)
    if kind not in kinds:
        raise ConfigError(
            f"decision kind {kind!r} is unknown; known: {sorted(kinds)}", path="kind", value=kind
        )
    try:
        return kinds[kind](**arguments)
    except TypeError as error:
        raise ConfigError(
            f"decision record {dict(record)!r} does not fit {kind}: {error}", path="kind"
        ) from None
