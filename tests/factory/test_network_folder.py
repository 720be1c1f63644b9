"""Network folders are read back, and pictures that do not fit are refused."""

import json

import numpy as np
import pytest

from brickyard.core.errors import ArtifactError, DataError
from brickyard.core.network import Network
from brickyard.factory.network_folder import DataChoice, JudgedFolder, save_network
from brickyard.factory.twin import load_network
from brickyard.networks import build


def test_weights_and_pictures_come_back(supernet):
    folder = JudgedFolder.open_with(supernet, None)
    assert folder.torch_network.builder == "ofa_mobile_pico"
    again = load_network(supernet).state_dict()
    assert all((value == again[name]).all() for name, value in folder.torch_network.state_dict().items())
    assert len(folder.calibration) == 256
    assert folder.heldout is not None
    assert folder.vocabulary.kind == "classes"
    assert folder.quality == {"tasks": {}, "limits": []}


def test_named_data_take_the_place_of_the_folders(supernet, pico):
    own = JudgedFolder.open_with(supernet, None)
    other = JudgedFolder.open_with(supernet, DataChoice(data="digits", seed=3))
    assert own.heldout is not None
    assert other.heldout is not None
    assert not np.array_equal(own.heldout.images[:50], other.heldout.images[:50])
    assert other.preprocess == own.preprocess
    scenes = JudgedFolder.open_with(
        pico, DataChoice(data="geometry:shapes=circle+square,colors=red+green+blue,noise=0.3")
    )
    assert scenes.heldout is None
    assert scenes.geometry is not None
    assert scenes.geometry.noise == 0.3


def test_pictures_that_do_not_fit_are_refused(supernet, pico, tmp_path):
    with pytest.raises(DataError, match=r"knows .*circle.*; the data have|the head of .* knows"):
        JudgedFolder.open_with(pico, DataChoice(data="geometry:shapes=ring+square,colors=red+green+blue"))
    large = build("ofa_mobile_pico", num_outputs=10, image_size=32)
    with pytest.raises(DataError, match=r"knows 10 classes, the data have .* properties"):
        JudgedFolder.open_with(save_network(large, tmp_path / "large"), DataChoice(data="geometry"))
    bare = save_network(build("ofa_mobile_pico", num_outputs=10), tmp_path / "bare")
    with pytest.raises(DataError, match="holds no pictures with labels; name some with --data"):
        JudgedFolder.open_with(bare, None)
    with pytest.raises(DataError, match=r"inputs of .* are"):
        JudgedFolder.open_with(bare, DataChoice(data="digits"))


def test_only_what_can_be_read_back_is_written(tmp_path, supernet):
    network = load_network(supernet)
    with pytest.raises(ArtifactError, match="is no registered one"):
        save_network(Network(network.root, input_shape=(1, 16, 16)), tmp_path / "own")
    with pytest.raises(ArtifactError, match="already exists"):
        save_network(network, supernet)
    assert json.loads((supernet / "manifest.json").read_text())["kind"] == "network"
