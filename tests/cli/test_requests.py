"""`brickyard make --requests`: a whole file of requests in one process."""

import json


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00001", "first"]
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
    good = {"task": "red"}
    for bad, message in [
        ("{", "not JSON"),
        ({"tsk": "red"}, "keys among task"),
        ({"task": "purple"}, "'purple'"),
        ({"task": "red", "budget": {"max_mac": 3}}, "max_mac"),
        ({"task": "red", "seed": "1"}, "seed = '1' is no int"),
        ({"task": "red", "name": "../x"}, "plain name"),
        ({"task": "red", "name": "00000"}, "that of line 1 too"),
    ]:
        done = run("make", pico, "--requests", write(tmp_path, good, bad), "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert "line 2" in done.stderr
        assert message in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_model_of_another_request_is_not_taken_for_the_answer(run, pico, tmp_path):
    assert (
        run("make", pico, "--requests", write(tmp_path, {"task": "red"}), "--out", tmp_path / "out").exit_code
        == 0
    )
    done = run("make", pico, "--requests", write(tmp_path, {"task": "blue"}), "--out", tmp_path / "out")
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
