"""`brickyard make`: models, answers for machines, and what is told when there is no model."""

import json
from pathlib import Path

import onnx
import pytest

KEYS = {
    *("feasible", "task", "budget", "predicted", "measured", "parameters", "macs", "macs_share"),
    *("file_bytes", "peak_memory_bytes", "seconds", "parity_error", "quality", "files"),
}


def hidden_leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_prints_a_summary_and_writes_the_folder(run, pico, tmp_path):
    out = tmp_path / "model"
    done = run(
        "make", pico, "--task", "red circle", "--max-macs", "60%", "--max-file-mb", "0.5", "--out", out
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("red circle")
    assert "limit 60%" in done.stdout
    assert str(out / "report.html") in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "labels.txt", "manifest.json", "model.onnx", "model.safetensors"),
        *("preprocess.json", "report.html", "report.json", "request.json"),
    ]
    onnx.checker.check_model(onnx.load(out / "model.onnx"))


def test_json_has_the_promised_keys_and_exact_figures(run, pico, tmp_path):
    done = run(
        "make", pico, "--task", "red circle", "--max-parameters", 5000, "--out", tmp_path / "m", "--json"
    )
    assert done.exit_code == 0, done.output
    [line] = done.stdout.splitlines()
    answer = json.loads(line)
    assert set(answer) >= KEYS
    assert answer["feasible"] is True
    assert answer["parameters"] <= 5000
    assert answer["file_bytes"] == (tmp_path / "m" / "model.onnx").stat().st_size
    assert answer["parity_error"] < 1e-4
    assert answer == json.loads((tmp_path / "m" / "report.json").read_text())


def test_latency_limit_profiles_this_machine_once(run, pico, tmp_path):
    first = run("make", pico, "--task", "red", "--latency-ms", 50, "--out", tmp_path / "a", "--json")
    assert first.exit_code == 0, first.output
    assert "profile" in first.stderr
    second = run("make", pico, "--task", "blue", "--latency-ms", 50, "--out", tmp_path / "b", "--json")
    assert second.exit_code == 0, second.output
    assert second.stderr == ""
    answer = json.loads(second.stdout)
    assert answer["measured"]["p50"] <= 50
    assert answer["predicted"]["latency_ms"] > 0


def test_infeasible_names_limit_smallest_and_nearest(run, pico, tmp_path):
    arguments = (
        "make",
        pico,
        "--task",
        "red circle",
        "--max-macs",
        1000,
        "--max-file-mb",
        1,
        "--out",
        tmp_path / "m",
    )
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "binding limit macs: requested 1000, smallest" in done.stderr
    assert "nearest feasible model" in done.stderr
    assert list(tmp_path.iterdir()) == []
    for_machines = run(*arguments, "--json")
    assert for_machines.exit_code == 2
    answer = json.loads(for_machines.stdout)
    assert answer["feasible"] is False
    assert answer["binding_limit"] == "macs"
    assert answer["smallest"] > answer["requested"] == 1000
    assert answer["nearest"]["costs"]["macs"] <= answer["nearest"]["limits"]["macs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "red circl"), "nearest: circle"),
        (("--task", "red", "--max-macs", "0%"), "a share must lie above 0 %"),
        (("--task", "red", "--latency-ms", "-1"), "must be above 0"),
        (("--task", "red", "--device", "none.json"), "none.json"),
        ((), "name one property or more"),
        (("--task", "red", "--device", "a.json", "--threads", "2"), "--threads"),
        (("--tsk", "red"), "--task"),
    ],
)
def test_mistakes_are_told_on_stderr(run, pico, tmp_path, arguments, message):
    done = run("make", pico, *arguments, "--out", tmp_path / "m")
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "m").exists()


def test_unknown_factory_and_missing_folder(run, tmp_path):
    done = run("make", "nowhere", "--task", "red", "--out", tmp_path / "m")
    assert done.exit_code == 1
    assert "neither a folder nor a bundled factory" in done.stderr
    assert "--out" in run("make", "--task", "red").stderr


