"""What a search makes better, and what it must keep to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from brickyard.core.errors import ConfigError

_LARGER = ("accuracy", "balanced_accuracy", "bleu", "quality", "f1", "ap", "ap50")
_SMALLER = (
    *("error", "loss", "latency_ms", "energy_mj", "memory_bytes", "peak_memory_bytes"),
    *("runtime_memory_bytes", "macs", "parameters", "file_bytes"),
)


@dataclass(frozen=True)
class Objective:
    """One number that an evaluation gives.

    Attributes:
        name: Its name.
        maximize: Whether more is better.
    """

    name: str
    maximize: bool

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read `name`, `max:name` or `min:name`; without a word in front the name must be a known one.

        What stands behind an `@`, such as a device in `latency_ms@board`, belongs to the name.

        Raises:
            ConfigError: It cannot be told whether more is better.
        """
        way, colon, name = text.partition(":")
        if colon and way in ("max", "min") and name:
            return cls(name, maximize=way == "max")
        known = text.partition("@")[0]
        if colon or known not in (*_LARGER, *_SMALLER):
            raise ConfigError(
                f"objective {text!r}: write max:{name or text} if more is better, min:{name or text} if "
                f"less is; known without: {', '.join((*_LARGER, *_SMALLER))}",
                path="objectives",
                value=text,
            )
        return cls(text, maximize=known in _LARGER)


@dataclass(frozen=True)
class Limit:
    """A number that must not be worse than a bound.

    Attributes:
        name: Name of the number.
        bound: The bound, which itself is allowed.
        at_least: Whether the bound is the least that is allowed; else the most.
    """

    name: str
    bound: float
    at_least: bool = False

    def excess(self, value: float) -> float:
        """Return by how much a value breaks the limit; 0 or less where it is kept."""
        return self.bound - value if self.at_least else value - self.bound


def objectives_of(texts: Iterable[str | Objective]) -> tuple[Objective, ...]:
    """Read objectives.

    Args:
        texts: One to four of them, see `Objective.parse`.

    Raises:
        ConfigError: There are none, more than four, or two of one name.
    """
    found = tuple(text if isinstance(text, Objective) else Objective.parse(text) for text in texts)
    names = [objective.name for objective in found]
    if not 1 <= len(found) <= 4 or len(set(names)) != len(names):
        raise ConfigError(
            f"objectives are {names}; give one to four different ones", path="objectives", value=names
        )
    return found


def limits_of(bounds: Mapping[str, float], objectives: Iterable[Objective]) -> tuple[Limit, ...]:
    """Read limits; the bound of what is maximised is the least, every other the most.

    Args:
        bounds: Bounds by name.
        objectives: The objectives, which may have limits too.
    """
    larger = {objective.name for objective in objectives if objective.maximize} | set(_LARGER)
    return tuple(Limit(name, float(bound), at_least=name in larger) for name, bound in bounds.items())
