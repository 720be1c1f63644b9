"""Texts by the function that they need, from a folder: a file of lines or a folder of files for each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from brickyard.core.errors import DataError


@dataclass(frozen=True)
class FunctionTexts:
    """Texts that need one function each.

    Attributes:
        functions: Names of the functions.
        texts: The texts.
        labels: Function of each text, from 0.
    """

    functions: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[int, ...]


def load_functions(folder: str | Path, *, most: int, seed: int) -> FunctionTexts:
    """Load texts by function.

    In the folder `NAME.txt` holds a text in each line; a subfolder `NAME` holds a text in each file. Empty
    texts, and texts of several functions, are left out; equal ones count once.

    Args:
        folder: The folder.
        most: Most texts of a function; they are drawn where there are more.
        seed: Seed of the draw.

    Returns:
        The texts, functions in the order of their names.

    Raises:
        DataError: There is no such folder, something else lies in it, or a function has less than two texts.
    """
    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"{place} is no folder; expected NAME.txt, or a subfolder NAME, for each function")
    if most < 2:
        raise DataError(f"{most} texts of a function are not allowed; allowed: 2 or more")
    found: dict[str, list[str]] = {}
    for path in sorted(place.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir() and path.suffix != ".txt":
            raise DataError(f"{path} is no function; expected NAME.txt, or a subfolder NAME, for each one")
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise DataError(f"{place} holds {name} as a file and as a folder; rename one, or join them")
        files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
        texts = [_read(file) for file in files]
        if not path.is_dir():
            texts = texts[0].splitlines()
        found[name] = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if len(found) < 2:
        raise DataError(f"{place} holds {len(found)} functions; at least 2 are needed to tell them apart")
    seen: dict[str, int] = {}
    for kept in found.values():
        for text in kept:
            seen[text] = seen.get(text, 0) + 1
    draw = random.Random(seed)
    texts, labels = [], []
    for label, (name, kept) in enumerate(found.items()):
        own = [text for text in kept if seen[text] == 1]
        if len(own) < 2:
            raise DataError(f"{place} holds {len(own)} texts of {name} alone; at least 2 are needed")
        own = own if len(own) <= most else draw.sample(own, most)
        texts += own
        labels += [label] * len(own)
    return FunctionTexts(tuple(found), tuple(texts), tuple(labels))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error}") from None