def test_a_taken_folder_is_left_alone(run, pico, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    done = run("make", pico, "--task", "red", "--out", tmp_path)
    assert done.exit_code == 1
    assert "already exists" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_all_or_nothing(run, pico, tmp_path, monkeypatch):
    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("brickyard.factory.write.write_manifest", fail)
    done = run("make", pico, "--task", "red", "--out", tmp_path / "m")
    assert done.exit_code == 1
    assert "no space left" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_interrupt_is_exit_code_130(run, pico, tmp_path, monkeypatch):
    def interrupt(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("brickyard.factory.write.render", interrupt)
    done = run("make", pico, "--task", "red", "--out", tmp_path / "m")
    assert done.exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_damaged_factory_is_refused(run, pico, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(pico, copy)
    (copy / "assembler.safetensors").write_bytes(b"other")
    done = run("make", copy, "--task", "red", "--out", tmp_path / "m")
    assert done.exit_code == 1
    assert "assembler.safetensors differs" in done.stderr


def test_limits_on_memory_and_energy(run, pico, tmp_path):
    blocks = ("stage0.block0", "stage1.block0", "stage1.block1")
    rows = ["block,kernel,bricks,ms,mj", "fixed,,,1,5", *(f"{block},,4,2,10" for block in blocks)]
    (tmp_path / "board.csv").write_text("\n".join(rows))
    arguments = ["make", pico, "--task", "red", "--energy-mj", "20", "--out", tmp_path / "m"]
    done = run(*arguments, "--device", tmp_path / "board.csv", "--max-memory-mb", "5")
    assert done.exit_code == 0, done.output
    assert "in the runtime, measured, limit 5.0 MB" in done.stdout
    assert "mJ predicted, limit 20.0 mJ" in done.stdout
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert 5 <= report["predicted"]["energy_mj"] <= 20
    assert report["runtime_memory_bytes"] <= 5e6


def test_energy_without_a_counter_is_refused(run, pico, tmp_path, monkeypatch):
    for module in ("checks", "factory"):
        monkeypatch.setattr(f"brickyard.factory.{module}.POWERCAP", tmp_path)
    for arguments in (
        ("make", pico, "--task", "red", "--energy-mj", "20", "--out", tmp_path / "m"),
        ("profile", pico, "--energy", "--out", tmp_path / "device.json"),
    ):
        done = run(*arguments)
        assert done.exit_code == 1
        assert "this machine has no readable energy counter" in done.stderr
    assert (
        "is measured where the kit runs"
        in run("profile", pico, "--energy", "--kit", tmp_path / "k.zip").stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_a_device_too(run, pico, tmp_path):
    blocks = ("stage0.block0", "stage1.block0", "stage1.block1")
    rows = ["block,kernel,bricks,ms", "fixed,,,1", *(f"{block},,4,2" for block in blocks)]
    (tmp_path / "board.csv").write_text("\n".join(rows))
    arguments = ["make", pico, "--task", "red", "--device", tmp_path / "board.csv", "--json"]
    done = run(*arguments, "--latency-ms", "3.5", "--out", tmp_path / "m")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["device"] == "board"
    assert 1 <= report["predicted"]["latency_ms"] <= 3.5
    none = run(*arguments, "--latency-ms", "0.9", "--out", tmp_path / "n")
    assert none.exit_code == 2
    assert json.loads(none.stdout)["smallest"] == 1.0


def test_another_format_is_written_checked_and_evaluated(run, pico, tmp_path, monkeypatch):
    arguments = ("make", pico, "--task", "red circle", "--max-macs", "60%", "--format", "onnx-int8")
    done = run(*arguments, "--out", tmp_path / "m")
    assert done.exit_code == 0, done.output
    assert "onnx-int8: scores differ by" in done.stdout
    assert str(tmp_path / "m" / "model.int8.onnx") in done.stdout
    data = "geometry:shapes=circle+square,colors=red+green+blue"
    assert run("evaluate", tmp_path / "m", "--data", data, "--pictures", 20).exit_code == 0
    monkeypatch.setattr("brickyard.factory.formats.check.WARN_POINTS", -1000.0)
    warned = run(*arguments, "--out", tmp_path / "n")
    assert warned.exit_code == 0
    assert "warning: " in warned.stderr
    assert "points of balanced accuracy are lost against 32-bit numbers" in warned.stderr
