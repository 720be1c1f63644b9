"""The earlier search that a search starts from, as people name it: a folder or a storage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from brickyard.core.errors import ArtifactError, ConfigError
from brickyard.factory.searching import STUDY_FILE, read_setup

if TYPE_CHECKING:
    from brickyard.search import WarmStart

_SQLITE = b"SQLite format 3\0"


def find_earlier(place: str, name: str | None = None) -> WarmStart:
    """Find an earlier search to start from.

    Args:
        place: The folder of the search, or its storage: a file of SQLite, or the address of a database.
        name: Name of its study in a storage, `search` if None; that of a folder stands in the folder.

    Raises:
        ArtifactError: There is no search, or the folder keeps its study elsewhere.
        ConfigError: A name was given with a folder.
    """
    from brickyard.search import WarmStart

    file = Path(place.removeprefix("sqlite:///"))
    if "://" in str(file):
        return WarmStart(storage=place, name=name or "search")
    if file.is_dir():
        if name is not None:
            raise ConfigError(
                f"{place} is a folder, which names its study itself; leave --warm-start-name out",
                path="warm_start_name",
                value=name,
            )
        name = read_setup(file).name
        if not (file / STUDY_FILE).is_file():
            raise ArtifactError(
                f"{place} holds no {STUDY_FILE}, so its study lies elsewhere; name that storage: "
                f"--warm-start STORAGE --warm-start-name {name}"
            )
        return WarmStart(storage=file / STUDY_FILE, name=name)
    if not file.is_file():
        raise ArtifactError(
            f"{place} is not there; a warm start is the folder of an earlier `brickyard search`, or its "
            "storage: a file of SQLite or the address of a database"
        )
    with file.open("rb") as stream:
        if stream.read(len(_SQLITE)) != _SQLITE:
            raise ArtifactError(f"{place} is no file of SQLite, so no search is in it")
    return WarmStart(storage=file, name=name or "search")
