"""A task whose learning was stopped goes on to the same bits, or is told why it cannot."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from brickyard.continual import Learner, masked
from brickyard.core.checkpoint import Checkpoint
from brickyard.core.errors import TrainError


class Stopped(Exception):
    """The process ends here."""


def net():
    """A network in which all that training changes occurs: normalisation, dropout, biases, a head."""
    torch.manual_seed(0)
    layers = (nn.Linear(16, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 4))
    return masked(nn.Sequential(*layers), input_shape=(16,), density=0.3, heads="own")


def stop_at(step):
    def progress(done, steps, loss):
        if done == step:
            raise Stopped

    return progress


def learned(blobs, settings, **options):
    """Learn two tasks, the second with the options."""
    network = net()
    learner = Learner(network, settings=settings)
    learner.learn("first", blobs(0), num_classes=4)
    result = learner.learn("second", blobs(1), num_classes=4, **options)
    return network, result


@pytest.mark.parametrize(
    ("arm", "step", "more"),
    [
        ("exssnet", 3, {}),
        ("exssnet", 20, {}),
        ("exssnet", 60, {}),
        ("exssnet", 20, {"joint": True}),
        ("exssnet", 60, {"joint": True}),
        ("exssnet", 20, {"joint": True, "own_rate": 2e-2}),
        ("exssnet", 60, {"own_rate": 2e-2}),
        ("exssnet", 20, {"joint": True, "weight_epochs": 0}),
        ("ssnet", 20, {"joint": True}),
        ("ssnet", 70, {}),
        ("supsup", 30, {}),
    ],
)
def test_what_was_stopped_ends_with_the_same_bits(arm, step, more, blobs, quick, tmp_path):
    settings = quick(arm=arm, transfer="best", **more)
    whole, straight = learned(blobs, settings)
    file = tmp_path / "deep" / "task.learning"
    with pytest.raises(Stopped):
        learned(blobs, settings, checkpoint=file, progress=stop_at(step))
    assert file.is_file() == (step > 8)  # epochs have 8 steps
    steps = []
    again, resumed = learned(
        blobs, settings, checkpoint=file, progress=lambda done, all_steps, loss: steps.append(done)
    )
    assert steps[0] == 1 + (step - 1) // 8 * 8
    state = again.network.state_dict()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert (resumed.losses, resumed.suited) == (straight.losses, straight.suited)
    assert not file.exists()


def test_a_checkpoint_of_another_run_is_refused(blobs, quick, tmp_path):
    file = tmp_path / "task.learning"
    with pytest.raises(Stopped):
        learned(blobs, quick(), checkpoint=file, progress=stop_at(20))
    network = net()
    learner = Learner(network, settings=quick())
    learner.learn("first", blobs(0), num_classes=4)
    for name, examples, message in [
        ("third", blobs(1), "task: it has second, this run third"),
        ("second", blobs(2), "content: it has"),
        ("second", TensorDataset(*(part[:200] for part in blobs(1).tensors)), "examples: it has 256"),
    ]:
        with pytest.raises(TrainError, match=message):
            learner.learn(name, examples, num_classes=4, checkpoint=file)
    learner.settings = quick(seed=1)
    with pytest.raises(TrainError, match="seed: it has 0, this run 1"):
        learner.learn("second", blobs(1), num_classes=4, checkpoint=file)
    assert network.tasks.values == ("first",)


def test_weights_in_the_form_of_another_version_are_refused(blobs, quick, tmp_path):
    file = tmp_path / "task.learning"
    with pytest.raises(Stopped):
        learned(blobs, quick(), checkpoint=file, progress=stop_at(70))
    with safe_open(file, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        metadata = stream.metadata()
    name = next(name for name in tensors if name.startswith("trained."))
    tensors[name] = tensors[name].reshape(-1)[:-1].clone()
    save_file(tensors, file, metadata=metadata)
    content = file.read_bytes()
    with pytest.raises(TrainError, match=r"trained weights of .*; another version wrote it: remove it"):
        learned(blobs, quick(), checkpoint=file)
    assert file.read_bytes() == content


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    file = tmp_path / "task.learning"
    assert Checkpoint(file, {}, work="a task").load() is None
    file.write_bytes(b"nothing of that kind")
    with pytest.raises(TrainError, match="no checkpoint of a task"):
        Checkpoint(file, {}, work="a task").load()
