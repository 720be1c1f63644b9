"""All decisions of a network together."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from brickyard.core.config import Config
from brickyard.core.decision import Decision, Subset, decision_from_json
from brickyard.core.errors import ConfigError

WORDS, CLASSES = "head.words", "classes"
HEAD_SUBSETS = (WORDS, CLASSES)
"""Subsets of the head: a brick for each word of a vocabulary, or a row for each class. The task is their
value."""


class Space:
    """The set of legal configs, spanned by decisions with different names.

    Args:
        decisions: The decisions, in a fixed order.

    Raises:
        ConfigError: Two different decisions bear one name.
    """

    def __init__(self, decisions: Iterable[Decision]) -> None:
        self._decisions: dict[str, Decision] = {}
        for decision in decisions:
            if self._decisions.setdefault(decision.name, decision) is not decision:
                raise ConfigError(
                    f"two different decisions are named {decision.name!r}; share one object or rename one",
                    path=decision.name,
                )

    def __iter__(self) -> Iterator[Decision]:
        return iter(self._decisions.values())

    def __len__(self) -> int:
        return len(self._decisions)

    def __getitem__(self, name: str) -> Decision:
        return self._decisions[name]

    def __contains__(self, name: object) -> bool:
        return name in self._decisions

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Space) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def _config(self, value: Callable[[Decision], Any]) -> Config:
        return Config({decision.name: value(decision) for decision in self})

    def largest(self) -> Config:
        """Return the config that keeps everything."""
        return self._config(lambda decision: decision.largest())

    def smallest(self) -> Config:
        """Return the config that keeps the least."""
        return self._config(lambda decision: decision.smallest())

    def sample(self, rng: random.Random) -> Config:
        """Draw each decision uniformly and independently."""
        return self._config(lambda decision: decision.sample(rng))

    def active(self) -> Config:
        """Return the values that are active in the decisions now."""
        return self._config(lambda decision: decision.value)

    def check(self, config: Mapping[str, Any]) -> Config:
        """Check a config whole.

        Args:
            config: One value for each decision.

        Returns:
            The config in canonical form and order.

        Raises:
            ConfigError: A name is missing or unknown, or a value is not legal.
        """
        unknown = [name for name in config if name not in self._decisions]
        if unknown:
            near = get_close_matches(unknown[0], self._decisions, n=3) or list(self._decisions)[:8]
            raise ConfigError(
                f"decision {unknown[0]!r} is not in the space; nearest: {near}",
                path=unknown[0],
                value=config[unknown[0]],
                allowed=near,
            )
        missing = [name for name in self._decisions if name not in config]
        if missing:
            raise ConfigError(
                f"config lacks a value for {missing[0]!r}; give one for each decision", path=missing[0]
            )
        return self._config(lambda decision: decision.check(config[decision.name]))

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a config is legal."""
        try:
            self.check(config)
        except ConfigError:
            return False
        return True

    @property
    def size(self) -> int:
        """Number of legal configs."""
        return math.prod(decision.size for decision in self)

    @property
    def width(self) -> int:
        """Number of entries of an encoded config."""
        return sum(decision.width for decision in self)

    def encode(self, config: Mapping[str, Any]) -> list[float]:
        """Turn a config into a vector of `width` numbers in [0, 1]."""
        checked = self.check(config)
        return [number for decision in self for number in decision.encode(checked[decision.name])]

    def decode(self, vector: Sequence[float]) -> Config:
        """Turn a vector back into the nearest legal config.

        Raises:
            ConfigError: The vector has another length than `width`.
        """
        if len(vector) != self.width:
            raise ConfigError(
                f"vector has {len(vector)} entries; this space needs {self.width}", path="vector"
            )
        values, start = {}, 0
        for decision in self:
            values[decision.name] = decision.decode(vector[start : start + decision.width])
            start += decision.width
        return Config(values)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the JSON records of the decisions."""
        return [decision.to_json() for decision in self]

    @classmethod
    def from_json(cls, records: Iterable[Mapping[str, Any]]) -> Space:
        """Build a space from what `to_json` returned."""
        return cls(decision_from_json(record) for record in records)


def block_subsets(space: Space) -> list[Subset]:
    """Return the subsets that an assembler decides: all but those of the head, which the task decides.

    Args:
        space: Space of a network.

    Returns:
        The subsets in the order of the space; logits, gates and masks of bricks follow it.
    """
    return [
        decision for decision in space if isinstance(decision, Subset) and decision.name not in HEAD_SUBSETS
    ]
