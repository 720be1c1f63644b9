"""Limits on memory and energy: kept by measurement here, by prediction elsewhere, refused with the reason."""

import sys
import time
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from brickyard.core.errors import DeviceError, InfeasibleError
from brickyard.core.files import read_json
from brickyard.devices import energy
from brickyard.devices.energy import EnergyUse
from brickyard.devices.energy_model import EnergyModel
from brickyard.devices.measure import processor_name
from brickyard.devices.runtimes import RUNTIMES
from brickyard.devices.runtimes.torch_eager import ModuleSession
from brickyard.factory.checks import tightened, with_headroom
from brickyard.factory.factory import Factory
from brickyard.factory.formats.production import Production
from brickyard.factory.make import Maker
from brickyard.factory.records import Report

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured on Linux")
ENERGY = EnergyModel(
    fixed_mj=0.5,
    mj_per_ms=8.0,
    held_out_mape=0.03,
    fitted=24,
    held_out=12,
    idle_watts=3.0,
    counter="RAPL, package-0",
)


@pytest.fixture
def powered(factory, board):
    """A device elsewhere whose energy is known."""
    return board(factory).model_copy(update={"energy": ENERGY})


@linux
def test_a_memory_limit_is_kept_by_the_measured_number(tmp_path):
    geometry = Factory.load("geometry")
    report = geometry.make(task="red circle", budget={"max_memory_mb": 1.2}, out=tmp_path / "model")
    assert report.peak_memory_bytes < report.runtime_memory_bytes <= 1_200_000
    assert report.runtime_memory_bytes > 0.75 * 1_200_000
    assert report.binding_limit == "runtime_memory_bytes"
    assert report.predicted.runtime_memory_bytes == pytest.approx(report.runtime_memory_bytes, rel=0.15)
    assert report.whole.runtime_memory_bytes > report.runtime_memory_bytes
    assert Report(**read_json(tmp_path / "model" / "report.json")) == report
    assert "Memory in the runtime" in (tmp_path / "model" / "report.html").read_text()
    with pytest.raises(InfeasibleError, match=r"runtime_memory_bytes = 100000 cannot be met") as caught:
        geometry.make(task="red circle", budget={"max_memory_mb": 0.1}, out=tmp_path / "none")
    assert caught.value.smallest > 100_000
    assert caught.value.nearest["costs"]["runtime_memory_bytes"] <= caught.value.smallest * 1.02
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@linux
def test_memory_is_measured_only_where_it_is_asked_for(factory, tmp_path, monkeypatch):
    plain = factory.make(task="red", budget={"max_macs": "60%"}, out=tmp_path / "a")
    asked = factory.make(task="red", budget={"max_macs": "60%"}, out=tmp_path / "b", measure_memory=True)
    assert plain.runtime_memory_bytes is None
    assert "memory" not in plain.seconds
    assert asked.runtime_memory_bytes > asked.peak_memory_bytes
    assert plain.config_sha256 == asked.config_sha256


def test_a_file_that_takes_more_than_predicted_is_made_smaller(factory, monkeypatch):
    maker, task = Maker(factory.folder, device=None), factory.vocabulary.parse("red")
    sizes, made = [1_000_000, 2_000_000, 3_000_000], []
    smallest, largest = maker.blueprint.space.smallest(), maker.blueprint.space.largest()

    def measure(factor):
        def fake(content, *, threads):
            if len(sizes) > 0:
                return sizes.pop(0)
            made.append(len(content))
            return int(factor * 2_000_000 / len(made))

        return fake

    monkeypatch.setattr("brickyard.factory.checks.measure_memory", measure(1.2))
    model = maker.make(task, {"runtime_memory_bytes": 2_000_000.0}, seed=0)
    assert (model.rounds, model.memory) == (2, 1_200_000)
    assert made[1] < made[0]
    monkeypatch.setattr("brickyard.factory.checks.measure_memory", lambda content, *, threads: 2_500_000)
    with pytest.raises(InfeasibleError, match=r"in 3 rounds: the smallest file took 2500000 bytes") as caught:
        maker.make(task, {"runtime_memory_bytes": 2_000_000.0}, seed=0)
    assert caught.value.smallest == 2_500_000
    assert smallest != largest


