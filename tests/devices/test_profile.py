"""Device profiles: what is measured, fitted and kept; times come from a made-up device."""

import importlib
import json
import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import DeviceError
from brickyard.core.space import Space
from brickyard.devices import DeviceProfile, Runtime, profile, this_device_name

module = importlib.import_module("brickyard.devices.profile")


class Graph(SimpleNamespace):
    """Stands for an ONNX model: all that matters is how long it runs."""

    def SerializeToString(self) -> float:
        return self.ms


class Device:
    """A network on a device whose times are known: two blocks, one with a kernel and a depth."""

    sha256 = "abc"
    blocks = ("first", "second")

    def __init__(self) -> None:
        decisions = [Subset("first", 6), Subset("second", 40, minimum=1), Choice("second.kernel", (3, 5))]
        self.space = Space([*decisions, Choice("depth", (1, 2)), Subset("classes", 3, minimum=1)])

    def ms(self, block: str, count: int, kernel: int) -> float:
        return 0.02 + (0.01 * count if block == "first" else 0.001 * count * kernel)

    def cut(self, config: Mapping[str, Any]) -> Graph:
        total = 0.05
        for block in self.blocks:
            count = len(config[block])
            if count and (block == "first" or config["depth"] > 1):
                total += 0.9 * self.ms(block, count, config["second.kernel"]) - 0.015
        return Graph(ms=total)

    def region_model(self, block: str, count: int, choices: Mapping[str, Any] | None = None) -> Graph:
        return Graph(ms=self.ms(block, count, (choices or {}).get("second.kernel", 5)))

    def kernel_of(self, block: str) -> Choice | None:
        return self.space["second.kernel"] if block == "second" else None

    def depth_of(self, block: str) -> tuple[str, int] | None:
        return ("depth", 1) if block == "second" else None


class MadeUp(Runtime):
    """A runtime whose sessions are the times themselves."""

    name, library, short, precision = "made-up", "made-up", "mu", "int8"

    def version(self) -> str:
        return "7"

    def open(self, content: Any, *, threads: int, twin: Any = None) -> Any:
        return content


@pytest.fixture
def known(monkeypatch) -> DeviceProfile:
    def timed(
        sessions: list[float], *, report: Any = lambda done, most: None, **options: Any
    ) -> list[np.ndarray]:
        report(0, 1)
        return [np.full((2, 5), ms) * [[1.0], [3.0]] for ms in sessions]

    monkeypatch.setattr(module, "round_robin", timed)
    return profile(Device(), runtime=MadeUp(), threads=1, seed=0, name="made-up")


def test_subnets_are_predicted(known: DeviceProfile):
    device, rng = Device(), random.Random(1)
    for _ in range(50):
        config = device.space.sample(rng)
        assert known.predict(config) == pytest.approx(device.cut(config).ms, rel=0.01)
    assert known.held_out_mape < 0.005
    assert known.held_out_worst < 0.02
    assert known.median_ratio == 1.0
    assert known.affine == pytest.approx((0.9, 0.015, 0.05), rel=0.01)
    assert (known.name, known.threads, known.fitted, known.held_out) == ("made-up", 1, 48, 32)


def test_tables_hold_the_quietest_burst(known: DeviceProfile):
    first, second = known.blocks["first"], known.blocks["second"]
    assert first.counts == (0, 1, 2, 3, 4, 5, 6)
    assert first.ms_p20[0] == pytest.approx((0, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08))
    assert second.kernels == (3, 5)
    assert (second.counts[0], second.counts[-1], len(second.counts)) == (0, 40, 13)
    assert second.depth == ("depth", 1)


def test_a_block_left_out_or_empty_costs_nothing(known: DeviceProfile):
    config = Device().space.largest()
    bypassed = known.predict(config.replace({"depth": 1}))
    assert bypassed == known.predict(config.replace({"depth": 1, "second": (0,)}))
    assert known.predict(config.replace({"depth": 1, "first": ()})) == known.fixed_ms


def test_saving_and_loading(known: DeviceProfile, tmp_path):
    known.predict(Device().space.largest())
    known.save(tmp_path / "device.json")
    loaded = DeviceProfile.load(tmp_path / "device.json")
    assert loaded.model_dump() == known.model_dump()
    assert loaded.predict(Device().space.largest()) == known.predict(Device().space.largest())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, r"not a device profile of version 1 \(format_version"),
        ({"more": 1}, r"\(more: Extra inputs are not permitted"),
        ({"threads": "many"}, r"\(threads: "),
    ],
)
def test_odd_files_are_refused(known: DeviceProfile, tmp_path, change: dict[str, Any], message: str):
    path = tmp_path / "device.json"
    path.write_text(json.dumps({**json.loads(known.model_dump_json()), **change}))
    with pytest.raises(DeviceError, match=message):
        DeviceProfile.load(path)


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(DeviceError, match="is not a file; expected a device profile"):
        DeviceProfile.load(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("no JSON")
    with pytest.raises(DeviceError, match="make it with `brickyard profile`"):
        DeviceProfile.load(tmp_path / "text.json")


def test_runtime_and_precision_are_part_of_the_device(monkeypatch, known: DeviceProfile):
    assert (known.runtime, known.precision, known.threads) == ("made-up 7", "int8", 1)
    named = profile(Device(), runtime=MadeUp(), threads=2, seed=0)
    assert named.name == this_device_name(2, MadeUp())


def test_twins_are_those_of_the_whole_subnets(known: DeviceProfile):
    """Blocks alone have none; each subnet has its own, built when the runtime asks for it."""
    asked: list[Any] = []

    class Modules(MadeUp):
        def open(self, content: Any, *, threads: int, twin: Any = None) -> Any:
            asked.append(None if twin is None else twin())
            return content

    profile(Device(), runtime=Modules(), twin=lambda config: config, threads=1, seed=0)
    assert asked[: 6 + 2 * 12] == [None] * 30
    assert len(asked) == 30 + 80
    assert asked[30] == Device().space.smallest()
    assert asked[31] == Device().space.largest()


def test_progress_rises_to_its_end(monkeypatch, known: DeviceProfile):
    seen = []
    profile(Device(), runtime=MadeUp(), threads=1, seed=0, progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    total = 2 * (6 + 2 * 12 + 80)
    assert seen[0] == (0, total, "opening blocks and subnets")
    assert seen[-1] == (total, total, "done")


def test_threads_are_checked_and_named():
    with pytest.raises(DeviceError, match="threads = 0 is not allowed"):
        profile(Device(), threads=0, seed=0)
    assert this_device_name(2).endswith("-fp32-2t")
    assert this_device_name(2, MadeUp()).endswith("-mu7-int8-2t")
    assert this_device_name(1) == this_device_name(1).lower()


@pytest.mark.slow
def test_a_real_network_is_profiled(monkeypatch):
    from brickyard.export.whole import export_blueprint
    from brickyard.networks import build

    blueprint = export_blueprint(build("residual_cnn_pico").eval(), samples=1)
    found = profile(blueprint, threads=1, seed=0)
    assert found.blueprint_sha256 == blueprint.sha256
    assert 0 < found.predict(blueprint.space.smallest()) < found.predict(blueprint.space.largest())
