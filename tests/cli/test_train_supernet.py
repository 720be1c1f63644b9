"""`brickyard train supernet`: every kind of data by the command; a killed run ends like one left alone."""

import hashlib
import inspect
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields

import pytest

from brickyard.cli.train_supernet import train_supernet
from brickyard.factory.supernet import load_trained
from brickyard.factory.supernet_build import SupernetBuild
from brickyard.train.supernet import SupernetSettings

QUICK = ("--steps", "4", "--batch-size", "8", "--random-configs", "1")
TEXTS = (*QUICK, "--vocab-size", "270", "--max-tokens", "10")


@pytest.fixture
def files(tmp_path):
    """Files of texts and translations."""
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"thing {i},{'ab'[i % 2]}\n" for i in range(40)))
    (tmp_path / "a.en").write_text("".join(f"one {i}\n" for i in range(40)))
    (tmp_path / "a.de").write_text("".join(f"eins {i}\n" for i in range(40)))
    return tmp_path


def test_texts_with_classes(run, files):
    out = files / "out"
    done = run("train", "supernet", "text_encoder_pico", "--data", files / "t.csv", *TEXTS, "--out", out)
    assert done.exit_code == 0, done.output
    assert "train 4/4" in done.stderr
    assert done.stdout.splitlines() == [f"supernet   {out}", f"report     {out / 'training' / 'curves.png'}"]
    assert load_trained(out).metric == "accuracy"


def test_translations(run, files):
    out = files / "out"
    arguments = ("--data", files / "a.en", "--translations", files / "a.de", "--heldout-share", "0.2")
    done = run("train", "supernet", "translation_pico", *arguments, *TEXTS, "--out", out)
    assert done.exit_code == 0, done.output
    assert "test 8/8 random: bleu" in done.stderr
    assert len(load_trained(out).heldout) == 8


def test_a_killed_run_goes_on_bit_exactly(run, tmp_path):
    def command(out: str) -> list[str]:
        words = ["train", "supernet", "ofa_mobile_pico", "--data", "digits", "--out", str(tmp_path / out)]
        return [*words, *QUICK[2:], "--steps", "30", "--checkpoint-every", "3"]

    assert run(*command("one")).exit_code == 0
    checkpoint = tmp_path / "two.training" / "supernet.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "brickyard", *command("two")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "two").exists()
    assert run(*command("two")).exit_code == 0
    one, two = (
        hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest()
        for name in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ofa_mobile_pic", "--data", "digits"), "ofa_mobile_pico"),
        (("ofa_mobile_pico", "--data", "nowhere.csv"), "nowhere.csv"),
        (("ofa_mobile_pico", "--data", "digits", "--source", "x"), "--source is not for ofa_mobile_pico"),
        (("ofa_mobile_pico", "--data", "digits", "--widen", "kernle"), "kinds of decisions"),
        (("text_encoder_pico", "--data", "digits", "--size", "9"), "its options: --heldout, --text"),
        (("translation_pico", "--data", "a.en"), "either from two files"),
        (("ofa_mobile_pico", "--data", "digits", "--steps", "0"), "steps = 0"),
    ],
)
def test_mistakes_are_told_before_training(run, tmp_path, arguments, message):
    done = run("train", "supernet", *arguments, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_of_one_word_is_still_there(run):
    assert "Train a factory" in run("train", "--help").output
    assert "Train a supernet" in run("train", "supernet", "--help").output


def test_an_interrupt_tells_how_to_go_on(run, tmp_path, monkeypatch):
    def interrupt(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("brickyard.factory.supernet_build.train_supernet", interrupt)
    done = run("train", "supernet", "ofa_mobile_pico", "--data", "digits", "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert "give the same command again to go on" in done.stderr


def test_defaults_are_those_of_the_records():
    known = {
        field.name: field.default for record in (SupernetBuild, SupernetSettings) for field in fields(record)
    }
    options = inspect.signature(train_supernet).parameters
    shared = (set(known) & set(options)) - {"network", "widen"}
    assert len(shared) >= 16
    assert {name: options[name].default for name in shared} == {name: known[name] for name in shared}
    assert tuple(filter(None, options["widen"].default.split(","))) == known["widen"]