def test_elsewhere_energy_is_limited_by_prediction(factory, powered, tmp_path):
    whole = ENERGY.predict(powered, factory.folder.blueprint.space.largest())
    assert whole == pytest.approx(0.5 + 8 * powered.predict(factory.folder.blueprint.space.largest()))
    report = factory.make(task="red", budget={"energy_mj": 0.7 * whole}, device=powered, out=tmp_path / "m")
    assert report.predicted.energy_mj <= 0.7 * whole
    assert report.energy is None
    assert report.binding_limit == "energy_mj"
    assert "mJ" in (tmp_path / "m" / "report.html").read_text()
    with pytest.raises(InfeasibleError, match=r"energy_mj = 0\.1 cannot be met: .* needs 2\.") as caught:
        factory.make(task="red", budget={"energy_mj": 0.1}, device=powered, out=tmp_path / "n")
    assert caught.value.nearest["costs"]["energy_mj"] <= caught.value.smallest * 1.02


def test_here_energy_is_measured_and_the_model_made_smaller(factory, powered, monkeypatch, tmp_path):
    here = powered.model_copy(update={"processor": processor_name()})
    counter = SimpleNamespace(watts=lambda seconds: 3.0)
    for module in ("checks", "factory"):
        monkeypatch.setattr(f"brickyard.factory.{module}.EnergyCounter", lambda root: counter)
    limit = 0.8 * ENERGY.predict(here, factory.folder.blueprint.space.largest())
    factors = [1.4, 0.9]

    def measure(session, given, *, idle_watts):
        assert given is counter
        return EnergyUse(limit * factors.pop(0), idle_watts, 0.1, 100, 0.5, "RAPL, package-0")

    monkeypatch.setattr("brickyard.factory.checks.measure_energy", measure)
    report = factory.make(task="red", budget={"energy_mj": limit}, device=here, out=tmp_path / "m")
    assert report.rounds == 2
    assert report.energy.mj == pytest.approx(0.9 * limit)
    assert report.energy.idle_watts == 3.0
    assert report.predicted.energy_mj < limit * 0.98 / 1.4
    page = (tmp_path / "m" / "report.html").read_text()
    assert "idle power included" in page
    assert "3.00 W" in page


