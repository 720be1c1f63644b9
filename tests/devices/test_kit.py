"""Kits measure without brickyard: what is in them, that they resume, and what they refuse."""

import json
import subprocess
import sys
import time
import zipfile
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from brickyard.core.errors import DeviceError
from brickyard.devices import DeviceProfile, energy, kit_run
from brickyard.devices.kit import write_kit
from brickyard.devices.record import predicted_ms
from brickyard.devices.runtimes import RUNTIMES

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def blueprint():
    from brickyard.export.whole import export_blueprint
    from brickyard.networks import build

    torch.manual_seed(0)
    return export_blueprint(build("residual_cnn_pico").eval(), samples=1)


@pytest.fixture(scope="module")
def archive(blueprint, tmp_path_factory):
    path = tmp_path_factory.mktemp("kit") / "kit.zip"
    assert write_kit(blueprint, path, seed=0, name="pico") == len(blueprint.blocks) * 4 + 80
    return path


@pytest.fixture
def kit(archive, tmp_path):
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    return tmp_path / "kit"


@pytest.fixture
def lenient(monkeypatch):
    """A machine that is busy with other tests passes too."""
    monkeypatch.setattr(kit_run, "_NOISE", 100.0)
    monkeypatch.setattr(kit_run, "_SLOWDOWN", 100.0)
    monkeypatch.setattr(kit_run, "_FINEST", 100.0)


def measure(kit, out, *, seconds=0.0):
    return kit_run.run(kit, out=out, threads=1, name="board", seconds=seconds)


def test_the_profile_of_a_kit_is_one_of_the_factory(kit, lenient, blueprint, tmp_path, capsys):
    out = tmp_path / "device.json"
    kit_run.main(["--out", str(out), "--name", "board", "--seconds", "0"], folder=kit)
    assert "board, error" in capsys.readouterr().err
    found = DeviceProfile.load(out)
    assert (found.name, found.threads, found.blueprint_sha256) == ("board", 1, blueprint.sha256)
    assert found.clock_step_ns >= 1
    space = blueprint.space
    assert 0 < found.predict(space.smallest()) < found.predict(space.largest())


def test_energy_where_there_is_a_counter(kit, lenient, blueprint, tmp_path, monkeypatch, capsys):
    """A made-up machine of 5 watts: its counter is the clock."""
    out, zone = tmp_path / "device.json", tmp_path / "powercap" / "intel-rapl:0"
    monkeypatch.setattr(kit_run, "POWERCAP", zone.parent)
    with pytest.raises(SystemExit) as left:
        kit_run.main(["--out", str(out), "--energy"], folder=kit)
    assert left.value.code == 1
    assert "this machine has no readable energy counter" in capsys.readouterr().err
    assert not (kit / "times-1t.json").exists()
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0")
    monkeypatch.setattr(
        energy,
        "_number",
        lambda file: int(5e6 * time.perf_counter()) if file.name == "energy_uj" else 10**11,
    )
    monkeypatch.setattr(kit_run, "energy_record", partial(energy.energy_record, seconds=0.005))
    kit_run.main(["--out", str(out), "--energy", "--seconds", "0"], folder=kit)
    found, space = DeviceProfile.load(out), blueprint.space
    assert (found.energy.fitted, found.energy.held_out) == (24, 12)
    assert found.energy.idle_watts == pytest.approx(5, rel=0.4)
    record = json.loads(out.read_text())
    for config in (space.smallest(), space.largest()):
        assert predicted_ms(record, config) == pytest.approx(found.predict(config))
        assert found.predict_energy(config) > 0


def test_kits_are_equal_and_hold_no_trained_weights(archive, blueprint, tmp_path):
    write_kit(blueprint, tmp_path / "again.zip", seed=0, name="pico")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    trained = {tensor.name: numpy_helper.to_array(tensor) for tensor in blueprint.graph.graph.initializer}
    with zipfile.ZipFile(archive) as content:
        plan = json.loads(content.read("kit/plan.json"))
        largest = onnx.load_model_from_string(content.read(f"kit/{sorted(plan['models'])[-79]}"))
    for tensor in largest.graph.initializer:
        assert numpy_helper.to_array(tensor).shape == trained[tensor.name].shape
        assert not np.allclose(numpy_helper.to_array(tensor), trained[tensor.name])


