"""`profile`, `factories`, `report`, and what holds for the whole command line."""

import json
import re
import subprocess
import sys
import time
import zipfile

import pytest

from brickyard import __version__


def test_profile_is_written_and_used(run, pico, tmp_path):
    file = tmp_path / "devices" / "board.json"
    done = run("profile", pico, "--out", file, "--name", "board")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("board: threads 1")
    made = run(
        "make", pico, "--task", "red", "--latency-ms", 50, "--device", file, "--out", tmp_path / "m", "--json"
    )
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["device"] == "board"
    again = run("profile", pico, "--out", file)
    assert again.exit_code == 1
    assert "already exists" in again.stderr


def test_energy_is_measured_where_there_is_a_counter(run, pico, tmp_path, monkeypatch):
    """A made-up machine of 5 watts: its counter is the clock."""
    from functools import partial

    from brickyard.devices import energy, energy_model

    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for file, content in {
        "name": "package-0",
        "max_energy_range_uj": "262143328850",
        "energy_uj": "0",
    }.items():
        (zone / file).write_text(content)
    real = energy._number

    def number(file):
        return int(5e6 * time.perf_counter()) if file.name == "energy_uj" else real(file)

    monkeypatch.setattr(energy, "_number", number)
    monkeypatch.setattr(energy_model, "SUBNETS", 9)
    monkeypatch.setattr(energy_model, "energy_record", partial(energy.energy_record, seconds=0.01))
    for module in ("checks", "factory"):
        monkeypatch.setattr(f"brickyard.factory.{module}.POWERCAP", tmp_path / "powercap")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run("profile", pico, "--energy", "--out", tmp_path / "here.json")
    assert done.exit_code == 0, done.output
    assert re.search(r"W while it computes, [3-7][.\d]* W idle; error [\d.]+% on 3 subnets", done.stdout)
    made = run("make", pico, "--task", "red", "--energy-mj", 50, "--out", tmp_path / "m", "--json")
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert 0 < report["energy"]["mj"] <= 50
    assert report["energy"]["counter"] == "RAPL, package-0"
    assert report["energy"]["idle_watts"] == pytest.approx(5, rel=0.4)
    assert 0 < report["predicted"]["energy_mj"] <= 50
    [kept] = (tmp_path / "cache" / "brickyard" / "devices").iterdir()
    assert json.loads(kept.read_text())["energy"]["fitted"] == 6
    again = run("make", pico, "--task", "blue", "--energy-mj", 1e-9, "--out", tmp_path / "n", "--json")
    assert again.exit_code == 2
    assert json.loads(again.stdout)["binding_limit"] == "energy_mj"


def test_a_kit_is_written_instead_of_a_profile(run, pico, tmp_path):
    file = tmp_path / "kits" / "kit.zip"
    done = run("profile", pico, "--kit", file)
    assert done.exit_code == 0, done.output
    assert "python kit/measure.py" in done.stdout
    assert zipfile.is_zipfile(file)
    for more in ([], ["--kit", tmp_path / "a.zip", "--out", tmp_path / "b.json"]):
        odd = run("profile", pico, *more)
        assert odd.exit_code == 1
        assert "give one of --out and --kit" in odd.stderr
    again = run("profile", pico, "--kit", file)
    assert again.exit_code == 1
    assert "already exists" in again.stderr


def test_a_network_is_profiled_by_subnets(run, supernet, tmp_path, monkeypatch):
    for limit, value in (("_PASSES", 2), ("_SECONDS", 0.0)):
        monkeypatch.setattr(f"brickyard.factory.subnet_timing.{limit}", value)
    file = tmp_path / "devices" / "board.json"
    arguments = ("profile", supernet, "--out", file, "--name", "board", "--subnets", 16)
    with monkeypatch.context() as patch:

        def stop(*arguments, **options):
            raise KeyboardInterrupt

        patch.setattr("brickyard.factory.subnet_timing.subnets_record", stop)
        stopped = run(*arguments)
    assert stopped.exit_code == 130
    assert "board.json.measuring; give the same command again" in stopped.stderr
    other = run("profile", supernet, "--out", file, "--subnets", 17)
    assert other.exit_code == 1
    assert "holds times of another network, machine or runtime" in other.stderr
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("board: threads 1")
    assert "on 4 subnets that were held out" in done.stdout
    assert "timing" in done.stderr
    assert [path.name for path in file.parent.iterdir()] == ["board.json"]
    found = run(
        *("search", supernet, "--objectives", "accuracy", f"latency_ms@{file}", "--evaluations", 2),
        *("--pictures", 30, "--sampler", "random", "--out", tmp_path / "found"),
    )
    assert found.exit_code == 0, found.output
    assert "device board: error of latencies" in found.stderr
    assert "latency_ms@board" in found.stdout
    kit = run("profile", supernet, "--kit", tmp_path / "kit.zip", "--subnets", 16)
    assert "kit.zip: 16 models" in kit.stdout


