"""What a model shall do, in the words of a vocabulary: a property combination or a subset of the classes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import TaskError

Kind = Literal["properties", "classes"]

_TOKEN = re.compile(r"[,&\n]|[^\s,&]+")
_SEPARATORS = frozenset({",", "&", "\n", "and"})
_SHOWN = 24


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text.casefold()))


@dataclass(frozen=True)
class Task:
    """One job for a model; made by `Vocabulary.parse` or `Vocabulary.task`, which check the words.

    Args:
        kind: `properties` (is there an object that has all of them?) or `classes` (which of them is it?).
        words: The words, in the order of the vocabulary. Empty only for the generic property task
            "all", which asks for any object.
    """

    kind: Kind
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The canonical text, which parses back to this task: "red circle", "3, 7"."""
        plain = self.kind == "properties" and not any(len(_tokens(word)) > 1 for word in self.words)
        return (" " if plain else ", ").join(self.words) or "all"

    def __str__(self) -> str:
        return self.text

    def vector(self, vocabulary: Vocabulary) -> NDArray[np.float32]:
        """Return the task as a multi-hot vector.

        Args:
            vocabulary: The vocabulary that the words belong to.

        Returns:
            Zeros and ones, `[words of the vocabulary]`; all ones for the generic task.

        Raises:
            TaskError: The vocabulary lacks a word or is of another kind.
        """
        vector = np.zeros(len(vocabulary.words), np.float32)
        vector[self._indices(vocabulary) or slice(None)] = 1.0
        return vector

    def values(self, vocabulary: Vocabulary) -> dict[int, int]:
        """Return the value that each property group must have.

        Args:
            vocabulary: The vocabulary that the words belong to, of kind `properties`.

        Returns:
            Index of the group to index of the value within the group.

        Raises:
            TaskError: The vocabulary lacks a word, or is not of kind `properties`.
        """
        self._require("properties", vocabulary)
        return dict(vocabulary.locate(index) for index in self._indices(vocabulary))

    def class_indices(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Return the indices of the classes, ascending.

        Args:
            vocabulary: The vocabulary that the words belong to, of kind `classes`.

        Raises:
            TaskError: The vocabulary lacks a word, or is not of kind `classes`.
        """
        self._require("classes", vocabulary)
        return tuple(sorted(self._indices(vocabulary)))

    def _require(self, kind: Kind, vocabulary: Vocabulary) -> None:
        if vocabulary.kind != kind:
            raise TaskError(f"the vocabulary is of kind {vocabulary.kind!r}; this needs one of kind {kind!r}")

    def _indices(self, vocabulary: Vocabulary) -> list[int]:
        self._require(self.kind, vocabulary)
        return [vocabulary.index(word) for word in self.words]


@dataclass(frozen=True)
class Vocabulary:
    """The words a factory understands, in groups.

    Args:
        kind: `properties`: each group is one property of an object and its words are the values;
            `classes`: one group, named `class`.
        groups: Group name to words. The order is the order of the task vector.

    Raises:
        TaskError: A group is empty, a word is empty or occurs twice (case ignored), or a class vocabulary
            does not have exactly the group `class`.

    Example:
        >>> words = Vocabulary("properties", {"color": ("red", "blue"), "shape": ("circle", "ring")})
        >>> words.parse("Circle & red").text
        'red circle'
    """

    kind: Kind
    groups: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        groups = {str(name): tuple(str(word) for word in words) for name, words in self.groups.items()}
        object.__setattr__(self, "groups", MappingProxyType(groups))
        if self.kind not in ("properties", "classes"):
            raise TaskError(f"vocabulary kind {self.kind!r} is unknown; allowed: 'properties', 'classes'")
        if self.kind == "classes" and list(groups) != ["class"]:
            raise TaskError(
                f"a class vocabulary has groups {list(groups)}; it must have exactly one, named 'class'"
            )
        if not groups or not all(groups.values()):
            raise TaskError(f"vocabulary groups {groups!r} lack words; give each group at least one")
        index: dict[tuple[str, ...], int] = {}
        for number, word in enumerate(self.words):
            tokens = _tokens(word)
            if set(tokens) <= _SEPARATORS:
                raise TaskError(f"word {word!r} of the vocabulary is empty or only a separator; rename it")
            if tokens in index:
                raise TaskError(
                    f"word {word!r} occurs twice in the vocabulary (case ignored); rename one of the two"
                )
            index[tokens] = number
        object.__setattr__(self, "_index", index)

    def __hash__(self) -> int:
        return hash((self.kind, tuple(self.groups.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return Vocabulary, (self.kind, dict(self.groups))

    @property
    def words(self) -> tuple[str, ...]:
        """All words, group after group."""
        return tuple(word for words in self.groups.values() for word in words)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of words of each group."""
        return tuple(len(words) for words in self.groups.values())

    def index(self, word: str) -> int:
        """Return the position of a word in `words`, case ignored.

        Raises:
            TaskError: The word is unknown.
        """
        found: int | None = self._by_tokens.get(_tokens(word))
        if found is None:
            raise self._unknown(word)
        return found

    def locate(self, index: int) -> tuple[int, int]:
        """Return group and place within the group of the word at a position of `words`."""
        group = 0
        while index >= self.sizes[group]:
            index -= self.sizes[group]
            group += 1
        return group, index

    def task(self, words: Iterable[str]) -> Task:
        """Make a task of words in any order.

        Raises:
            TaskError: No word, an unknown or repeated word, or two values of one property.
        """
        indices = [self.index(word) for word in words]
        if not indices:
            raise TaskError(f"the task names no word; name some of: {self._listing()}")
        seen: dict[int, int] = {}
        for index in indices:
            if indices.count(index) > 1:
                raise TaskError(f"{self.words[index]!r} occurs more than once in the task; name it once")
            group = self.locate(index)[0]
            if self.kind == "properties" and group in seen:
                raise TaskError(
                    f"{self.words[seen[group]]!r} and {self.words[index]!r} are both a "
                    f"{list(self.groups)[group]}; an object has only one, so name one of them"
                )
            seen[group] = index
        return Task(self.kind, tuple(self.words[index] for index in sorted(indices)))

    def all(self) -> Task:
        """Return the generic task: all classes, or any object."""
        return Task(self.kind, self.words if self.kind == "classes" else ())

    def combinations(self, *groups: str) -> tuple[Task, ...]:
        """Return every task that names one value of each of some property groups.

        Args:
            groups: Names of property groups.

        Raises:
            TaskError: A group is unknown, or none is given.
        """
        for group in groups:
            if group not in self.groups:
                raise TaskError(f"{group!r} is not a group of the vocabulary; it has {list(self.groups)}")
        return tuple(self.task(words) for words in product(*(self.groups[group] for group in groups)))

    def parse(self, text: str | None) -> Task:
        """Read a task from text, case ignored.

        Words are separated by spaces, commas, "&", "and" or newlines; where several fit, the longest wins.

        Args:
            text: For example "large & striped" or "3, 7"; "all" or None is the generic task.

        Raises:
            TaskError: Empty text, an unknown word (the nearest known ones are named), a repeated word, or two
                values of one property.
        """
        if text is None:
            return self.all()
        tokens = _tokens(text)
        if tokens == ("all",) and tokens not in self._by_tokens:
            return self.all()
        return self.task(self._split(tokens, text))

    def _split(self, tokens: tuple[str, ...], text: str) -> Iterator[str]:
        longest = max(map(len, self._by_tokens))
        start = 0
        while start < len(tokens):
            ends = range(min(len(tokens), start + longest), start, -1)
            end = next((end for end in ends if tokens[start:end] in self._by_tokens), None)
            if end is not None:
                yield self.words[self._by_tokens[tokens[start:end]]]
                start = end
            elif tokens[start] in _SEPARATORS:
                start += 1
            else:
                raise self._unknown(self._phrase(tokens[start:]), text)

    def _phrase(self, tokens: tuple[str, ...]) -> str:
        """The unknown part: one property word, or everything up to the next separator of a class list."""
        stop = next((place for place, token in enumerate(tokens) if token in _SEPARATORS), len(tokens))
        return " ".join(tokens[: 1 if self.kind == "properties" else stop])

    @property
    def _by_tokens(self) -> dict[tuple[str, ...], int]:
        index: dict[tuple[str, ...], int] = self.__dict__["_index"]
        return index

    def _unknown(self, word: str, text: str | None = None) -> TaskError:
        folded = {known.casefold(): known for known in self.words}
        near = [folded[match] for match in get_close_matches(word.casefold(), folded, n=3, cutoff=0.5)]
        where = "" if text is None else f" in the task {text!r}"
        nearest = f"; nearest: {', '.join(near)}" if near else ""
        return TaskError(f"{word!r}{where} is not a known word{nearest}. Known words: {self._listing()}")

    def _listing(self) -> str:
        def show(words: tuple[str, ...]) -> str:
            more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
            return ", ".join(words[:_SHOWN]) + more

        return "; ".join(f"{name}: {show(words)}" for name, words in self.groups.items())

    def to_json(self) -> str:
        """Return JSON that `from_json` reads."""
        return json.dumps(
            {"kind": self.kind, "groups": {name: list(words) for name, words in self.groups.items()}}
        )

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Read what `to_json` wrote.

        Raises:
            TaskError: The text is no JSON object with exactly `kind` and `groups`.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise TaskError(f"the vocabulary is not JSON: {error}") from None
        if (
            not isinstance(record, dict)
            or set(record) != {"kind", "groups"}
            or not isinstance(record["groups"], dict)
        ):
            raise TaskError(
                f"the vocabulary reads {text[:80]!r}; expected an object with exactly 'kind' and 'groups'"
            )
        return cls(record["kind"], record["groups"])
