"""`brickyard modularize`: a trained network of the user's own becomes a factory that makes models."""

import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from brickyard.core.errors import ArtifactError
from brickyard.factory import Factory
from brickyard.factory.twin import load_model
from brickyard.modularize import modularize_cnn
from brickyard.modularize.source import load_cnn

CODE = """
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))
"""
SHORT = ("--backbone-steps", "4", "--steps", "4", "--batch-size", "16", "--lowest-limit", "0.6")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Code and weights; the arguments that name them."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "net.py").write_text(CODE)
    scope: dict = {}
    exec(CODE, scope)
    torch.manual_seed(2)
    save_file(scope["Net"]().state_dict(), folder / "net.safetensors")
    return folder


def command(network, *more):
    return ("modularize", "cnn", f"{network / 'net.py'}:Net", "--weights", network / "net.safetensors", *more)


@pytest.fixture(scope="module")
def factory(run, network, tmp_path_factory):
    out = tmp_path_factory.mktemp("factory") / "own"
    done = run(*command(network, "--data", "digits", *SHORT, "--out", out))
    assert done.exit_code == 0, done.output
    assert re.search(r"conv1: 4 x 4 channels, cuts \d layers", done.stdout)
    assert "stem, conv2: 8 channels; 2 layers make the same channels" in done.stdout
    return out


def test_the_factory_makes_models_of_its_own_network(run, factory, network, tmp_path):
    out = tmp_path / "model"
    done = run("make", factory, "--task", "3, 7", "--max-macs", "70%", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["macs_share"] <= 0.7
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
    scores = session.run(None, {"image": picture})[0]
    assert scores.shape == (1, 2)
    with pytest.raises(ArtifactError, match=r"no registered one.*hand it in as `network`"):
        load_model(out)
    dense = load_cnn(f"{network / 'net.py'}:Net", weights=network / "net.safetensors")
    twin = load_model(out, network=modularize_cnn(dense.module, input_shape=(1, 16, 16)).network)
    with torch.no_grad():
        np.testing.assert_allclose(twin(torch.from_numpy(picture)).numpy(), scores, atol=1e-5)


def test_without_a_task_the_model_knows_all_classes(run, factory, tmp_path):
    out = tmp_path / "model"
    done = run("make", factory, "--max-macs", "70%", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["macs_share"] <= 0.7
    assert (out / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]


def test_the_factory_keeps_no_code_and_no_builder(factory):
    folder = Factory.load(factory).folder
    assert folder.network["builder"] == ""
    assert not list(factory.rglob("*.py"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "geometry:train=8,heldout=4"), "has properties"),
        (("--data", "digits", "--mean", "0.1,0.2"), "mean has 2 numbers, pictures 1 channels"),
        (("--data", "digits", "--std", "x"), "is not numbers"),
    ],
)
def test_data_that_do_not_fit_are_refused_and_nothing_is_written(run, network, tmp_path, more, message):
    out = tmp_path / "factory"
    done = run(*command(network, *more, "--out", out))
    assert done.exit_code == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
