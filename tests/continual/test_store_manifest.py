"""Damage to a folder of tasks is told before anything is loaded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brickyard.continual import Learner, TaskFolder
from brickyard.core.errors import ArtifactError
from brickyard.core.files import sha256

X = torch.zeros(3)


@pytest.fixture
def two_tasks(mlp, blobs, quick, tmp_path) -> TaskFolder:
    """A folder with two tasks."""
    network = mlp()
    folder = TaskFolder.create(tmp_path / "tasks", network)
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1), folder=folder)
    for number in range(2):
        learner.learn(f"task {number}", blobs(number), num_classes=4)
    return folder


@pytest.fixture
def assert_refused(mlp):
    """Loads a folder, which must be refused and leave the network as it was."""

    def check(path: Path, message: str) -> None:
        network = mlp()
        state = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
        value = network.tasks.value
        with pytest.raises(ArtifactError, match=message):
            TaskFolder(path).load_(network)
        assert (network.tasks.values, network.tasks.value, network.records) == ((), value, [])
        assert list(network.network.state_dict()) == list(state)
        assert all(torch.equal(network.network.state_dict()[name], state[name]) for name in state)
        assert not any(bool(layer.taken.any()) for layer in network.layers.values())

    return check


def without(name):
    return lambda record: record.pop(name)


def told(**values):
    return lambda record: record["task"].update(values)


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("", without("structure"), "has the fields notes; expected structure, notes; copy"),
        ("", lambda record: record.update(more=1), "has the fields more, notes, structure; expected"),
        ("", lambda record: record.update(structure=3), "the structure or the notes in .* are damaged"),
        ("", lambda record: record["structure"].pop("layers"), "are damaged; expected head, tensors and lay"),
        ("", lambda record: record["structure"]["layers"].update({"0": [2]}), "are damaged"),
        ("", lambda record: record.update(notes=[1]), "the structure or the notes in"),
        ("", lambda record: record["sha256"].clear(), "has no hash of weights.safetensors"),
        ("tasks/0001", without("task"), "has the fields previous; expected task, previous"),
        ("tasks/0001", without("previous"), "has the fields task; expected task, previous"),
        (
            "tasks/0001",
            lambda record: record.update(task="x"),
            "tells of the task 'x'; expected name, num_cl",
        ),
        ("tasks/0001", lambda record: record["task"].pop("arm"), "tells of the task .*; expected name"),
        ("tasks/0001", told(surplus=1), "tells of the task .*'surplus': 1.*; expected name"),
        ("tasks/0001", told(name=""), "tells name = '' of the task"),
        ("tasks/0001", told(num_classes=2.0), "tells num_classes = 2.0 of the task"),
        ("tasks/0001", told(num_classes=0), "tells num_classes = 0 of the task"),
        ("tasks/0001", told(num_classes=9), "does not fit task 'task 1': 9 classes are more than the 4 of"),
        ("tasks/0001", told(arm=["exssnet"]), r"tells arm = \['exssnet'\] of the task"),
        ("tasks/0001", told(free_share=float("nan")), "tells free_share = nan of the task"),
        ("tasks/0001", told(arm="supsup"), "has not the weights that arm supsup trains under these masks"),
        ("tasks/0001", told(arm="ssnet"), "has not the weights that arm ssnet trains under these masks"),
        ("tasks/0001", told(name="task 0"), "0001 is a second task 'task 0'"),
        ("tasks/0001", lambda record: record["sha256"].pop("masks.bin"), "has no hash of masks.bin"),
        ("tasks/0001", lambda record: record["sha256"].pop("task.safetensors"), "no hash of task.safetens"),
    ],
)
def test_a_damaged_manifest_is_refused_and_nothing_is_loaded(
    two_tasks, assert_refused, where, change, message
):
    manifest = two_tasks.path / where / "manifest.json"
    record = json.loads(manifest.read_text())
    change(record)
    manifest.write_text(json.dumps(record))
    assert_refused(two_tasks.path, message)


def rehashed(folder: Path, name: str) -> None:
    manifest = folder / "manifest.json"
    record = json.loads(manifest.read_text())
    record["sha256"][name] = sha256(folder / name)
    manifest.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("own.4.bias"), "does not fit task 'task 1': expected a bias of shape"),
        (
            lambda tensors: tensors.update({"own.9.x": X}),
            "does not fit task 'task 1': no part of the network",
        ),
        (lambda tensors: tensors.update({"own.0.bias": X}), "no part of the network has own.0.bias"),
        (lambda tensors: tensors.pop("trained.0"), "has not the weights that arm exssnet trains"),
        (lambda tensors: tensors.update({"trained.0": X}), "has not the weights that arm exssnet trains"),
    ],
)
def test_other_tensors_with_the_right_hash_are_refused(two_tasks, assert_refused, change, message):
    file = two_tasks.place(1) / "task.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    rehashed(file.parent, file.name)
    assert_refused(two_tasks.path, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [("task.safetensors", "cannot be read as safetensors"), ("masks.bin", "masks.bin: 4 bytes are no code")],
)
def test_unreadable_files_with_the_right_hash_are_refused(two_tasks, assert_refused, name, message):
    (two_tasks.place(1) / name).write_bytes(b"half")
    rehashed(two_tasks.place(1), name)
    assert_refused(two_tasks.path, message)