def test_options_that_do_nothing_are_refused(run, pico, supernet, tmp_path):
    for network, option, message in (
        (supernet, "--energy", "search it by energy_mj"),
        (pico, "--subnets=20", "a factory's blocks are timed"),
    ):
        done = run("profile", network, "--out", tmp_path / "board.json", option)
        assert done.exit_code == 1
        assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_factories_are_listed(run, pico, monkeypatch):
    monkeypatch.setattr("brickyard.factory.folder.bundled_factories", lambda: {"pico": pico})
    done = run("factories")
    assert done.exit_code == 0, done.output
    assert "red, green, blue" in done.stdout
    assert "unseen" in done.stdout
    [record] = json.loads(run("factories", "--json").stdout)
    assert record["words"]["shape"] == ["circle", "square"]
    assert record["quality"]["limits"] == [0.1, 0.25, 1.0]
    monkeypatch.setattr("brickyard.factory.folder.bundled_factories", dict)
    assert json.loads(run("factories", "--json").stdout) == []


def test_report_of_a_model_is_rendered_again(run, model):
    page = model / "report.html"
    content = page.read_text()
    page.unlink()
    done = run("report", model)
    assert done.exit_code == 0, done.output
    assert str(page) in done.stdout
    assert page.read_text() == content


def test_report_of_a_factory(run, pico):
    done = run("report", pico)
    assert done.exit_code == 0, done.output
    assert str(pico / "training" / "report.html") in done.stdout
    page = (pico / "training" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "Never trained" in page
    for name in ("curves.png", "quality.png", "pairs.png", "log.csv"):
        assert (pico / "training" / name).stat().st_size > 0


def test_report_of_something_else(run, tmp_path):
    done = run("report", tmp_path)
    assert done.exit_code == 1
    assert "manifest.json does not exist" in done.stderr


def test_version_help_and_unknown_commands(run):
    assert run("--version").stdout == f"brickyard {__version__}\n"
    assert run("--help").exit_code == 0
    unknown = run("mkae")
    assert unknown.exit_code == 1
    assert "Did you mean 'make'?" in unknown.stderr
    assert run("--bogus").exit_code == 1


def test_making_a_model_loads_no_torch(pico, tmp_path):
    arguments = ["brickyard", "make", str(pico), "--task", "red", "--out", str(tmp_path / "m")]
    script = (
        "import sys\n"
        "from brickyard.cli import main\n"
        f"sys.argv = {arguments!r}\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'matplotlib', 'datasets', 'rich', 'brickyard.cli.train'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_runtime_is_a_device_of_its_own(run, pico, tmp_path):
    file = tmp_path / "int8.json"
    done = run("profile", pico, "--runtime", "ort-int8", "--out", file)
    assert done.exit_code == 0, done.output
    assert "-int8-1t: threads 1" in done.stdout
    assert json.loads(file.read_text())["precision"] == "int8"
    arguments = ("make", pico, "--task", "red", "--latency-ms", 50, "--device", file)
    made = run(*arguments, "--out", tmp_path / "m", "--json")
    assert made.exit_code == 0, made.output
    answer = json.loads(made.stdout)
    assert answer["format"] == "onnx-int8"
    assert answer["measured_on"] == answer["device"]
    odd = run(*arguments, "--format", "onnx", "--out", tmp_path / "n")
    assert odd.exit_code == 1
    assert "does not run the format onnx" in odd.stderr
    assert "tpu" in run("profile", pico, "--runtime", "tpu", "--out", tmp_path / "x.json").stderr


def test_kits_are_for_onnx_runtime(run, pico, tmp_path):
    done = run("profile", pico, "--runtime", "torch", "--kit", tmp_path / "kit.zip")
    assert done.exit_code == 1
    assert "a kit measures with onnxruntime, not with torch" in done.stderr
    assert list(tmp_path.iterdir()) == []
