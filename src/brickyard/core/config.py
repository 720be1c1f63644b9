"""One value for each decision of a space, frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from brickyard.core.errors import ConfigError


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


class Config(Mapping[str, Any]):
    """A frozen mapping from decision name to value.

    Two configs are equal when their values are, whatever the order of the names; equal configs hash equal.

    Args:
        values: Value of each decision; lists become tuples.

    Example:
        >>> Config({"depth": 2, "stage1": [0, 3]}).digest()[:4]
        '929c'
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {name: _freeze(value) for name, value in values.items()}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Config) else NotImplemented

    def __repr__(self) -> str:
        return f"Config({self._values!r})"

    def replace(self, values: Mapping[str, Any]) -> Config:
        """Return a config in which the given values stand in place of these."""
        return Config({**self._values, **values})

    def to_json(self) -> str:
        """Return compact JSON with sorted names."""
        return json.dumps(self._values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: The text is not a JSON object.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"config is not JSON: {error}", path="config", value=text) from None
        if not isinstance(values, dict):
            raise ConfigError(f"config is a JSON {type(values).__name__}; expected an object", path="config")
        return cls(values)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