def test_a_kit_runs_its_own_code_and_imports_nothing_else(kit):
    code = (
        f"import sys; sys.path.insert(0, {str(kit)!r})\n"
        "import brickyard.devices.kit_run as run\n"
        f"assert run.__file__.startswith({str(kit)!r}), run.__file__\n"
        "found = {'torch', 'onnx', 'pydantic', 'typer', 'brickyard.core.files'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_that_was_stopped_goes_on(kit, lenient, monkeypatch, tmp_path):
    real, calls = kit_run.round_robin, []

    def stopped(sessions, *, keep, **options):
        def keep_and_stop(times):
            keep(times)
            if len(times[0]) == 2:
                raise KeyboardInterrupt

        return real(sessions, keep=keep_and_stop, **options)

    def watched(sessions, *, earlier, **options):
        calls.append([[len(burst) for burst in bursts] for bursts in earlier])
        return real(sessions, earlier=earlier, **options)

    monkeypatch.setattr(kit_run, "round_robin", stopped)
    out = tmp_path / "device.json"
    with pytest.raises(SystemExit) as left:
        kit_run.main(["--out", str(out)], folder=kit)
    assert left.value.code == 130
    assert not out.exists()
    kept = json.loads((kit / "times-1t.json").read_text())["times"]
    monkeypatch.setattr(kit_run, "round_robin", watched)
    measure(kit, out)
    assert calls == [[[len(burst) for burst in bursts] for bursts in kept]]
    after = json.loads((kit / "times-1t.json").read_text())["times"]
    assert [bursts[:2] for bursts in after] == kept


def test_noise_is_refused_and_the_times_are_kept(kit, lenient, monkeypatch, tmp_path):
    monkeypatch.setattr(kit_run, "_NOISE", -1.0)
    with pytest.raises(DeviceError, match=r"two halves of the times differ by .* No profile was written"):
        measure(kit, tmp_path / "device.json")
    assert not (tmp_path / "device.json").exists()
    assert len(json.loads((kit / "times-1t.json").read_text())["times"][0]) == 6


def test_a_coarse_clock_is_refused(kit, lenient, monkeypatch, tmp_path):
    monkeypatch.setattr(kit_run, "_FINEST", 0.02)
    monkeypatch.setattr(kit_run, "clock_step_ns", lambda: 15_000_000)
    with pytest.raises(DeviceError, match="moves in steps of 15000000 ns, too coarse"):
        measure(kit, tmp_path / "device.json")


def test_damage_and_foreign_times_are_refused(kit, lenient, tmp_path, capsys):
    model = kit / "models" / "0003.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    with pytest.raises(SystemExit) as left:
        kit_run.main(["--out", str(tmp_path / "device.json")], folder=kit)
    assert left.value.code == 1
    assert "0003.onnx is missing or damaged; unpack the kit again" in capsys.readouterr().err
    model.write_bytes(content)
    (kit / "times-1t.json").write_text(json.dumps({"key": {"processor": "other"}, "times": []}))
    with pytest.raises(DeviceError, match="holds times of another machine, runtime or kit"):
        measure(kit, tmp_path / "device.json")
    (kit / "plan.json").unlink()
    with pytest.raises(DeviceError, match=r"plan\.json is missing; unpack the whole kit"):
        measure(kit, tmp_path / "device.json")


def test_a_taken_file_is_left_alone(kit, tmp_path):
    (tmp_path / "device.json").write_text("mine")
    with pytest.raises(DeviceError, match="already exists"):
        measure(kit, tmp_path / "device.json")
    assert (tmp_path / "device.json").read_text() == "mine"


def test_a_kit_of_quantised_models_says_so(lenient, blueprint, tmp_path):
    assert write_kit(blueprint, tmp_path / "kit.zip", seed=0, name="pico", runtime=RUNTIMES["ort-int8"]) > 80
    with zipfile.ZipFile(tmp_path / "kit.zip") as content:
        content.extractall(tmp_path)
        model = onnx.load_model_from_string(content.read("kit/models/0000.onnx"))
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    kit_run.run(tmp_path / "kit", out=tmp_path / "device.json", threads=1, name=None, seconds=0.0)
    found = DeviceProfile.load(tmp_path / "device.json")
    assert found.precision == "int8"
    assert found.name.endswith("-int8-1t")
    with pytest.raises(DeviceError, match="a kit measures with onnxruntime, not with openvino"):
        write_kit(blueprint, tmp_path / "no.zip", seed=0, name="pico", runtime=RUNTIMES["openvino"])