@pytest.mark.parametrize("kind", ["no counter", "no counter here", "no energy"])
def test_energy_that_cannot_be_told_is_refused_before_anything_is_done(
    factory, board, powered, tmp_path, monkeypatch, kind
):
    for module in ("checks", "factory"):
        monkeypatch.setattr(f"brickyard.factory.{module}.POWERCAP", tmp_path)
    monkeypatch.setattr("brickyard.factory.factory.profile_device", None)
    device, message = {
        "no counter": (None, "this machine has no readable energy counter"),
        "no counter here": (
            powered.model_copy(update={"processor": processor_name()}),
            "this machine has no readable energy counter",
        ),
        "no energy": (board(factory), "device 'board' says nothing of energy"),
    }[kind]
    with pytest.raises(DeviceError, match=message):
        factory.make(task="red", budget={"energy_mj": 1}, device=device, out=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_headroom_and_tightening():
    limits = {"latency_ms": 1.0, "macs": 10.0, "runtime_memory_bytes": 100.0}
    assert with_headroom(limits, here=False) == {**limits, "runtime_memory_bytes": 97.0}
    assert with_headroom(limits, here=True)["latency_ms"] < 1
    over = {"latency_ms": 2.0}
    for predicted, expected in ((1.0, 0.49), (0.5, 0.245)):
        found = tightened(limits, limits, over=over, predicted={**limits, "latency_ms": predicted})
        assert found == {**limits, "latency_ms": pytest.approx(expected)}


def test_memory_of_8_bits_is_that_of_the_very_file(factory, tmp_path, monkeypatch):
    seen = []

    def size(content, *, threads):
        seen.append(content)
        return len(content)

    monkeypatch.setattr("brickyard.factory.checks.measure_memory", size)
    made = factory.make(task="red", format="onnx-int8", measure_memory=True, out=tmp_path / "a")
    assert seen == [(tmp_path / "a" / "model.int8.onnx").read_bytes()]
    assert made.runtime_memory_bytes == made.file_bytes
    limit = 0.8 * made.file_bytes
    small = factory.make(
        task="red", format="onnx-int8", budget={"max_memory_mb": limit / 1e6}, out=tmp_path / "b"
    )
    assert seen[-1] == (tmp_path / "b" / "model.int8.onnx").read_bytes()
    assert small.runtime_memory_bytes == small.file_bytes <= limit
    assert small.binding_limit == "runtime_memory_bytes"


@pytest.mark.parametrize("name", ["openvino", "executorch"])
def test_memory_of_files_that_onnx_runtime_does_not_run_is_refused(factory, tmp_path, name):
    message = rf"ONNX Runtime, which does not run the format {name}; take the format onnx or onnx-int8, or"
    for asked in ({"budget": {"max_memory_mb": 1}}, {"measure_memory": True}):
        with pytest.raises(DeviceError, match=message):
            factory.make(task="red", format=name, out=tmp_path / "m", **asked)
    with pytest.raises(DeviceError, match=message):
        factory.request_key(task="red", format=name, budget={"max_memory_mb": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_format_that_is_larger_than_estimated_is_made_smaller(
    factory, tmp_path, monkeypatch
):
    whole = factory.make(task="red", format="onnx-int8", out=tmp_path / "whole").file_bytes
    real = Production.file_bytes
    monkeypatch.setattr(Production, "file_bytes", lambda self, counts: round(0.8 * real(self, counts)))
    limit = round(0.85 * whole)
    made = factory.make(
        task="red", format="onnx-int8", budget={"max_file_mb": limit / 1e6}, out=tmp_path / "m"
    )
    assert made.rounds > 1
    assert made.file_bytes <= limit
    monkeypatch.setattr("brickyard.factory.make.size_of", lambda files: 10**6)
    with pytest.raises(
        InfeasibleError,
        match=rf"file_bytes = {limit} was .* the smallest file took 1000000 bytes; allow that$",
    ):
        factory.make(
            task="red", format="onnx-int8", budget={"max_file_mb": limit / 1e6}, out=tmp_path / "none"
        )
    assert not (tmp_path / "none").exists()


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    """A made-up machine of 5 watts: its counter is the clock."""
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0")
    monkeypatch.setattr(
        energy,
        "_number",
        lambda file: int(5e6 * time.perf_counter()) if file.name == "energy_uj" else 10**11,
    )
    for module in ("checks", "factory"):
        monkeypatch.setattr(f"brickyard.factory.{module}.POWERCAP", zone.parent)
    monkeypatch.setattr("brickyard.devices.energy_model.SUBNETS", 6)
    monkeypatch.setattr(
        "brickyard.devices.energy_model.energy_record", partial(energy.energy_record, seconds=0.01)
    )


@pytest.mark.parametrize("name", RUNTIMES)
def test_energy_is_measured_with_the_runtime_of_the_device(
    factory, board, powercap, tmp_path, monkeypatch, name
):
    runtime = RUNTIMES[name]
    if find_spec(runtime.library) is None:
        pytest.skip("an extra")
    here = board(factory).model_copy(
        update={
            "runtime": runtime.full_name(),
            "precision": runtime.precision,
            "processor": processor_name(),
        }
    )
    opened, measured = [], []
    real, real_measure = type(runtime).open, energy.measure_energy

    def watched(self, content, **options):
        session = real(self, content, **options)
        if self.precision == runtime.precision:
            opened.append(session)
        return session

    def measure(session, counter, **options):
        measured.append(session)
        return real_measure(session, counter, **{**options, "seconds": 0.01})

    monkeypatch.setattr("brickyard.factory.factory.profile_device", lambda network, **options: here)
    monkeypatch.setattr(type(runtime), "open", watched)
    for module in ("devices.energy", "factory.checks"):
        monkeypatch.setattr(f"brickyard.{module}.measure_energy", measure)
    profile = factory.profile(runtime=name, energy=True)
    assert profile.energy.held_out == 2
    assert opened[-6:] == measured
    report = factory.make(task="red", budget={"energy_mj": 1000}, device=profile, out=tmp_path / "m")
    assert 0 < report.energy.mj < 1000
    assert measured[-1] in opened
    assert isinstance(measured[-1], ModuleSession) == (name == "torch")
