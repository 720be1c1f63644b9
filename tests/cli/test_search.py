"""`brickyard search`, and `make --from-front` of what it wrote."""

import csv
import json

import pytest


@pytest.fixture(scope="module")
def found(run, supernet, tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "found"
    done = run(
        *("search", supernet, "--objectives", "accuracy", "macs", "--evaluations", 3, "--pictures", 30),
        *("--sampler", "random", "--out", out, "--limits", "macs=100%", "parameters=100000"),
    )
    assert done.exit_code == 0, done.output
    assert "search 3/3" in done.stderr
    assert done.stdout.splitlines()[0].split() == ["place", "accuracy", "macs", "parameters"]
    return out


def test_the_same_command_goes_on(run, found, supernet):
    done = run(
        *("search", supernet, "--objectives", "accuracy", "macs", "--evaluations", 4, "--pictures", 30),
        *("--sampler", "random", "--out", found, "--limits", "macs=100%", "parameters=100000", "--json"),
    )
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["evaluations"] == 4
    with (found / "evaluations.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 4
    assert json.loads((found / "front.json").read_text()) == answer


def test_a_point_becomes_a_model(run, found, tmp_path):
    done = run("make", found, "--from-front", 0, "--out", tmp_path / "model", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    point = json.loads((found / "front.json").read_text())["front"][0]
    assert answer["macs"] == point["metrics"]["macs"]
    assert answer["quality"]["value"] == pytest.approx(point["metrics"]["accuracy"])
    assert (tmp_path / "model" / "report.html").is_file()


def test_a_factory_is_searched_for_a_task(run, pico, tmp_path):
    arguments = ("--objectives", "balanced_accuracy", "parameters", "--evaluations", 2, "--pictures", 20)
    done = run("search", pico, *arguments, "--out", tmp_path / "found")
    assert done.exit_code == 1
    assert "--task" in done.stderr
    done = run("search", pico, *arguments, "--task", "red circle", "--out", tmp_path / "found")
    assert done.exit_code == 0, done.output
    made = run("make", tmp_path / "found", "--from-front", 0, "--out", tmp_path / "model", "--json")
    assert made.exit_code == 0, made.output
    answer = json.loads(made.stdout)
    assert (answer["task"], answer["factory"]) == ("red circle", "pico")


def test_a_search_starts_from_another(run, found, supernet, tmp_path):
    out = tmp_path / "more"
    arguments = ("--objectives", "macs", "balanced_accuracy", "--evaluations", 2, "--pictures", 30)
    arguments = ("search", supernet, *arguments, "--narrow", "--repeats", 2, "--out", out)
    done = run(*arguments, "--warm-start", found, "--json")
    assert done.exit_code == 0, done.output
    assert "search 2/2 subnets measured; the front again, up to 2 times" in done.stderr
    known = json.loads((found / "front.json").read_text())["front"]
    front = json.loads(done.stdout)["front"]
    assert {str(point["config"]) for point in front} <= {str(point["config"]) for point in known}
    done = run(*arguments)
    assert done.exit_code == 1
    assert "holds a search with other warm start" in done.stderr


def test_limits_that_nothing_keeps(run, supernet, tmp_path):
    done = run(
        *("search", supernet, "--objectives", "accuracy", "macs", "--evaluations", 2, "--pictures", 30),
        *("--out", tmp_path / "found", "--limits", "parameters=10"),
    )
    assert done.exit_code == 2
    assert "none of 2 subnets keeps the limits" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--objectives", "accuracy"), "two to four different ones"),
        (("--objectives", "accuracy", "speed"), "'speed' is no number of a subnet"),
        (("--objectives", "accuracy", "macs", "--limits", "macs"), "write name=number"),
        (("--objectives", "accuracy", "macs", "--label", "x"), "name those too"),
        (("--objectives", "accuracy", "macs", "--warm-start-name", "x"), "it is about --warm-start"),
        (("--objectives", "accuracy", "macs", "--warm-start", "nowhere"), "nowhere is not there"),
        (("--objectives", "accuracy", "macs", "--narrow", "--sampler", "random"), "does not narrow"),
        (("--objectives", "accuracy", "macs", "--repeats", "0"), "--repeats"),
        ((), "--objectives"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(run, supernet, tmp_path, arguments, message):
    done = run("search", supernet, *arguments, "--out", tmp_path / "found")
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_options_that_the_search_has_decided_are_refused(run, found, tmp_path):
    done = run("make", found, "--from-front", 0, "--max-macs", "50%", "--out", tmp_path / "model")
    assert done.exit_code == 1
    assert "--max-macs" in done.stderr
    done = run("make", found, "--from-front", 50, "--out", tmp_path / "model")
    assert done.exit_code == 1
    assert "has no place 50" in done.stderr
