"""A factory learns a task: what it has stays as it is, what is refused is refused before anything changes."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from brickyard.continual import LearnSettings, TaskFolder
from brickyard.core.errors import ArtifactError, ConfigError, DataError, DeviceError, TaskError
from brickyard.factory import Factory
from brickyard.factory.capacity import capacity_of
from brickyard.factory.folder import FactoryFolder
from brickyard.factory.learn import TaskSettings, check_task, learn_task, load_new_task, task_network
from brickyard.factory.twin import load_model

QUICK = TaskSettings(learn=LearnSettings(mask_epochs=1, weight_epochs=1, batch_size=32, weight_rate=3e-3))


def hashes(folder: Path, *, without: str = "") -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and (not without or without not in file.parts)
    }


def quiet(stage, done, total, text):
    """Take no notice of progress."""


def load(factory, stripes):
    return load_new_task(factory, str(stripes), heldout_share=0.2, seed=0)


def test_the_factory_itself_is_not_touched_and_makes_the_same_models(pico, taught, tmp_path):
    assert hashes(taught, without="learned") == hashes(pico)
    made = []
    for number, folder in enumerate((pico, taught)):
        report = Factory.load(folder).make(
            task="red circle", budget={"max_macs": "60%"}, out=tmp_path / str(number)
        )
        made.append((report.sha256, report.config_sha256))
    assert made[0] == made[1]
    keys = [Factory.load(folder).request_key(task="blue") for folder in (pico, taught)]
    assert keys[0] == keys[1]


def test_an_earlier_task_is_made_again_bit_by_bit_after_a_later_one(taught, stripes, tmp_path):
    factory = tmp_path / "pico"
    shutil.copytree(taught, factory)
    before = hashes(factory / "learned")
    first = Factory.load(factory).make(task="stripes", out=tmp_path / "first")
    learn_task(factory, "third", load(factory, stripes), QUICK, progress=quiet)
    after = hashes(factory / "learned")
    assert {name: after[name] for name in before} == before
    again = Factory.load(factory).make(task="stripes", out=tmp_path / "again")
    assert again.sha256 == first.sha256
    assert list(Factory.load(factory).learned) == ["Stripes", "again", "third"]


def test_what_make_reads_is_what_the_masks_select(taught):
    store = TaskFolder(taught / "learned")
    network = task_network(taught, store.notes["density"])
    store.load_(network)
    images = FactoryFolder.open(taught).calibration.images[:8]
    inputs = torch.from_numpy(FactoryFolder.open(taught).preprocess.apply(images))
    for name, factory in Factory.load(taught).learned.items():
        modular = factory.network()
        with torch.no_grad():
            assert torch.allclose(modular(inputs), network.scores(name, inputs), atol=1e-5)
    assert not torch.equal(network.layers["stem.conv"].mask(0), network.layers["stem.conv"].mask(1))


def test_a_model_of_a_learned_task_is_like_any_other(taught, tmp_path):
    report = Factory.load(taught).make(
        task="Stripes: upright, across", budget={"max_macs": "80%"}, out=tmp_path / "model"
    )
    assert report.task == "across, upright"
    assert report.factory == "pico: Stripes"
    assert report.quality is not None
    assert report.macs_share <= 0.8
    assert (tmp_path / "model" / "labels.txt").read_text().split() == ["across", "upright"]
    twin = load_model(tmp_path / "model")
    assert twin(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_latency_of_a_learned_task_is_limited_by_a_profile_of_its_own(taught, board, tmp_path):
    factory = Factory.load(taught)
    task, out = "stripes: upright, across", tmp_path / "model"
    own_factory = r"another network; run `brickyard profile .*learned/tasks/0000/factory`"
    with pytest.raises(DeviceError, match=own_factory):
        factory.make(task=task, budget={"latency_ms": 8}, device=board(factory), out=out)
    assert not out.exists()
    own = factory.learned["Stripes"]
    profile = board(own)
    limit = 0.7 * profile.predict(own.folder.blueprint.space.largest())
    report = factory.make(task=task, budget={"latency_ms": limit}, device=profile, out=out)
    assert 0 < report.predicted.latency_ms <= limit
    assert report.macs_share < 1


def test_the_task_is_really_learned(taught):
    quality = Factory.load(taught).learned["Stripes"].folder.quality
    assert quality["tasks"]["across, plain grey, upright"]["quality"][-1] > 0.8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "task name '' is not allowed"),
        ("all", "task name 'all' is not allowed"),
        ("a: b", "is not allowed; give letters"),
        ("Red", "'Red' is a task in the factory's own words"),
        ("red circle", "is a task in the factory's own words"),
        ("stripes", "has a task 'Stripes' already"),
    ],
)
def test_names_that_are_taken_or_malformed_are_refused(name, message, taught):
    with pytest.raises(TaskError, match=message):
        check_task(FactoryFolder.open(taught), name, QUICK)


def test_what_does_not_fit_the_earlier_tasks_is_refused(taught, stripes, detector):
    source = load(taught, stripes)
    before = hashes(taught)
    with pytest.raises(ConfigError, match=r"density = 0.5 is not that of the earlier tasks, 0.3"):
        learn_task(taught, "new", source, replace(QUICK, density=0.5), progress=quiet)
    overlapping = replace(QUICK, learn=replace(QUICK.learn, arm="ssnet"))
    with pytest.raises(ConfigError, match="changes earlier tasks"):
        learn_task(taught, "new", source, overlapping, progress=quiet)
    with pytest.raises(ArtifactError, match="detects; tasks can be added to factories that classify"):
        check_task(FactoryFolder.open(detector), "new", QUICK)
    assert hashes(taught) == before


def test_data_that_do_not_fit_are_refused(pico, stripes):
    with pytest.raises(DataError, match="has properties; a new task has classes"):
        load_new_task(pico, "geometry:train=10,heldout=10", heldout_share=0.2, seed=0)
    with pytest.raises(DataError, match="16 x 16 and cannot be brought to 32 x 32"):
        load_new_task(pico, "digits", heldout_share=0.2, seed=0)


def test_grey_pictures_are_learned_by_a_network_of_colours(pico, stripes, tmp_path):
    from PIL import Image

    for file in stripes.rglob("*.png"):
        target = tmp_path / file.relative_to(stripes)
        target.parent.mkdir(exist_ok=True)
        Image.open(file).convert("L").save(target)
    assert load(pico, tmp_path).train.images.shape[1:] == (32, 32, 3)


def test_a_task_may_be_a_property_of_a_table(pico, stripes, tmp_path):
    rows = ["file,material"]
    for number, file in enumerate(sorted(stripes.rglob("*.png"))):
        rows.append(f"{file},{('wood', 'metal')[number % 2]}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    source = load_new_task(
        pico, str(tmp_path / "table.csv"), heldout_share=0.2, seed=0, label="material", image="file"
    )
    assert source.vocabulary.words == ("metal", "wood")


def test_a_run_that_was_killed_leaves_the_factory_and_goes_on_to_the_same_bits(pico, stripes, tmp_path):
    learn = replace(QUICK.learn, joint=True, mask_epochs=2, weight_epochs=6, batch_size=16, own_rate=1e-2)
    settings = replace(QUICK, learn=learn)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        shutil.copytree(pico, folder)
    source = load(straight, stripes)
    command = [sys.executable, "-m", "brickyard", "learn", str(killed), "--task", "new", "--data", stripes]
    command += ["--heldout-share", "0.2", "--mask-epochs", "2", "--weight-epochs", "6"]
    process = subprocess.Popen([*map(str, command), "--batch-size", "16"], stderr=subprocess.PIPE)
    file = tmp_path / "killed.learning"
    until = time.monotonic() + 60
    while not file.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert file.exists()
    assert hashes(killed) == hashes(pico)
    assert not (killed / "learned").exists()
    assert Factory.load(killed).learned == {}
    seen = {}
    for folder in (straight, killed):
        seen[folder] = []
        learn_task(
            folder,
            "new",
            source,
            settings,
            progress=lambda stage, done, total, text, steps=seen[folder]: steps.append((stage, done)),
        )
    assert len(seen[killed]) < len(seen[straight])
    assert not file.exists()
    places = [folder / "learned" / "tasks" / "0000" for folder in (straight, killed)]
    for name in ("masks.bin", "task.safetensors", "factory/whole.onnx"):
        assert places[0].joinpath(name).read_bytes() == places[1].joinpath(name).read_bytes(), name


def test_a_stop_leaves_the_factory_as_it_was_and_the_checkpoint_beside_it(
    pico, stripes, tmp_path, monkeypatch
):
    factory = shutil.copytree(pico, tmp_path / "mine")
    source, before = load(factory, stripes), hashes(factory)
    monkeypatch.chdir(factory)

    def stop(stage, done, total, text):
        if text.startswith("weights"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_task(Path(), "new", source, QUICK, progress=stop)
    assert hashes(factory) == before
    assert not (factory / "learned").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.learning"]

    def stop_late(stage, done, total, text):
        if stage == "test":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_task(Path(), "new", source, QUICK, progress=stop_late)
    assert hashes(factory) == before
    learn_task(Path(), "new", source, QUICK, progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert list(Factory.load(factory).learned) == ["new"]


def test_a_gap_among_the_tasks_is_told_and_nothing_is_deleted(taught, stripes, tmp_path):
    factory = shutil.copytree(taught, tmp_path / "mine")
    source = load(factory, stripes)
    (factory / "learned" / "tasks" / "0000").rename(tmp_path / "away")
    before = hashes(factory)
    gap = "0000 is missing or no folder, and .* goes up to 0001"
    with pytest.raises(ArtifactError, match=gap):
        learn_task(factory, "new", source, QUICK, progress=quiet)
    with pytest.raises(ArtifactError, match=gap):
        Factory.load(factory).make(task="red", out=tmp_path / "model")
    with pytest.raises(ArtifactError, match=gap):
        capacity_of(factory)
    assert hashes(factory) == before


def test_a_folder_without_tasks_is_gone_on_with_and_never_deleted(pico, stripes, tmp_path):
    factory = shutil.copytree(pico, tmp_path / "mine")
    source = load(factory, stripes)
    TaskFolder.create(factory / "learned", task_network(factory, 0.4), notes={"density": 0.4})
    with pytest.raises(
        ConfigError, match=r"density = 0.5 is not that .* or remove .*, which has no task yet"
    ):
        learn_task(factory, "new", source, replace(QUICK, density=0.5), progress=quiet)
    before = hashes(factory / "learned")
    learn_task(factory, "new", source, QUICK, progress=quiet)
    after = hashes(factory / "learned")
    assert {name: after[name] for name in before} == before
    assert capacity_of(factory).tasks[0].density == pytest.approx(0.4, abs=0.01)


def test_pictures_are_read_as_make_reads_them(pico, stripes):
    from brickyard.factory.learn import _Pictures

    source = load(pico, stripes)
    pictures = _Pictures(source.train, source.preprocess)
    inputs, labels = pictures[torch.tensor([2, 0])]
    assert np.array_equal(inputs.numpy(), source.preprocess.apply(source.train.images[[2, 0]]))
    assert labels.tolist() == source.train.classes[[2, 0]].tolist()
