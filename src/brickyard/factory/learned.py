"""Tasks that a factory learned after it was trained: each is a factory of its own in the folder `learned`.

    learned/tasks/0000/factory/   what `make` reads; the rest of the folder is that of brickyard.continual

Nothing here needs torch, and nothing of the factory itself is touched by what lies there.
"""

from __future__ import annotations

from pathlib import Path

from brickyard.core.errors import ArtifactError, TaskError
from brickyard.core.files import numbered_folders, read_json
from brickyard.core.task import Task, Vocabulary

LEARNED, FACTORY = "learned", "factory"
"""Folder of the tasks in a factory, and of the factory in a task."""


def learned_folders(factory: Path) -> dict[str, Path]:
    """Return the factory folders of the tasks that a factory learned, by name, in their order.

    Args:
        factory: The factory folder.

    Raises:
        ArtifactError: A task is missing before another, or a file that tells the name of one is damaged.
    """
    found: dict[str, Path] = {}
    for place in numbered_folders(factory / LEARNED / "tasks"):
        manifest = read_json(place / "manifest.json")
        told = manifest.get("task") if isinstance(manifest, dict) else None
        name = told.get("name") if isinstance(told, dict) else None
        if not isinstance(name, str) or not name:
            raise ArtifactError(f"{place}/manifest.json tells no name of a task; copy the whole folder again")
        if name.casefold() in (known.casefold() for known in found):
            raise ArtifactError(f"{place} is a second task {name!r}; copy the whole folder again")
        found[name] = place / FACTORY
    return found


def split_name(text: str, names: dict[str, Path]) -> tuple[str, str | None] | None:
    """Split `NAME` or `NAME: words` where the name is that of a learned task, case ignored.

    Args:
        text: A task as a user gives it.
        names: Learned tasks by name.

    Returns:
        Name and words, None for all; None where the text starts with no such name.
    """
    first, colon, words = text.partition(":")
    folded = {name.casefold(): name for name in names}
    name = folded.get(" ".join(first.split()).casefold())
    return None if name is None else (name, words if colon else None)


def parse_task(text: str | None, vocabulary: Vocabulary, names: dict[str, Path]) -> tuple[str | None, Task]:
    """Read a task of a factory or of what it learned later.

    Args:
        text: Words of the factory, or `NAME` or `NAME: words` of a learned task.
        vocabulary: Words of the factory.
        names: Learned tasks by name.

    Returns:
        Name of the learned task, None for the factory itself; and the task in its own words.

    Raises:
        TaskError: It is not understood.
        ArtifactError: The folder of the learned task is damaged.
    """
    split = None if text is None else split_name(text, names)
    if split is not None:
        name, words = split
        file = names[name] / "vocabulary.json"
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; copy the whole folder of the factory again")
        own = Vocabulary.from_json(file.read_text())
        return name, own.parse(words)
    try:
        return None, vocabulary.parse(text)
    except TaskError as error:
        if not names:
            raise
        raise TaskError(f"{error}. Tasks learned later: {', '.join(names)}") from None
