"""`brickyard learn`: what it prints, and what it refuses before it trains."""

import json
import re
import shutil

import pytest


@pytest.fixture
def factory(pico, tmp_path):
    """A copy of a factory that may be changed."""
    return shutil.copytree(pico, tmp_path / "mine")


def test_a_learned_task_is_told_and_can_be_made(run, factory, stripes, tmp_path):
    quick = ["--mask-epochs", 1, "--weight-epochs", 1, "--density", 0.6]
    done = run("learn", factory, "--task", "Stripes", "--data", stripes, *quick, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["task"], record["classes"]) == ("Stripes", ["across", "plain grey", "upright"])
    assert record["free_share"] == 1
    assert list(record["accuracy_at_macs"].values())[-1] == record["accuracy"]
    assert "warning: " in done.stderr  # 40 % of the weights are left, a mask keeps 60 %
    assert "fewer than the" in done.stderr
    made = run("make", factory, "--task", "stripes", "--out", tmp_path / "model", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["factory"] == "pico: Stripes"
    lines = tmp_path / "requests.jsonl"
    lines.write_text('{"task": "stripes: across, upright", "name": "two"}\n{"task": "red", "name": "red"}\n')
    bulk = run("make", factory, "--requests", lines, "--out", tmp_path / "out")
    assert bulk.exit_code == 0, bulk.output
    assert (tmp_path / "out" / "two" / "labels.txt").read_text().split() == ["across", "upright"]


def test_quality_of_smaller_models_is_told(run, factory, stripes):
    quick = ["--mask-epochs", 2, "--in-turns", "--weight-epochs", 1, "--small-share", 0.8]
    done = run("learn", factory, "--task", "Stripes", "--data", stripes, *quick)
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("smaller"))
    assert re.fullmatch(r"smaller    (0\.\d{3} at \d\d%, )*0\.\d{3} at \d\d% of the MACs", line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "red"], "is a task in the factory's own words"),
        (["--task", "new", "--density", 1.5], "density = 1.5 must be above 0"),
        (["--task", "new", "--arm", "supsup", "--weight-epochs", 3], "weight_epochs = 3 does not go with"),
        (["--task", "new", "--arm", "supsup", "--in-turns"], "--in-turns does not go with --arm supsup"),
        (["--task", "new", "--in-turns", "--weight-epochs", 0], "the others at least 1, or 0 if joint"),
        (["--task", "new", "--heldout-share", 1], "heldout_share = 1.0 must be between 0 and 1"),
        (["--task", "new", "--arm", "ssnet"], "ssnet"),
        (["--task", "new", "--small-share", 2], "small_share = 2.0 must be from 0 to 1"),
        (["--task", "new", "--data", "nowhere"], "nowhere"),
        (["--task", "new", "--seed", -1], "seed = -1 must be at least 0"),
        (["--task", "new", "--mask-rate", "inf"], "mask_rate = inf must be above 0 and finite"),
    ],
)
def test_what_is_wrong_is_told(options, message, run, factory, stripes):
    done = run("learn", factory, "--data", stripes, *options)
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (factory / "learned").exists()


def test_damage_to_earlier_tasks_is_told_by_every_command(run, taught, stripes, tmp_path):
    mine = shutil.copytree(taught, tmp_path / "mine")
    manifest = mine / "learned" / "tasks" / "0001" / "manifest.json"
    sound = json.loads(manifest.read_text())

    def told(*arguments):
        done = run(*arguments)
        assert done.exit_code == 1
        return done.stderr

    learn = ("learn", mine, "--task", "new", "--data", stripes)
    manifest.write_text(json.dumps({**sound, "task": {**sound["task"], "surplus": 1}}))
    assert "tells of the task" in told("tasks", mine)
    assert "tells of the task" in told(*learn)
    manifest.write_text(json.dumps({name: value for name, value in sound.items() if name != "task"}))
    assert "has the fields previous; expected task, previous" in told("tasks", mine)
    assert "tells no name of a task" in told(*learn)
    assert "tells no name of a task" in told("make", mine, "--task", "red", "--out", tmp_path / "model")
    manifest.write_text(json.dumps(sound))
    shutil.move(mine / "learned" / "tasks" / "0000", tmp_path / "away")
    for arguments in (("tasks", mine), learn, ("make", mine, "--task", "red", "--out", tmp_path / "model")):
        assert "0000 is missing or no folder" in told(*arguments)
    assert json.loads(manifest.read_text()) == sound


def test_a_bundled_factory_is_to_be_copied(run, stripes):
    done = run("learn", "geometry", "--task", "new", "--data", stripes)
    assert done.exit_code == 1
    assert "copy the bundled one first: cp -r" in done.stderr
    done = run("learn", "nowhere", "--task", "new", "--data", stripes)
    assert "is no folder; a factory that learns is a folder of yours" in done.stderr
