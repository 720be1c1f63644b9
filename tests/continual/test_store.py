"""A folder grows by whole tasks, gives back what went in, and survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from brickyard.continual import Learner, TaskFolder, masked
from brickyard.continual.store import FirstTask
from brickyard.core.errors import ArtifactError
from brickyard.core.files import sha256
from brickyard.export import export_plain


def cnn(**arguments):
    """A network of tasks with normalisation, of pictures of 8 x 8."""
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 3),
    )
    with torch.no_grad():
        for parameter in module.parameters():  # the same whenever it is made
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).reshape(parameter.shape))
    return masked(module, input_shape=(1, 8, 8), density=0.3, **arguments)


def pictures(number: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(number)
    return TensorDataset(
        torch.randn(48, 1, 8, 8, generator=generator), torch.randint(0, 3, (48,), generator=generator)
    )


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256(path) for path in files}


X = pictures(100).tensors[0]


@pytest.mark.parametrize("heads", ["shared", "own"])
@pytest.mark.parametrize("arm", ["exssnet", "ssnet", "supsup"])
def test_what_is_loaded_computes_and_goes_on_as_what_was_written(tmp_path, arm, heads, quick):
    settings = quick(arm=arm, mask_epochs=1, **({} if arm == "supsup" else {"weight_epochs": 1}))
    network = cnn(heads=heads)
    learner = Learner(network, settings=settings, folder=TaskFolder.create(tmp_path / "tasks", network))
    for number in range(3):
        learner.learn(f"task {number}", pictures(number), num_classes=3)
    again = cnn(heads=heads, seed=9)
    drawn = torch.get_rng_state()
    TaskFolder(tmp_path / "tasks").load_(again)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert again.records == network.records
    for name in network.tasks.values:
        assert torch.equal(again.scores(name, X), network.scores(name, X))
    states = []
    for each in (network, again):
        Learner(each, settings=settings).learn("next", pictures(7), num_classes=3)
        states.append(each.network.state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_an_earlier_task_s_files_are_never_written_again(tmp_path, quick):
    network = cnn()
    folder = TaskFolder.create(tmp_path / "tasks", network)
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1), folder=folder)
    learner.learn("first", pictures(0), num_classes=3)
    before = hashes(folder.path)
    learner.learn("second", pictures(1), num_classes=3)
    after = hashes(folder.path)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3
    assert [record.name for record in folder.records()] == ["first", "second"]


def test_a_folder_may_be_made_of_a_network_that_has_tasks(tmp_path, quick):
    network = cnn()
    Learner(network, settings=quick(mask_epochs=1, weight_epochs=1)).learn("a", pictures(0), num_classes=3)
    TaskFolder.create(tmp_path / "tasks", network)
    again = cnn()
    TaskFolder(tmp_path / "tasks").load_(again)
    assert torch.equal(again.scores("a", X), network.scores("a", X))


def test_masks_take_hardly_more_than_their_entropy(tmp_path, quick):
    network = masked(
        nn.Sequential(nn.Linear(200, 300, bias=False), nn.Linear(300, 10)), input_shape=(200,), density=0.05
    )
    data = TensorDataset(torch.randn(64, 200), torch.randint(0, 10, (64,)))
    settings = quick(mask_epochs=1, weight_epochs=1)
    learner = Learner(network, settings=settings, folder=TaskFolder.create(tmp_path / "tasks", network))
    for name in ("first", "second"):
        learner.learn(name, data, num_classes=10)
    first, second = learner.folder.stored()
    assert first.entropy == pytest.approx(0.2864, abs=1e-4)
    assert 1 < first.mask_bits / first.entropy < 1.05
    assert first.trained_bytes == 4 * network.num_kept
    assert second.trained_bytes == pytest.approx(4 * network.num_kept * second.record.free_share)
    assert first.own_bytes == 4 * 10


def test_every_task_exports_to_onnx(tmp_path, quick):
    network = cnn(heads="own")
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1))
    for number, classes in enumerate((3, 5)):
        learner.learn(f"task {number}", pictures(number), num_classes=classes)
    for name, classes in (("task 0", 3), ("task 1", 5)):
        path = tmp_path / f"{name}.onnx"
        export_plain(network.extract(name), (1, 8, 8), path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"image": X[:1].numpy()})
        assert found.shape == (1, classes)
        assert np.abs(found - network.scores(name, X[:1]).numpy()).max() < 1e-4


LEARN = """
import os
import signal
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("made", {here!r})
made = module_from_spec(spec)
spec.loader.exec_module(made)
from brickyard.continual import Learner, LearnSettings, TaskFolder

