"""`brickyard tasks`: tables, heat map, refusals."""

import json


def test_tasks_masks_overlap_and_free_weights_are_listed(run, taught, tmp_path):
    done = run("tasks", taught, "--heat-map", tmp_path / "map.png")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["task", "classes", "accuracy"]
    assert lines[1].split()[:2] == ["Stripes", "3"]
    assert "the next task will find about" in lines[-1]
    assert "share of a task's mask (row)" in done.stdout
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_json_holds_everything(run, taught):
    record = json.loads(run("tasks", taught, "--json").stdout)
    assert [task["name"] for task in record["tasks"]] == ["Stripes", "again"]
    assert record["overlap"][0][0] == 1
    assert record["warning"] is None


def test_what_is_wrong_is_told(run, pico, taught, tmp_path):
    assert "has learned no task" in run("tasks", pico).stderr
    assert "is no folder" in run("tasks", "nowhere").stderr
    done = run("tasks", taught, "--heat-map", tmp_path / "map.jpg")
    assert done.exit_code == 1
    assert "name a .png file" in done.stderr
