"""Killed at random moments, or out of disk space: nothing half-written, and the same command goes on."""

import errno
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brickyard.cli.app import app
from brickyard.core.files import read_manifest
from brickyard.devices import DeviceProfile, kit_run
from brickyard.factory.folder import FORMAT_VERSION

if not hasattr(os, "fork"):
    pytest.skip("commands are forked off, so that starting them takes no time", allow_module_level=True)

TRAIN = [
    *("train", "--data", "digits", "--network", "residual_cnn_pico", "--batch-size", "16"),
    *("--backbone-steps", "10", "--steps", "30", "--checkpoint-every", "5", "--lowest-limit", "0.4"),
]


def forked(log, work):
    """Run a function in a process of its own, which ends with the function's exit code; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        with log.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
            code = work()
    finally:
        os._exit(code)


def command(*arguments):
    """What runs a command in this process and returns its exit code."""
    return lambda: CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code


def killed(log, work, after):
    """Kill a process some seconds after its start; tells whether it was still running."""
    child = forked(log, work)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def seconds_of(log, work):
    """Run a process to its end and time it."""
    started = time.perf_counter()
    assert os.waitpid(forked(log, work), 0)[1] == 0
    return time.perf_counter() - started


def moments(whole, *, count, seed=0):
    """Moments spread over a run, drawn at random in each part of it."""
    rng = random.Random(seed)
    return [whole * (part + rng.random()) / count for part in range(count)]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_making_is_killed(pico, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    out.mkdir()
    arguments = ("make", pico, "--task", "red circle", "--max-macs", "60%", "--out")
    whole = seconds_of(log, command(*arguments, out / "whole"))
    for moment in moments(whole, count=8):
        target = out / "killed"
        stopped = killed(log, command(*arguments, target), moment)
        assert visible(out) == (["whole"] if stopped and not target.exists() else ["killed", "whole"])
        if target.exists():
            read_manifest(target, format_version=FORMAT_VERSION, kind="model")
            break
    target = out / "killed"
    if not target.exists():
        assert command(*arguments, target)() == 0
    made, undisturbed = (out / name / "model.onnx" for name in ("killed", "whole"))
    assert made.read_bytes() == undisturbed.read_bytes()


def test_a_bulk_run_is_killed(pico, tmp_path):
    requests = [{"task": task, "budget": {"max_macs": "70%"}} for task in ("red", "blue", "green", "circle")]
    file, log, out = tmp_path / "requests.jsonl", tmp_path / "log", tmp_path / "out"
    file.write_text("\n".join(map(json.dumps, requests)))
    whole = seconds_of(log, command("make", pico, "--requests", file, "--out", tmp_path / "whole"))
    work = command("make", pico, "--requests", file, "--out", out)
    for moment in moments(whole, count=5):
        killed(log, work, moment)
        for name in visible(out) if out.exists() else ():
            read_manifest(out / name, format_version=FORMAT_VERSION, kind="model")
    done = CliRunner().invoke(app, ["make", str(pico), "--requests", str(file), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert visible(out) == visible(tmp_path / "whole")
    for line in done.stdout.splitlines():
        assert Path(json.loads(line)["files"]["model"]).is_file()


def test_what_a_killed_bulk_run_left_is_no_answer(run, pico, tmp_path):
    """The folder was complete and not yet renamed: the last moment before it counts."""
    file, out = tmp_path / "requests.jsonl", tmp_path / "out"
    file.write_text('{"task": "red"}\n')
    assert run("make", pico, "--requests", file, "--out", out).exit_code == 0
    [name] = visible(out)
    (out / name).rename(out / f".{name}.abc")
    done = run("make", pico, "--requests", file, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    assert Path(json.loads(done.stdout)["files"]["model"]).is_file()
    assert visible(out) == [name]


def workers_of(process):
    """The processes that answer requests for a bulk run."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except FileNotFoundError:
        return []


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, *, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_a_bulk_run_of_two_jobs_or_one_of_its_workers_is_killed(pico, tmp_path):
    file, out = tmp_path / "requests.jsonl", tmp_path / "out"
    tasks = ("red", "blue", "green", "circle", "square", "red circle", "blue circle", "green circle")
    file.write_text("\n".join(json.dumps({"task": task}) for task in tasks))
    arguments = [sys.executable, "-m", "brickyard", "make", str(pico), "--requests", str(file), "--jobs", "2"]
    arguments += ["--out", str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert until(lambda: out.exists() and visible(out))
        workers = workers_of(process)
        process.kill()
    assert len(workers) == 2
    assert until(lambda: not any(map(is_running, workers)))
    made = len(visible(out))
    assert made < len(tasks)
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert until(lambda: len(visible(out)) > made)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        told = process.communicate()[1]
    assert process.returncode == 1
    assert "a process that made models was ended from outside" in told
    assert "Give the same command again to go on" in told
    assert CliRunner().invoke(app, [*arguments[3:-4], "--out", str(out)]).exit_code == 0
    assert len(visible(out)) == len(tasks)
    for name in visible(out):
        read_manifest(out / name, format_version=FORMAT_VERSION, kind="model")


def test_profiling_is_killed(pico, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    out.mkdir()
    whole = seconds_of(log, command("profile", pico, "--out", out / "whole.json"))
    target = out / "device.json"
    for moment in moments(0.9 * whole, count=3):
        if killed(log, command("profile", pico, "--out", target), moment):
            assert visible(out) == ["whole.json"]
    if not target.exists():
        assert command("profile", pico, "--out", target)() == 0
    assert (
        DeviceProfile.load(target).blueprint_sha256 == DeviceProfile.load(out / "whole.json").blueprint_sha256
    )


@pytest.fixture
def kit(pico, tmp_path, monkeypatch):
    for name in ("_NOISE", "_SLOWDOWN", "_FINEST"):
        monkeypatch.setattr(kit_run, name, 100.0)
    assert command("profile", pico, "--kit", tmp_path / "kit.zip")() == 0
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "kit"


def measure(kit, out):
    def work():
        kit_run.run(kit, out=out, threads=1, name="board", seconds=0.0)
        return 0

    return work


def test_a_run_of_a_kit_is_killed(kit, tmp_path):
    log, out, state = tmp_path / "log", tmp_path / "device.json", kit / "times-1t.json"
    whole = seconds_of(log, measure(kit, tmp_path / "whole.json"))
    state.unlink()
    passes = [0]
    for moment in moments(0.95 * whole, count=4):
        if killed(log, measure(kit, out), moment):
            assert not out.exists()
        passes.append(len(json.loads(state.read_text())["times"][0]) if state.exists() else 0)
    assert passes == sorted(passes)
    if not out.exists():
        measure(kit, out)()
    assert DeviceProfile.load(out).name == "board"
    assert len(json.loads(state.read_text())["times"][0]) >= passes[-1]


def hashes(folder):
    names = ("model.safetensors", "assembler.safetensors", "whole.onnx")
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A factory whose training nothing disturbed, and how long that took."""
    folder = tmp_path_factory.mktemp("trained")
    return folder / "factory", seconds_of(folder / "log", command(*TRAIN, "--out", folder / "factory"))


def test_training_is_killed(undisturbed, tmp_path):
    factory, whole = undisturbed
    out, log = tmp_path / "out" / "factory", tmp_path / "log"
    out.parent.mkdir()
    for moment in moments(0.9 * whole, count=3):
        if not killed(log, command(*TRAIN, "--out", out), moment):
            break
        assert set(visible(out.parent)) <= {"factory.training"}
    if not out.exists():
        assert os.waitpid(forked(log, command(*TRAIN, "--out", out)), 0)[1] == 0
    assert hashes(out) == hashes(factory)
    assert visible(out.parent) == ["factory"]


class FullDisk:
    """A disk that is full at one sync to it, counted from 1."""

    def __init__(self, monkeypatch):
        self.count, self.full_at, real = 0, 0, os.fsync

        def fsync(handle):
            self.count += 1
            if self.count == self.full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    def at(self, number):
        self.count, self.full_at = 0, number


def test_the_disk_is_full_at_each_file_of_a_model(run, pico, tmp_path, monkeypatch):
    disk, out = FullDisk(monkeypatch), tmp_path / "model"
    arguments = ("make", pico, "--task", "red", "--out", out)
    assert run(*arguments).exit_code == 0
    syncs = disk.count
    assert syncs >= 9
    for file in out.iterdir():
        file.unlink()
    out.rmdir()
    for number in range(1, syncs + 1):
        disk.at(number)
        done = run(*arguments)
        assert done.exit_code == 1
        assert "No space left on device: '" in done.stderr
        assert str(tmp_path) in done.stderr
        assert list(tmp_path.iterdir()) == []
    disk.at(0)
    assert run(*arguments).exit_code == 0


def test_the_disk_is_full_while_training_and_it_goes_on(run, undisturbed, tmp_path, monkeypatch):
    disk, out = FullDisk(monkeypatch), tmp_path / "factory"
    done, number, failures = None, 2, 0
    while done is None or done.exit_code:
        disk.at(number)
        done = run(*TRAIN, "--out", out)
        number *= 2
        if done.exit_code:
            failures += 1
            assert done.exit_code == 1
            assert "No space left on device: '" in done.stderr
            assert visible(tmp_path) == ["factory.training"]
            assert [path.name for path in tmp_path.iterdir()] == ["factory.training"]
    assert failures >= 3
    assert hashes(out) == hashes(undisturbed[0])
    assert list(tmp_path.iterdir()) == [out]


def test_the_disk_is_full_at_a_profile_and_a_kit(run, pico, kit, tmp_path, monkeypatch):
    disk, out = FullDisk(monkeypatch), tmp_path / "out"
    out.mkdir()
    for arguments in (("--out", out / "device.json"), ("--kit", out / "kit.zip")):
        disk.at(1)
        done = run("profile", pico, *arguments)
        assert done.exit_code == 1
        assert "No space left on device: '" in done.stderr
        assert str(arguments[1]) in done.stderr
        assert list(out.iterdir()) == []
    before = {path.name for path in kit.iterdir()}
    disk.at(1)
    with pytest.raises(OSError, match="No space left"):
        measure(kit, out / "device.json")()
    assert {path.name for path in kit.iterdir()} == before
    disk.at(0)
    assert measure(kit, out / "device.json")() == 0


def test_a_limit_on_the_size_of_files(pico, tmp_path):
    """The system itself refuses to write on: no file can have more than some thousand bytes."""
    log, out = tmp_path / "log", tmp_path / "out"
    out.mkdir()

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
        done = CliRunner().invoke(app, ["make", str(pico), "--task", "red", "--out", str(out / "model")])
        assert "File too large: '" in done.stderr
        return done.exit_code

    assert os.waitstatus_to_exitcode(os.waitpid(forked(log, work), 0)[1]) == 1
    assert list(out.iterdir()) == []
