"""Factory folders: how they are found, and that damaged ones are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from brickyard.core.errors import ArtifactError
from brickyard.core.files import cache_folder, read_json, write_json
from brickyard.factory import folder as folders
from brickyard.factory.factory import Factory
from brickyard.factory.folder import FactoryFolder, find_factory, versions


@pytest.fixture
def copy(pico: Path, tmp_path: Path) -> Path:
    """A copy of the factory that a test may damage."""
    return Path(shutil.copytree(pico, tmp_path / "copy"))


def test_all_parts_are_read_and_agree(pico):
    folder = FactoryFolder.open(pico)
    assert folder.name == "pico"
    assert folder.vocabulary.groups["shape"] == ("circle", "square")
    assert folder.preprocess.shape == (3, 32, 32)
    assert folder.geometry.colors == ("red", "green", "blue")
    assert folder.heldout is None
    assert 0 < len(folder.calibration) <= 128
    assembly = folder.assembly
    whole = folder.blueprint.count(folder.blueprint.space.largest()).macs
    assert len(assembly.costs) == sum(subset.count for subset in assembly.subsets)
    assert assembly.costs.sum() + assembly.fixed_cost == pytest.approx(1, abs=1e-5)
    empty = folder.blueprint.space.largest().replace({subset.name: () for subset in assembly.subsets})
    assert folder.blueprint.count(empty).macs / whole == pytest.approx(assembly.fixed_cost, abs=1e-6)
    assert folder.network["builder"] == "residual_cnn_pico"
    assert set(folder.quality["tasks"]["red circle"]) == {"known", "quality", "macs_share"}


def test_a_class_factory_holds_labelled_pictures(digits):
    folder = digits.folder
    assert folder.geometry is None
    assert set(np.unique(folder.heldout.classes)) == set(range(10))
    assert folder.quality["tasks"][folder.vocabulary.all().text]["known"] is None


@pytest.mark.parametrize(
    "name",
    [
        "whole.onnx",
        "assembler.safetensors",
        "assembler.json",
        "model.safetensors",
        "vocabulary.json",
        "calibration.npz",
    ],
)
def test_a_changed_file_is_refused_by_name(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} differs from the hash in manifest.json; copy or make"):
        Factory.load(copy)


def test_a_missing_file_another_kind_and_another_version_are_refused(copy):
    (copy / "quality.json").rename(copy / "else.json")
    with pytest.raises(ArtifactError, match=r"quality\.json is missing; the folder is incomplete"):
        Factory.load(copy)
    (copy / "else.json").rename(copy / "quality.json")
    manifest = read_json(copy / "manifest.json")
    write_json(copy / "manifest.json", {**manifest, "kind": "model"})
    with pytest.raises(ArtifactError, match="holds a 'model'; expected a factory folder"):
        Factory.load(copy)
    write_json(copy / "manifest.json", {**manifest, "format_version": 99})
    with pytest.raises(ArtifactError, match="has format version 99; this brickyard reads 1"):
        Factory.load(copy)


def test_factories_are_found_by_folder_bundled_name_and_not_otherwise(pico, monkeypatch, tmp_path):
    assert find_factory(pico) == pico
    monkeypatch.setattr(folders, "_BUNDLED", pico.parent)
    assert folders.bundled_factories() == {"pico": pico}
    assert find_factory("pico") == pico
    with pytest.raises(
        ArtifactError, match=r"gone is neither a folder nor a bundled factory \(pico\) nor a hub id"
    ):
        find_factory("gone")
    monkeypatch.setattr(folders, "_BUNDLED", tmp_path / "nothing")
    assert folders.bundled_factories() == {}
    with pytest.raises(ArtifactError, match=r"bundled factory \(none\)"):
        find_factory("pico")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("401 Client Error\nand much more"), "and the hub did not give it: 401 Client Error$"),
        (LocalEntryNotFoundError("a long story"), "the hub cannot be reached, and no earlier download"),
    ],
)
def test_a_hub_id_that_the_hub_does_not_give_is_told(monkeypatch, error, told):
    def refuse(name: str) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ArtifactError, match=f"^nobody/nothing is no folder here, {told}"):
        find_factory("nobody/nothing")


def test_the_cache_lies_where_the_user_wants(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "brickyard"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "brickyard"


def test_versions_leave_out_what_is_not_installed():
    found = versions("torch", "no-such-library")
    assert {"python", "numpy", "onnx", "onnxruntime", "torch"} <= set(found)
    assert "no-such-library" not in found