network = made.cnn()
folder = TaskFolder({folder!r})
folder.load_(network)
settings = LearnSettings(**{settings})
learner = Learner(network, settings=settings, folder=folder)
renames, replace = 0, os.replace


def replace_or_die(source, target):
    global renames
    renames += 1
    if renames == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)


os.replace = replace_or_die
for number in range(len(network.records), 10**6):
    learner.learn(f"task {{number}}", made.pictures(number), num_classes=3)
"""


# A task takes four renames: its masks, its tensors, its manifest, its folder. 0: killed at some moment.
@pytest.mark.parametrize("kill_at", [0, 9, 12])
def test_a_killed_process_leaves_earlier_tasks_bit_identical(tmp_path, kill_at, quick):
    network = cnn()
    folder = TaskFolder.create(tmp_path / "tasks", network)
    settings = quick(mask_epochs=1, weight_epochs=1, batch_size=16)
    Learner(network, settings=settings, folder=folder).learn("task 0", pictures(0), num_classes=3)
    before = hashes(folder.path)
    script = LEARN.format(
        here=__file__, folder=str(folder.path), kill_at=kill_at, settings=settings.to_json()
    )
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(folder) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    if not kill_at:
        process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    after = hashes(folder.path)
    assert {name: after.get(name) for name in before} == before
    records = folder.records()
    assert len(records) == 3 if kill_at else len(records) >= 3
    again = cnn()
    folder.load_(again)
    for number in range(1, len(records)):  # what was not killed gives the same network
        Learner(network, settings=settings).learn(f"task {number}", pictures(number), num_classes=3)
    for record in records:
        assert torch.equal(again.scores(record.name, X), network.scores(record.name, X))


def test_what_a_killed_process_left_is_passed_over_and_swept(tmp_path, quick):
    network = cnn()
    folder = TaskFolder.create(tmp_path / "tasks", network)
    left = folder.path / "tasks" / ".0000.abcd1234.part"
    left.mkdir()
    (left / "masks.bin").write_bytes(b"half")
    assert len(folder) == 0
    settings = quick(mask_epochs=1, weight_epochs=1)
    Learner(network, settings=settings, folder=folder).learn("first", pictures(0), num_classes=3)
    assert not left.exists()
    assert len(folder) == 1


@pytest.fixture
def two_tasks(tmp_path, quick) -> TaskFolder:
    """A folder with two tasks."""
    network = cnn()
    folder = TaskFolder.create(tmp_path / "tasks", network)
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1), folder=folder)
    for number in range(2):
        learner.learn(f"task {number}", pictures(number), num_classes=3)
    return folder


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "tasks/0001/masks.bin", "tasks/0000/task.safetensors"]
)
def test_an_altered_file_is_refused_and_nothing_is_loaded(two_tasks, name):
    path = two_tasks.path / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    network = cnn()
    state = {name: tensor.clone() for name, tensor in network.network.state_dict().items()}
    with pytest.raises(ArtifactError, match="differs from the hash"):
        two_tasks.load_(network)
    assert network.tasks.values == ()
    assert all(torch.equal(network.network.state_dict()[name], tensor) for name, tensor in state.items())


def test_tasks_of_another_history_are_refused(two_tasks):
    manifest = two_tasks.path / "tasks" / "0000" / "manifest.json"
    record = json.loads(manifest.read_text())
    record["task"]["name"] = "another"
    manifest.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="does not follow on"):
        two_tasks.records()


def test_other_networks_versions_and_tasks_are_refused(two_tasks, quick, tmp_path):
    other = masked(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), input_shape=(1, 8, 8))
    with pytest.raises(ArtifactError, match="is of another network, head: the folder has 6, the network 1"):
        two_tasks.load_(other)
    denser = cnn()
    denser.layers["0"].keep += 1
    with pytest.raises(ArtifactError, match=r"layers: the folder has 0 \[72, 22\], the network 0 \[72, 23\]"):
        two_tasks.load_(denser)
    with pytest.raises(ArtifactError, match=r"has the tasks \['task 0', 'task 1'\], the network \[\]"):
        Learner(cnn(), settings=quick(), folder=two_tasks)
    network = cnn()
    two_tasks.load_(network)
    with pytest.raises(ArtifactError, match="the network has 2 tasks; load"):
        two_tasks.load_(network)
    with pytest.raises(ArtifactError, match="already exists"):
        TaskFolder.create(two_tasks.path, network)
    manifest = two_tasks.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ArtifactError, match="has format version 2; this brickyard reads 1"):
        TaskFolder(two_tasks.path)
    with pytest.raises(ArtifactError, match="is not a folder"):
        TaskFolder(tmp_path / "nothing")


def test_all_files_can_be_read_by_others(two_tasks):
    files = [path for path in two_tasks.path.rglob("*") if path.is_file()]
    assert len(files) == 8
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_a_gap_in_the_numbers_is_refused_and_nothing_is_touched(two_tasks, quick):
    network = cnn()
    two_tasks.load_(network)
    away = two_tasks.path.parent / "away"
    two_tasks.place(0).rename(away)
    before, state = hashes(two_tasks.path), clones(network)
    for refused in (
        lambda: len(two_tasks),
        two_tasks.records,
        two_tasks.stored,
        lambda: two_tasks.load_(cnn()),
        lambda: two_tasks.append(network),
        lambda: Learner(network, settings=quick(), folder=two_tasks),
        lambda: TaskFolder(two_tasks.path),
    ):
        with pytest.raises(
            ArtifactError, match=r"0000 is missing or no folder.*goes up to 0001.*put it back"
        ):
            refused()
    assert hashes(two_tasks.path) == before
    assert same(clones(network), state)
    away.rename(two_tasks.place(0))
    assert len(two_tasks) == 2
    two_tasks.place(1).rename(two_tasks.path / "tasks" / "2")
    with pytest.raises(ArtifactError, match="0001 is missing or no folder"):
        len(two_tasks)


def clones(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.network.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(second[name], first[name]) for name in first)


def test_a_network_of_another_pool_is_refused(tmp_path, quick):
    folder = TaskFolder.create(tmp_path / "tasks", cnn(seed=0))
    settings = quick(arm="supsup", mask_epochs=1)
    with pytest.raises(ArtifactError, match=r"another network: what all tasks share, 0.pool, differs; load"):
        Learner(cnn(seed=5), settings=settings, folder=folder)
    ahead = cnn(seed=5)
    Learner(ahead, settings=quick(mask_epochs=1, weight_epochs=1)).learn("a", pictures(0), num_classes=3)
    with pytest.raises(ArtifactError, match=r"0\.pool, differs"):
        folder.append(ahead)
    assert len(folder) == 0


@pytest.mark.parametrize("arm", ["exssnet", "supsup"])
def test_a_network_of_another_history_is_refused(tmp_path, arm, quick):
    settings = quick(arm=arm, mask_epochs=1, weight_epochs=1)
    network, other = cnn(), cnn()
    folder = TaskFolder.create(tmp_path / "tasks", network)
    Learner(network, settings=settings, folder=folder).learn("t0", pictures(0), num_classes=3)
    learner = Learner(other, settings=settings)
    learner.learn("t0", pictures(8), num_classes=3)
    learner.learn("t1", pictures(1), num_classes=3)
    assert other.records[0] == network.records[0]
    before = hashes(folder.path)
    with pytest.raises(ArtifactError, match="another network: the mask of task 't0', 3, differs; load"):
        folder.append(other)
    assert hashes(folder.path) == before


def test_a_network_with_other_biases_is_refused_and_one_with_the_same_of_all_goes_on(two_tasks, quick):
    network = cnn()
    two_tasks.load_(network)
    settings = quick(mask_epochs=1, weight_epochs=1)
    learner = Learner(network, settings=settings)  # learned apart from the folder, then written to it
    learner.learn("task 2", pictures(2), num_classes=3)
    Learner(network, settings=settings, folder=TaskFolder(two_tasks.path))
    assert [record.name for record in two_tasks.records()] == ["task 0", "task 1", "task 2"]
    again = cnn()
    two_tasks.load_(again)
    assert torch.equal(again.scores("task 2", X), network.scores("task 2", X))
    again.layers["3"].biases[1].data += 1
    with pytest.raises(ArtifactError, match=r"what task 'task 1' has of its own, own\.3\.bias, differs"):
        TaskFolder(two_tasks.path).append(again)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("arm", ["exssnet", "ssnet", "supsup"])
def test_a_write_that_fails_leaves_the_network_and_the_same_call_goes_on(tmp_path, arm, error, quick):
    settings = quick(arm=arm, mask_epochs=1, weight_epochs=1)
    straight, network, fails = cnn(), cnn(), []

    def beside(place: Path) -> None:
        if fails:
            raise fails.pop()

    folder = TaskFolder.create(tmp_path / "tasks", network)
    learner = Learner(network, settings=settings, folder=folder, beside=beside)
    learner.learn("task 0", pictures(0), num_classes=3)
    before, files = clones(network), hashes(folder.path)
    taken = {path: layer.taken.clone() for path, layer in network.layers.items()}
    fails.append(error())
    keep = {"checkpoint": tmp_path / "checkpoint"}
    with pytest.raises(error):
        learner.learn("task 1", pictures(1), num_classes=3, **keep)
    assert same(clones(network), before)
    assert hashes(folder.path) == files
    assert all(torch.equal(layer.taken, taken[path]) for path, layer in network.layers.items())
    assert (network.tasks.values, len(network.records)) == (("task 0",), 1)
    learner.learn("task 1", pictures(1), num_classes=3, **keep)
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]
    for number in range(2):
        Learner(straight, settings=settings).learn(f"task {number}", pictures(number), num_classes=3)
    assert same(clones(network), clones(straight))
    again = cnn()
    folder.load_(again)
    assert all(torch.equal(again.scores(f"task {n}", X), straight.scores(f"task {n}", X)) for n in range(2))


def test_an_interrupt_behind_the_write_lets_the_same_call_go_on(tmp_path, quick, monkeypatch):
    network = cnn()
    folder = TaskFolder.create(tmp_path / "tasks", network)
    learner = Learner(network, settings=quick(mask_epochs=1, weight_epochs=1), folder=folder)

    def interrupt(place: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("brickyard.continual.store.sweep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            learner.learn("task 0", pictures(0), num_classes=3)
    assert network.records == []
    assert len(folder) == 1
    learner.learn("task 0", pictures(0), num_classes=3)
    learner.learn("task 1", pictures(1), num_classes=3)
    again = cnn()
    folder.load_(again)
    assert torch.equal(again.scores("task 0", X), network.scores("task 0", X))


def test_a_folder_may_appear_with_the_first_task(tmp_path, quick):
    network, path = cnn(), tmp_path / "tasks"
    left = tmp_path / ".tasks.abcd1234.part"
    left.mkdir()
    settings = quick(mask_epochs=1, weight_epochs=1)
    learner = Learner(network, settings=settings, folder=FirstTask(path, notes={"of": "a test"}))
    assert not path.exists()
    for number in range(2):
        learner.learn(f"task {number}", pictures(number), num_classes=3)
    assert [found.name for found in tmp_path.iterdir()] == ["tasks"]
    folder, again = TaskFolder(path), cnn()
    folder.load_(again)
    assert folder.notes == {"of": "a test"}
    assert all(torch.equal(again.scores(f"task {n}", X), network.scores(f"task {n}", X)) for n in range(2))
