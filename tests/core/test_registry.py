"""Registries: names are added once, unknown ones are refused with the nearest."""

import pytest

from brickyard.core import registry
from brickyard.core.errors import ConfigError
from brickyard.core.registry import Registry


class Point:
    """An entry point of a third party."""

    def __init__(self, name: str, entry: object) -> None:
        self.name, self.entry = name, entry

    def load(self) -> object:
        return self.entry


def test_add_gives_back_what_it_got():
    things: Registry[object] = Registry("things")
    thing = object()
    assert things.add("one")(thing) is thing
    assert things["one"] is thing
    with pytest.raises(ConfigError, match="things already has an entry 'one'"):
        things.add("one")(thing)


def test_unknown_names_are_refused_with_the_nearest():
    things: Registry[int] = Registry("things")
    things.add("residual")(1)
    things.add("mobile")(2)
    with pytest.raises(ConfigError, match=r"'residul' is not among the things; nearest: \['residual'\]"):
        things["residul"]
    with pytest.raises(ConfigError, match=r"nearest: \['mobile', 'residual'\]"):
        things["zzz"]
    assert list(things) == ["mobile", "residual"]


def test_third_parties_come_in_through_entry_points(monkeypatch: pytest.MonkeyPatch):
    points = {"brickyard.things": [Point("theirs", 7), Point("ours", 8)]}
    monkeypatch.setattr(registry, "entry_points", lambda group: points[group])
    things: Registry[int] = Registry("things")
    things.add("ours")(1)
    assert things["theirs"] == 7
    assert things["ours"] == 1
