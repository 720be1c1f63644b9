"""Memory of a file in a fresh process: repeatable, more than what is counted, and growing with it."""

import sys

import pytest

from brickyard.core.errors import DeviceError
from brickyard.devices import memory
from brickyard.devices.memory import measure_memory
from brickyard.factory.folder import FactoryFolder, bundled_factories

if not sys.platform.startswith("linux"):
    pytest.skip("memory is measured on Linux", allow_module_level=True)


def test_measured_memory_lies_above_the_counted_and_grows_with_it():
    blueprint = FactoryFolder.open(bundled_factories()["geometry"]).blueprint
    space = blueprint.space
    half = space.largest().replace(
        {name: tuple(range(space[name].count // 2)) for name in blueprint.blocks if space[name].minimum == 0}
    )
    counted, measured = [], []
    for config in (space.smallest(), half, space.largest()):
        counted.append(blueprint.count(config).peak_memory_bytes)
        measured.append(measure_memory(blueprint.cut(config).SerializeToString(), threads=1))
    assert counted == sorted(counted)
    for low, high in ((0, 1), (1, 2)):
        assert measured[high] - measured[low] > counted[high] - counted[low]
    for least, found in zip(counted, measured, strict=True):
        assert least < found < 6 * least + 1_000_000
    again = measure_memory(blueprint.cut(space.largest()).SerializeToString(), threads=1)
    assert again == pytest.approx(measured[-1], rel=0.15)


def test_what_cannot_be_measured_is_told(monkeypatch):
    with pytest.raises(DeviceError, match=r"the process that measures memory failed \(.*leave the limit out"):
        measure_memory(b"no model", threads=1)
    monkeypatch.setattr(memory, "_SECONDS", 0.001)
    with pytest.raises(DeviceError, match=r"was not done after 0\.001 s; repeat it"):
        measure_memory(b"no model", threads=1)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    with pytest.raises(DeviceError, match="what Linux tells of a process, and this is darwin"):
        measure_memory(b"", threads=1)
