"""Files and folders that are written whole or not at all, and read strictly."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brickyard.core.errors import ArtifactError

_NUMBER = re.compile("[0-9]+")
_UNFINISHED = ".part"  # how the names of temporary files and folders end


def cache_folder() -> Path:
    """Return the user's cache folder of brickyard, which may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "brickyard"


def sha256(path: Path) -> str:
    """Hash of a file's bytes.

    Args:
        path: File to read.

    Returns:
        The SHA-256 digest in hexadecimal.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file in the same folder, fsync, rename.

    Args:
        path: Where the file shall be; its folder must exist.
        content: The bytes.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        _name_file(error, path)
        raise


def _name_file(error: BaseException, path: Path) -> None:
    """Let an error of the system, a full disk for one, tell what could not be written."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


def json_bytes(record: Any) -> bytes:
    """Return a record as `write_json` writes it."""
    return (json.dumps(record, indent=1) + "\n").encode()


def write_json(path: Path, record: Any) -> None:
    """Write a record as indented JSON, whole or not at all."""
    write_bytes(path, json_bytes(record))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: File to read.

    Returns:
        The parsed value.

    Raises:
        ArtifactError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; expected a JSON file there") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}); make the artifact again") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends, and vanishes if it raises.

    Args:
        path: Where the folder shall be.

    Yields:
        The temporary folder, in the same parent as `path`.

    Raises:
        ArtifactError: Something is at `path`, other than an empty folder.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ArtifactError(f"{path} already exists; choose another folder or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        temporary.chmod(0o755)
        os.replace(temporary, path)
    except BaseException as error:
        _name_file(error, path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file or folder left beside it.

    Args:
        path: The file or folder, which no other process writes now; it need not be there.
    """
    path = path.absolute()
    name = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]+{re.escape(_UNFINISHED)}")
    for left in [left for left in path.parent.iterdir() if name.fullmatch(left.name)]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def numbered_folders(path: Path) -> list[Path]:
    """Return the folders `0000`, `0001`, ... of a folder, in their order.

    Args:
        path: The folder; one that is not there has none.

    Raises:
        ArtifactError: A number is missing before another, or is no folder.
    """
    found = (
        sorted(place.name for place in path.iterdir() if _NUMBER.fullmatch(place.name))
        if path.is_dir()
        else []
    )
    places = [path / f"{number:04d}" for number in range(len(found))]
    missing = next((place for place in places if not place.is_dir()), None)
    if missing is not None:
        raise ArtifactError(
            f"{missing} is missing or no folder, and {path} goes up to {found[-1]}; numbers have no gaps: "
            "put it back, or copy the whole folder again"
        )
    return places


def write_manifest(folder: Path, *, format_version: int, kind: str, fields: Mapping[str, Any]) -> None:
    """Write `manifest.json`: kind, format version, given fields, and the hash of every other file.

    Args:
        folder: Folder whose files are final.
        format_version: Version of the layout.
        kind: `network`, `factory` or `model`.
        fields: Further entries.
    """
    files = {
        str(file.relative_to(folder)): sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    record = {"kind": kind, "format_version": format_version, **fields, "sha256": files}
    write_json(folder / "manifest.json", record)


def read_manifest(
    folder: Path, *, format_version: int, kind: str, check_files: bool = True
) -> dict[str, Any]:
    """Read and verify the `manifest.json` of a folder.

    Args:
        folder: Folder of an artifact.
        format_version: The version this code understands.
        kind: The kind of artifact that is expected.
        check_files: Whether all files that it lists are read and compared with their hashes.

    Returns:
        The manifest.

    Raises:
        ArtifactError: Missing folder or file, another kind or version, or a file whose hash differs.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder; expected a {kind} folder")
    if not (folder / "manifest.json").is_file():
        raise ArtifactError(f"{folder} has no manifest.json, so it is not a {kind} folder of brickyard")
    record = read_json(folder / "manifest.json")
    if not isinstance(record, dict) or record.get("kind") != kind:
        found = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise ArtifactError(f"{folder} holds a {found!r}; expected a {kind} folder")
    if record.get("format_version") != format_version:
        raise ArtifactError(
            f"{folder} has format version {record.get('format_version')}; this brickyard reads "
            f"{format_version}. Make the artifact again or install the brickyard that wrote it"
        )
    hashes = record.get("sha256")
    if not isinstance(hashes, dict):
        raise ArtifactError(f"{folder}/manifest.json lists no hashes; copy or make the folder again")
    for name, digest in hashes.items() if check_files else ():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; the folder is incomplete, copy or make it again")
        if sha256(file) != digest:
            raise ArtifactError(
                f"{file} differs from the hash in manifest.json; copy or make the folder again"
            )
    return record
