"""The plain torch twin of a made model, and the modular network of a factory."""

import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from brickyard.core.brick import Brick
from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_json, write_manifest
from brickyard.factory.twin import load_model, load_network


def scores(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": inputs[i : i + 1]})[0] for i in range(len(inputs))])


@pytest.mark.parametrize(
    ("kind", "task", "share"),
    [
        ("factory", "red circle", "40%"),
        ("factory", "square", "100%"),
        ("digits", "3, 7", "50%"),
        ("digits", None, "70%"),
    ],
)
def test_the_twin_computes_what_the_file_computes(request, tmp_path, rng, kind, task, share):
    made = request.getfixturevalue(kind)
    out = tmp_path / "model"
    report = made.make(task=task, budget={"max_macs": share}, out=out)
    twin = load_model(out)
    assert not twin.training
    assert not any(isinstance(module, Brick) for module in twin.modules())
    inputs = rng.standard_normal((16, *made.folder.preprocess.shape)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.from_numpy(inputs)).numpy()
    found = scores(out / "model.onnx", inputs)
    assert np.abs(found - expected).max() <= 1e-4
    assert sum(value.numel() for value in twin.state_dict().values()) == report.parameters


def test_the_network_of_a_factory_computes_what_its_graph_computes(factory, rng):
    network = load_network(factory.folder.path)
    inputs = rng.standard_normal((4, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(inputs)).numpy()
    found = scores(factory.folder.path / "whole.onnx", inputs)
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    assert factory.network().builder == "residual_cnn_pico"


def test_altered_and_foreign_folders_are_refused(factory, digits, tmp_path):
    out, other = tmp_path / "model", tmp_path / "other"
    factory.make(task="red", budget={"max_macs": "50%"}, out=out)
    digits.make(task="3, 7", out=other)
    with pytest.raises(ArtifactError, match="expected a model folder"):
        load_model(factory.folder.path)
    shutil.copy(other / "model.safetensors", out / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.safetensors differs from the hash"):
        load_model(out)
    manifest = read_json(out / "manifest.json")
    write_manifest(out, format_version=1, kind="model", fields={"name": manifest["name"]})
    with pytest.raises(ArtifactError, match=r"model\.safetensors does not fit the network beside it"):
        load_model(out)
