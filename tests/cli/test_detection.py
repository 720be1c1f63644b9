"""Commands with detectors: train, make, evaluate, report."""

import json

import pytest


@pytest.fixture(scope="module")
def made(run, detector, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "red"
    done = run("make", detector, "--task", "red", "--max-macs", "70%", "--out", out)
    assert done.exit_code == 0, done.output
    assert "quality    AP50 0." in done.stdout
    return out


SCENES = "geometry:size=32,shapes=circle+square,colors=red+green"


def test_evaluate_tells_average_precision(run, made):
    done = run("evaluate", made, "--data", SCENES, "--pictures", 30, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["metric"] == "ap50"
    assert 0 <= record["ap"] <= record["value"] <= 1
    assert record["counts"]["red"] >= 15
    told = run("evaluate", made, "--data", SCENES, "--pictures", 30).stdout
    assert f"red: AP50 {record['value']:.4f}, AP {record['ap']:.4f} on 30 pictures" in told


def test_report_writes_the_page_again_with_its_boxes(run, made):
    page = (made / "report.html").read_text()
    (made / "report.html").unlink()
    done = run("report", made)
    assert done.exit_code == 0, done.output
    assert "AP50" in done.stdout
    again = (made / "report.html").read_text()
    assert again.count("<image ") == page.count("<image ") > 0


def test_a_graph_with_boxes_inside_is_evaluated_too(run, detector, tmp_path):
    out = tmp_path / "inside"
    done = run("make", detector, "--task", "red", "--decode", "inside", "--threshold", 0.05, "--out", out)
    assert done.exit_code == 0, done.output
    done = run("evaluate", out, "--data", SCENES, "--pictures", 30, "--json")
    assert json.loads(done.stdout)["metric"] == "ap50"


def test_a_memory_limit_is_kept_with_the_boxes_inside(run, detector, tmp_path):
    arguments = ("make", detector, "--task", "red", "--decode", "inside", "--json")
    free = run(*arguments, "--measure-memory", "--out", tmp_path / "free")
    least = run(*arguments, "--max-memory-mb", 0.001, "--out", tmp_path / "none")
    ends = [json.loads(free.stdout)["runtime_memory_bytes"], json.loads(least.stdout)["smallest"]]
    done = run(*arguments, "--max-memory-mb", sum(ends) / 2e6, "--out", tmp_path / "limited")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["peak_memory_bytes"] < report["runtime_memory_bytes"] <= sum(ends) / 2


def test_a_latency_limit_is_met_and_the_device_profiled(run, detector, tmp_path):
    done = run("make", detector, "--task", "red", "--latency-ms", 50, "--out", tmp_path / "fast", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["predicted"]["latency_ms"] > 0
    assert record["measured"]["p50"] <= 50


def test_requests_of_a_file_are_decoded_outside(run, detector, tmp_path):
    lines = [{"task": "red", "name": "one"}, {"task": "green circle", "budget": {"max_macs": "60%"}}]
    (tmp_path / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ("make", detector, "--requests", tmp_path / "requests.jsonl", "--out", tmp_path / "out")
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "one" / "decode.json").read_text())["place"] == "outside"
    assert run(*command).exit_code == 0
    done = run(*command, "--decode", "inside")
    assert done.exit_code == 1
    assert "decoded outside" in done.stderr


def test_without_pycocotools_models_are_made_and_training_is_refused(run, detector, tmp_path, monkeypatch):
    monkeypatch.setattr("brickyard.factory.boxes.can_rate", lambda: False)
    monkeypatch.setattr("brickyard.factory.start.can_rate", lambda: False)
    done = run("make", detector, "--task", "red", "--out", tmp_path / "red")
    assert done.exit_code == 0, done.output
    assert "pip install 'brickyard[detection]'" in done.stdout
    assert json.loads((tmp_path / "red" / "report.json").read_text())["quality"] is None
    assert "no pycocotools" in (tmp_path / "red" / "report.html").read_text()
    small = "geometry:size=32,train=4,heldout=4"
    options = ("--job", "detect", "--network", "center_pico", "--out", tmp_path / "no")
    done = run("train", "--data", small, *options)
    assert done.exit_code == 1
    assert "pip install 'brickyard[detection]'" in done.stderr


def test_jobs_and_networks_that_do_not_fit_are_refused(run, pico, tmp_path):
    common = ("--data", SCENES, "--out", tmp_path / "no")
    done = run("train", *common, "--job", "detect", "--network", "residual_cnn_pico")
    assert done.exit_code == 1
    assert "classifies, but the job is to detect" in done.stderr
    done = run("train", *common, "--network", "center_pico")
    assert done.exit_code == 1
    assert "detects, but the job is to classify" in done.stderr
    done = run("train", *common, "--job", "detect", "--network", "center_pico", "--size", "big")
    assert done.exit_code == 1
    assert "'big' is no size" in done.stderr
    done = run("make", pico, "--task", "red", "--decode", "inside", "--out", tmp_path / "no")
    assert done.exit_code == 1
    assert "does not detect" in done.stderr
    assert not (tmp_path / "no").exists()
