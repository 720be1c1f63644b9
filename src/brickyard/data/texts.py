"""Texts of the user: with classes from a table, or with their translations from two files or a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import DataError, TaskError
from brickyard.core.files import write_text
from brickyard.core.task import Vocabulary
from brickyard.data._split import stratified
from brickyard.data.images import ImageOptions, check_column, column_words, label_column, natural, open_tables

_TEXTS = ("text", "sentence", "utterance", "review", "content")


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts with classes.

    Args:
        texts: The texts.
        labels: Index of the class of each, int64 `[N]`.

    Raises:
        DataError: There is another number of labels.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.texts),):
            raise DataError(f"labels have shape {self.labels.shape}; expected [{len(self.texts)}]")

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, index: Any) -> Texts:
        """Return the texts that a numpy index selects."""
        places = np.arange(len(self))[index]
        return Texts(tuple(self.texts[place] for place in places), self.labels[places])

    def save(self, path: Path) -> None:
        """Write JSON lines, whole or not at all."""
        rows = zip(self.texts, self.labels.tolist(), strict=True)
        _write(path, [{"text": text, "label": label} for text, label in rows])

    @classmethod
    def load(cls, path: Path) -> Texts:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or malformed.
        """
        rows = _read(path, {"text": str, "label": int})
        return cls(tuple(row["text"] for row in rows), np.array([row["label"] for row in rows], np.int64))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Texts with their translations.

    Args:
        sources: The texts.
        targets: Their translations.

    Raises:
        DataError: There is another number of translations.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.targets):
            raise DataError(f"there are {len(self.sources)} texts and {len(self.targets)} translations")

    def __len__(self) -> int:
        return len(self.sources)

    def subset(self, index: Any) -> Pairs:
        """Return the pairs that a numpy index selects."""
        places = np.arange(len(self))[index]
        return Pairs(*(tuple(side[place] for place in places) for side in (self.sources, self.targets)))

    def save(self, path: Path) -> None:
        """Write JSON lines, whole or not at all."""
        rows = zip(self.sources, self.targets, strict=True)
        _write(path, [{"source": source, "target": target} for source, target in rows])

    @classmethod
    def load(cls, path: Path) -> Pairs:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or malformed.
        """
        rows = _read(path, {"source": str, "target": str})
        return cls(tuple(row["source"] for row in rows), tuple(row["target"] for row in rows))


@dataclass(frozen=True, eq=False)
class TextSource:
    """Texts with classes, ready for training and testing.

    Args:
        name: Short name.
        vocabulary: The classes.
        train: Texts to train on.
        heldout: Texts to test on.
        spec: JSON record of how the data were made.
    """

    name: str
    vocabulary: Vocabulary
    train: Texts
    heldout: Texts
    spec: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class PairSource:
    """Texts with translations, ready for training and testing.

    Args:
        name: Short name.
        train: Pairs to train on.
        heldout: Pairs to test on.
        spec: JSON record of how the data were made.
    """

    name: str
    train: Pairs
    heldout: Pairs
    spec: Mapping[str, Any]


def load_texts(
    location: str | Path,
    *,
    heldout: str | Path | None = None,
    text: str | None = None,
    label: str | None = None,
    heldout_share: float = 0.15,
    seed: int = 0,
) -> TextSource:
    """Load texts with classes from a table.

    Args:
        location: A csv, tsv, jsonl or parquet file, or a hub id `owner/name`.
        heldout: A table of texts to test on; if None, the split `validation` or `test` of the data, else a
            share of each class.
        text: Column of the text; found by usual name if None.
        label: Column of the class; found by usual name if None.
        heldout_share: Share held out where there is no other test data.
        seed: Seed of the split.

    Raises:
        DataError: Missing or malformed data.
        MissingExtraError: The `datasets` library is not installed.
    """
    tables = _tables(location, heldout)
    table = tables["train"]
    found = text or next((name for name in _TEXTS if name in table.column_names), None)
    if found is None:
        raise DataError(
            f"no column of {table.column_names} looks like the text; name it with the option `text`"
        )
    wanted = label_column(table, ImageOptions(label=label))
    texts, words = {}, {}
    for part, rows in tables.items():
        for column in (found, wanted):
            check_column(rows, column)
        texts[part] = column_words(rows, found, str(location))
        words[part] = column_words(rows, wanted, str(location))
    classes = sorted(set(words["train"]), key=natural)
    for part, names in words.items():
        strange = sorted(set(names) - set(classes))
        if strange:
            raise DataError(f"column {wanted!r} of {part}: {strange[0]!r} is in no text to train on")
    if len(classes) < 2:
        raise DataError(f"column {wanted!r} has only the value {classes[0]!r}; at least two are needed")
    try:
        vocabulary = Vocabulary("classes", {"class": tuple(classes)})
    except TaskError as error:
        raise DataError(f"the values of {wanted} make no vocabulary: {error}") from None
    place = {word: index for index, word in enumerate(classes)}
    parts = {
        part: Texts(tuple(texts[part]), np.array([place[word] for word in words[part]], np.int64))
        for part in tables
    }
    train, test = parts["train"], parts.get("heldout")
    if test is None:
        chosen = stratified(train.labels, share=heldout_share, seed=seed)
        train, test = train.subset(~chosen), train.subset(chosen)
    spec = {
        **{"kind": "texts", "location": str(location), "heldout": None if heldout is None else str(heldout)},
        **{"text": found, "label": wanted, "heldout_share": heldout_share, "seed": seed},
    }
    return TextSource(Path(location).stem, vocabulary, train, test, spec)


def load_pairs(
    location: str | Path,
    *,
    translations: str | Path | None = None,
    heldout: str | Path | None = None,
    heldout_translations: str | Path | None = None,
    source: str | None = None,
    target: str | None = None,
    heldout_share: float = 0.15,
    seed: int = 0,
) -> PairSource:
    """Load texts with translations: line by line from two files, or from two columns of a table.

    Args:
        location: File of the texts in UTF-8, one in each line; or a table (csv, tsv, jsonl, parquet, hub id).
        translations: File of the translations, line by line; None for a table.
        heldout: File of texts to test on, or a table of them; a share is held out if None.
        heldout_translations: File of their translations; None for a table.
        source: Column of the texts, for a table.
        target: Column of the translations, for a table.
        heldout_share: Share held out where there is no other test data.
        seed: Seed of the split.

    Raises:
        DataError: Missing or malformed data.
        MissingExtraError: A table is given, and the `datasets` library is not installed.
    """
    if (translations is None) == (source is None) or (source is None) != (target is None):
        raise DataError(
            "pairs come either from two files (data and translations) or from a table with the columns "
            f"`source` and `target`; got translations {translations}, source {source}, target {target}"
        )
    if (heldout_translations is not None) != (translations is not None and heldout is not None):
        raise DataError(
            f"data to test on need the same form as data to train on; got heldout {heldout}, "
            f"heldout_translations {heldout_translations}"
        )
    parts: dict[str, Pairs] = {}
    if translations is not None:
        parts["train"] = _lines(Path(location), Path(translations))
        if heldout is not None and heldout_translations is not None:
            parts["heldout"] = _lines(Path(heldout), Path(heldout_translations))
    else:
        assert source is not None
        assert target is not None
        for part, rows in _tables(location, heldout).items():
            for column in (source, target):
                check_column(rows, column)
            sides = [tuple(column_words(rows, column, str(location))) for column in (source, target)]
            parts[part] = Pairs(*sides)
    train, test = parts["train"], parts.get("heldout")
    if test is None:
        if len(train) < 2 or not 0 < heldout_share < 1:
            raise DataError(
                f"of {len(train)} pairs a share of {heldout_share} cannot be held out; allowed: two or more "
                "pairs, a share above 0 and below 1"
            )
        order = np.random.default_rng(seed).permutation(len(train))
        count = min(max(1, round(heldout_share * len(train))), len(train) - 1)
        train, test = train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))
    names = {"location": location, "translations": translations, "heldout": heldout}
    names["heldout_translations"] = heldout_translations
    spec = {
        **{"kind": "pairs", "source": source, "target": target, "heldout_share": heldout_share, "seed": seed},
        **{name: None if value is None else str(value) for name, value in names.items()},
    }
    return PairSource(Path(location).stem, train, test, spec)


def _tables(location: str | Path, heldout: str | Path | None) -> dict[str, Any]:
    """Open the tables to train and to test on, the latter under the name `heldout` if there are any."""
    for path in (location, heldout):
        if path is not None and Path(path).is_dir():
            raise DataError(
                f"{path} is a folder; texts come from a csv, tsv, jsonl or parquet file or a hub id"
            )
    parts = open_tables(str(location))
    found = {"train": parts["train"]}
    if heldout is not None:
        found["heldout"] = open_tables(str(heldout))["train"]
    elif len(parts) == 2:
        found["heldout"] = next(table for name, table in parts.items() if name != "train")
    return found


def _lines(one: Path, two: Path) -> Pairs:
    """Read two files line by line."""
    sides = []
    for path in (one, two):
        try:
            lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
            sides.append([line.strip() for line in lines])
        except (FileNotFoundError, IsADirectoryError):
            raise DataError(f"{path} does not exist or is a folder; give a file of lines") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not text in UTF-8 ({error}); write it again") from None
    for number, pair in enumerate(zip_longest(*sides), start=1):
        lacks = next((path for path, line in zip((one, two), pair, strict=True) if not line), None)
        if lacks is not None:
            raise DataError(
                f"{lacks} has no text in line {number}; it and its other half need one in each, line by line"
            )
    return Pairs(tuple(sides[0]), tuple(sides[1]))


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _read(path: Path, kinds: Mapping[str, type]) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected a file of examples there") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON lines ({error}); make it again") from None
    for number, row in enumerate(rows, start=1):
        fits = isinstance(row, dict) and set(row) == set(kinds)
        if not fits or any(not isinstance(row[name], kind) for name, kind in kinds.items()):
            raise DataError(f"{path}, line {number}: expected an object with {sorted(kinds)}")
    return rows
