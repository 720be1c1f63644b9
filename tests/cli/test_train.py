"""`brickyard train`: a factory from data; a killed run ends like one that was left alone."""

import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from brickyard.cli.train import train
from brickyard.factory.build import BuildSettings
from brickyard.train.joint import TrainSettings

DIGITS = [
    *("train", "--data", "digits", "--classes", "--network", "residual_cnn_pico", "--batch-size", "16"),
    *("--backbone-steps", "10", "--steps", "60", "--checkpoint-every", "5", "--lowest-limit", "0.4"),
]
FILES = ("model.safetensors", "assembler.safetensors")


def hashes(folder):
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


@pytest.fixture(scope="module")
def digits(run, tmp_path_factory):
    """A factory of digits whose training nothing disturbed."""
    out = tmp_path_factory.mktemp("digits") / "factory"
    done = run(*DIGITS, "--out", out)
    assert done.exit_code == 0, done.output
    assert "joint 60/60" in done.stderr
    assert str(out / "training" / "report.html") in done.stdout
    return out


def test_killed_run_goes_on_bit_exactly(digits, tmp_path):
    out = tmp_path / "factory"
    command = [sys.executable, "-m", "brickyard", *DIGITS, "--out", str(out)]
    checkpoint = tmp_path / "factory.training" / "checkpoint.safetensors"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backbone 10/10" not in done.stderr
    assert hashes(out) == hashes(digits)
    assert not checkpoint.parent.exists()


def test_class_factory_makes_and_evaluates(run, digits, tmp_path):
    made = run("make", digits, "--task", "7, 3", "--max-macs", "60%", "--out", tmp_path / "m", "--json")
    assert made.exit_code == 0, made.output
    assert (tmp_path / "m" / "labels.txt").read_text() == "3\n7\n"
    done = run("evaluate", tmp_path / "m", "--data", "digits", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["metric"] == "accuracy"
    assert set(answer["per_class"]) == {"3", "7"}
    assert "is about classes" in run("evaluate", tmp_path / "m", "--data", "geometry:size=32").stderr


def test_class_model_on_a_folder_of_class_folders(run, digits, tmp_path, rng):
    assert run("make", digits, "--task", "3, 7", "--out", tmp_path / "m").exit_code == 0
    for name in ("7", "3", "cat"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(3):
            picture = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            picture.save(tmp_path / "scans" / name / f"{number}.png")
    done = run("evaluate", tmp_path / "m", "--data", tmp_path / "scans", "--part", "all", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["counts"] == {"3": 3, "7": 3}
    assert answer["source"] == "all of 9"


def test_interrupt_tells_how_to_go_on(run, tmp_path, monkeypatch):
    def interrupt(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("brickyard.factory.build.train_factory", interrupt)
    done = run(*DIGITS, "--out", tmp_path / "factory")
    assert done.exit_code == 130
    assert "give the same command again to go on" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--network", "residual_cnn_pic"), "residual_cnn_pico"),
        (("--attributes", "color"), "either properties or classes"),
        (("--data", "geometry:train=9,heldout=9"), "has properties"),
        (("--assembler", "adative"), "known: additive"),
        (("--learning-rate", "0"), "learning_rate"),
        (("--data", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_mistakes_are_told_before_training(run, tmp_path, arguments, message):
    done = run(*DIGITS, "--out", tmp_path / "factory", *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_left_alone(run, tmp_path):
    done = run(*DIGITS, "--out", tmp_path)
    assert done.exit_code == 1
    assert "already exists" in done.stderr


def test_defaults_are_those_of_the_records():
    known = {
        field.name: field.default for record in (BuildSettings, TrainSettings) for field in fields(record)
    }
    options = inspect.signature(train).parameters
    shared = (set(known) & set(options)) - {"network"}
    assert len(shared) >= 15
    assert {name: options[name].default for name in shared} == {name: known[name] for name in shared}
