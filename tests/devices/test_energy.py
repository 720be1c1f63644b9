"""Energy counters of a made-up machine: what is counted, wraparound, refusals, and the fitted model."""

import time

import numpy as np
import onnx
import pytest
from onnx import helper

from brickyard.core.errors import DeviceError
from brickyard.devices import energy
from brickyard.devices.energy import EnergyCounter, energy_record, fit_energy, measure_energy
from brickyard.devices.runtimes.ort import ORT

RANGE = 4_000_000


def zone(root, name, label, *, energy=0, span=RANGE):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    return folder / "energy_uj"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A package that draws 4 watts all the time, whose counter wraps around every second."""
    file = zone(tmp_path, "intel-rapl:0", "package-0")
    real, started = energy._text, time.perf_counter()

    def driven(path):
        if path == file:
            file.write_text(str(int(4e6 * (time.perf_counter() - started)) % (RANGE + 1)))
        return real(path)

    monkeypatch.setattr(energy, "_text", driven)
    return tmp_path


def multiplying(repeats):
    """A session of some matrix products, one after the other."""
    entry = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 64])
    result = helper.make_tensor_value_info(f"y{repeats - 1}", onnx.TensorProto.FLOAT, [64, 64])
    nodes = [
        helper.make_node("MatMul", ["x", "x" if n == 0 else f"y{n - 1}"], [f"y{n}"]) for n in range(repeats)
    ]
    graph = helper.make_graph(nodes, "products", [entry], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ORT.open(model.SerializeToString(), threads=1)


def test_packages_are_added_and_their_parts_and_twins_are_not(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", energy=10)
    second = zone(tmp_path, "intel-rapl:1", "package-1", energy=20)
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    counter = EnergyCounter(tmp_path)
    assert counter.name == "RAPL, package-0, package-1"
    for file in others:
        file.write_text("200000")
    assert counter.joules() == 0
    first.write_text("1010")
    second.write_text("520")
    assert counter.joules() == pytest.approx(1500e-6)
    assert counter.joules() == pytest.approx(1500e-6)


def test_wraparound_is_no_loss(tmp_path):
    file = zone(tmp_path, "intel-rapl:0", "package-0", energy=RANGE - 9)
    counter = EnergyCounter(tmp_path)
    file.write_text("5")
    assert counter.joules() == pytest.approx(15e-6)
    file.write_text(str(RANGE))
    file.write_text("4")
    assert counter.joules() == pytest.approx((15 + RANGE) * 1e-6)


def test_energy_of_a_picture_is_power_times_time(machine):
    counter, session = EnergyCounter(machine), multiplying(20)
    assert counter.watts(0.1) == pytest.approx(4.0, rel=0.3)
    used = measure_energy(session, counter, idle_watts=1.5, seconds=0.15, bursts=8)  # over a wraparound
    assert used.mj == pytest.approx(4.0 * 1e3 * used.seconds / used.runs, rel=0.2)
    assert used.above_idle_mj == pytest.approx(used.mj - 1.5e3 * used.seconds / used.runs)
    assert (used.idle_watts, used.counter) == (1.5, "RAPL, package-0")
    assert used.runs > 5


def test_the_fit_is_affine_in_latency_and_tells_its_held_out_error(machine):
    ms = np.linspace(0.1, 2, 9)
    exact = fit_energy(ms, 0.3 + 12 * ms, fitted=6)
    assert (exact["fixed_mj"], exact["mj_per_ms"]) == (pytest.approx(0.3), pytest.approx(12))
    assert (exact["fitted"], exact["held_out"]) == (6, 3)
    assert exact["held_out_mape"] == pytest.approx(0, abs=1e-9)
    off = fit_energy(ms, np.where(np.arange(9) < 6, 1, 1.25) * (0.3 + 12 * ms), fitted=6)
    assert off["held_out_mape"] == pytest.approx(0.2)
    sessions = [multiplying(count) for count in (2, 60, 20, 40, 10, 30)]
    latencies = []
    for session in sessions:
        given = {"x": np.ones((64, 64), np.float32)}
        started = time.perf_counter()
        for _ in range(100):
            session.run(None, given)
        latencies.append(10 * (time.perf_counter() - started))
    record = energy_record(sessions, latencies, EnergyCounter(machine), seconds=0.05)
    assert (record["fitted"], record["held_out"]) == (4, 2)
    assert record["idle_watts"] == pytest.approx(4.0, rel=0.3)
    assert record["mj_per_ms"] > 0


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda file: file.parents[1].joinpath("intel-rapl:0").rename(file.parents[1] / "other"),
            "has no zone",
        ),
        (lambda file: file.unlink(), r"energy_uj cannot be read \(No such file"),
        (lambda file: file.write_text("much"), "energy_uj holds 'much', no number"),
        (lambda file: file.with_name("name").write_text("psys"), "has no zone of a processor package"),
        (lambda file: file.with_name("max_energy_range_uj").write_text("-1"), "holds '-1', no number"),
    ],
)
def test_a_machine_without_a_usable_counter_is_refused(tmp_path, spoil, reason):
    spoil(zone(tmp_path, "intel-rapl:0", "package-0"))
    with pytest.raises(DeviceError, match=rf"this machine has no readable energy counter: .*{reason}"):
        EnergyCounter(tmp_path)


def test_a_counter_that_only_the_administrator_reads(tmp_path, monkeypatch):
    file = zone(tmp_path, "intel-rapl:0", "package-0")
    real = type(file).read_text

    def guarded(path, **options):
        if path == file:
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(type(file), "read_text", guarded)
    with pytest.raises(DeviceError, match=r"\(Permission denied\); let an administrator allow it"):
        EnergyCounter(tmp_path)


def test_a_counter_that_stands_still_is_refused(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", energy=7)
    with pytest.raises(DeviceError, match=r"stood still for 0\.01 s"):
        measure_energy(multiplying(2), EnergyCounter(tmp_path), idle_watts=0.0, seconds=0.01)
