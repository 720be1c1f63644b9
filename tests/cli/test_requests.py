"""`brickyard make --requests`: a whole file of requests in one process."""

import json
from pathlib import Path

import pytest

from brickyard.core.errors import BudgetError
from brickyard.factory import Factory


def write(folder, *records):
    file = folder / "requests.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
    return file


def test_every_request_gets_a_line(run, pico, tmp_path):
    file = write(
        tmp_path,
        {"task": "red", "budget": {"max_macs": "50%"}, "name": "first"},
        "",
        {"task": "blue circle", "seed": 3},
    )
    done = run("make", pico, "--requests", file, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["task"], second["task"], second["seed"]) == ("red", "blue circle", 3)
    key = json.loads((tmp_path / "out" / "first" / "request.json").read_text())["key"]
    hashed = Path(second["files"]["model"]).parent
    assert {path.name for path in (tmp_path / "out").iterdir()} == {hashed.name, "first"}
    assert json.loads((hashed / "request.json").read_text())["key"].startswith(hashed.name)
    assert len(key) == 64
    again = run("make", pico, "--requests", file, "--out", tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[0].startswith(str(tmp_path / "out" / "first"))


def test_a_failed_request_does_not_stop_the_others(run, pico, tmp_path):
    file = write(tmp_path, {"task": "red", "budget": {"max_macs": 10}}, {"task": "blue"})
    done = run("make", pico, "--requests", file, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 2
    failed, made = map(json.loads, done.stdout.splitlines())
    assert (failed["feasible"], failed["binding_limit"], made["feasible"]) == (False, "macs", True)
    assert "1 of 2 requests failed" in done.stderr
    assert "line 1 (red): macs = 10 cannot be met" in done.stderr


def test_one_bad_line_and_nothing_is_made(run, pico, tmp_path):
    good = {"task": "red", "name": "first"}
    for bad, message in [
        ("{", "not JSON"),
        ({"tsk": "red"}, "keys among task"),
        ({"task": "purple"}, "'purple'"),
        ({"task": "red", "budget": {"max_mac": 3}}, "max_mac"),
        ({"task": "red", "seed": "1"}, "seed = '1' is no int"),
        ({"task": "red", "name": "../x"}, "plain name"),
        ({"task": "red", "name": "first"}, "that of line 1 too"),
    ]:
        done = run("make", pico, "--requests", write(tmp_path, good, bad), "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert "line 2" in done.stderr
        assert message in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_model_of_another_request_is_not_taken_for_the_answer(run, pico, tmp_path):
    assert (
        run(
            "make",
            pico,
            "--requests",
            write(tmp_path, {"task": "red", "name": "a"}),
            "--out",
            tmp_path / "out",
        ).exit_code
        == 0
    )
    file = write(tmp_path, {"task": "blue", "name": "a"})
    done = run("make", pico, "--requests", file, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "holds the model of another request" in done.stderr


def test_options_that_do_not_go_together(run, pico, tmp_path):
    file = write(tmp_path, {"task": "red"})
    done = run("make", pico, "--requests", file, "--task", "red", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "stand in the file" in done.stderr
    assert (
        "holds no request"
        in run("make", pico, "--requests", write(tmp_path, ""), "--out", tmp_path / "o").stderr
    )
    assert (
        "does not exist" in run("make", pico, "--requests", tmp_path / "no", "--out", tmp_path / "o").stderr
    )


def test_identical_requests_are_made_once(run, pico, tmp_path, monkeypatch):
    made = []
    make = Factory.make
    monkeypatch.setattr(Factory, "make", lambda self, **given: made.append(given) or make(self, **given))
    whole = Factory.load(pico).maker(None).whole.macs
    first = {"task": "red circle", "budget": {"max_macs": "100%"}}
    same = {"task": "circle red", "budget": {"max_macs": whole}, "seed": 0, "name": "mine"}
    other = [{**first, "seed": 1}, {**first, "budget": {"max_macs": "40%"}}, {**first, "task": "red"}]
    file = write(tmp_path, first, same, *other)
    done = run("make", pico, "--requests", file, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] == answers[1]
    assert len({answer["files"]["model"] for answer in answers}) == len(made) == 4
    reversed_file = write(tmp_path, *reversed([first, same, *other]))
    again = run("make", pico, "--requests", reversed_file, "--out", tmp_path / "out", "--json")
    assert [json.loads(line) for line in again.stdout.splitlines()] == answers[::-1]
    assert len(made) == 4


def test_a_model_of_another_factory_is_not_the_answer(run, pico, tmp_path):
    first, second = Factory.load(pico), Factory.load("geometry")
    asked = {"task": "red", "budget": {"max_macs": "50%"}}
    assert first.request_key(**asked) == Factory.load(pico).request_key(**asked)
    assert first.request_key(**asked) != second.request_key(**asked)


def test_several_at_a_time_give_the_same_answers_in_order(run, pico, tmp_path):
    asked = [
        {"task": "red", "budget": {"max_macs": "60%"}},
        {"task": "blue", "budget": {"max_macs": 10}},
        {"task": "red", "budget": {"max_macs": "60%"}},
        {"task": "blue circle", "name": "named"},
        {"task": "circle"},
    ]
    file = write(tmp_path, *asked)
    answers = []
    for folder, jobs in (("one", 1), ("two", 2)):
        done = run("make", pico, "--requests", file, "--out", tmp_path / folder, "--jobs", jobs, "--json")
        assert done.exit_code == 2, done.output
        answers.append([json.loads(line) for line in done.stdout.splitlines()])
    for one, two in zip(*answers, strict=True):
        assert (one["task"], one["feasible"]) == (two["task"], two["feasible"])
        assert one.get("config_sha256") == two.get("config_sha256")
    one, two = ({path.name for path in (tmp_path / folder).iterdir()} for folder in ("one", "two"))
    assert one == two
    assert len(one) == 3
    assert answers[1][0] == answers[1][2]


def test_jobs_out_of_range_are_refused(pico, tmp_path):
    with pytest.raises(BudgetError, match="jobs = 0 is not allowed"):
        list(Factory.load(pico).make_all([{"task": "red"}], out=tmp_path / "out", jobs=0))


def test_requests_may_name_a_format(run, pico, tmp_path):
    file = tmp_path / "requests.jsonl"
    lines = [{"task": "red", "format": "onnx-int8", "name": "a"}, {"task": "red", "name": "b"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    done = run("make", pico, "--requests", file, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "a" / "model.int8.onnx").is_file()
    assert (tmp_path / "out" / "b" / "model.onnx").is_file()
    file.write_text(json.dumps({"task": "red", "format": "tflite"}))
    odd = run("make", pico, "--requests", file, "--out", tmp_path / "none")
    assert odd.exit_code == 1
    assert "line 1: format 'tflite' is unknown" in odd.stderr
    assert not (tmp_path / "none").exists()
