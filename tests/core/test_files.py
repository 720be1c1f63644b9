"""Files are whole or not there; manifests notice what was altered."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from brickyard.core import files
from brickyard.core.errors import ArtifactError

KILLED = """
import os, signal, sys
from pathlib import Path
from brickyard.core.files import new_folder, write_bytes
import brickyard.core.files as files
target = Path(sys.argv[1])
if sys.argv[2] == "folder":
    with new_folder(target) as folder:
        (folder / "half").write_bytes(b"x" * 100)
        os.kill(os.getpid(), signal.SIGKILL)
files.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
write_bytes(target, b"x" * 100)
"""


@pytest.mark.parametrize("what", ["folder", "file"])
def test_kill_in_the_middle_leaves_nothing_at_the_target(tmp_path: Path, what: str):
    target = tmp_path / "target"
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), what], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "labels.txt"
    files.write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["labels.txt"]
    assert path.read_text() == "old"


def test_written_files_can_be_read_by_others(tmp_path: Path):
    files.write_json(tmp_path / "a.json", {"x": [1]})
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
    assert files.read_json(tmp_path / "a.json") == {"x": [1]}


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_unreadable_json_is_refused(tmp_path: Path, content: bytes | None):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="does not exist" if content is None else "is not valid JSON"):
        files.read_json(path)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_a_kill_left_is_swept_and_nothing_else(tmp_path: Path, what: str):
    target = tmp_path / "target"
    subprocess.run([sys.executable, "-c", KILLED, str(target), what], check=False, timeout=60)
    assert len(list(tmp_path.iterdir())) == 1
    kept = {"target", ".target.settings", ".target.x.abcd1234.part", ".other.abcd1234.part"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    files.sweep(target)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_numbered_folders_have_no_gaps(tmp_path: Path):
    assert files.numbered_folders(tmp_path / "nothing") == []
    for name in ("0000", "0001", ".0002.abcd1234.part", "notes"):
        (tmp_path / name).mkdir()
    assert files.numbered_folders(tmp_path) == [tmp_path / "0000", tmp_path / "0001"]
    (tmp_path / "0003").mkdir()
    with pytest.raises(ArtifactError, match=r"0002 is missing or no folder, and .* goes up to 0003"):
        files.numbered_folders(tmp_path)
    (tmp_path / "0002").write_text("no folder")
    with pytest.raises(ArtifactError, match="0002 is missing or no folder"):
        files.numbered_folders(tmp_path)


def test_new_folder_appears_whole(tmp_path: Path):
    target = tmp_path / "deep" / "model"
    with files.new_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_new_folder_vanishes_when_the_block_raises(tmp_path: Path):
    def half() -> None:
        with files.new_folder(tmp_path / "model") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half()
    assert list(tmp_path.iterdir()) == []


def test_new_folder_takes_only_an_empty_place(tmp_path: Path):
    target = tmp_path / "model"
    target.mkdir()
    with files.new_folder(target) as folder:
        (folder / "new").write_text("2")
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(ArtifactError, match="already exists"), files.new_folder(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def artifact(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights").write_bytes(bytes(range(256)))
    (folder / "labels.txt").write_text("a\nb\n")
    files.write_manifest(folder, format_version=3, kind="model", fields={"name": "x"})
    return folder


def test_manifest_round_trip(tmp_path: Path):
    record = files.read_manifest(artifact(tmp_path / "m"), format_version=3, kind="model")
    assert record["name"] == "x"
    assert set(record["sha256"]) == {"sub/weights", "labels.txt"}


def test_one_changed_byte_is_noticed(tmp_path: Path):
    folder = artifact(tmp_path / "m")
    content = bytearray((folder / "sub" / "weights").read_bytes())
    content[77] ^= 1
    (folder / "sub" / "weights").write_bytes(content)
    with pytest.raises(ArtifactError, match="weights differs from the hash"):
        files.read_manifest(folder, format_version=3, kind="model")
    (folder / "sub" / "weights").unlink()
    with pytest.raises(ArtifactError, match="weights is missing; the folder is incomplete"):
        files.read_manifest(folder, format_version=3, kind="model")


def test_other_folders_are_refused(tmp_path: Path):
    folder = artifact(tmp_path / "m")
    with pytest.raises(ArtifactError, match="holds a 'model'; expected a factory folder"):
        files.read_manifest(folder, format_version=3, kind="factory")
    with pytest.raises(ArtifactError, match="has format version 3; this brickyard reads 4"):
        files.read_manifest(folder, format_version=4, kind="model")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        files.read_manifest(folder / "sub", format_version=3, kind="model")
    with pytest.raises(ArtifactError, match="is not a folder; expected a model folder"):
        files.read_manifest(folder / "labels.txt", format_version=3, kind="model")
    (folder / "manifest.json").write_text(json.dumps({"kind": "model", "format_version": 3}))
    with pytest.raises(ArtifactError, match="lists no hashes"):
        files.read_manifest(folder, format_version=3, kind="model")
