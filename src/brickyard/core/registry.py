"""One literal registry per kind of thing that can be named: a decorator adds, a duplicate raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from brickyard.core.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of things of one kind. Third parties add theirs through the entry-point group `brickyard.<kind>`.

    Args:
        kind: What the names stand for, in the plural, for example `networks`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._discovered = False

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`.

        Raises:
            ConfigError: The name is taken.
        """

        def register(entry: T) -> T:
            if name in self._entries:
                raise ConfigError(
                    f"{self.kind} already has an entry {name!r}; choose another name", path=name
                )
            self._entries[name] = entry
            return entry

        return register

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True
            for point in entry_points(group=f"brickyard.{self.kind}"):
                if point.name not in self._entries:
                    self._entries[point.name] = point.load()

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._entries:
            near = get_close_matches(name, self._entries, n=3) or sorted(self._entries)
            raise ConfigError(
                f"{name!r} is not among the {self.kind}; nearest: {near}", path=name, allowed=near
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))
