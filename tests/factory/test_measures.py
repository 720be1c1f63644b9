"""Names of numbers and limits, read and refused."""

import pytest

from brickyard.core.errors import ConfigError
from brickyard.factory.measures import Bound, Measure, read_measures


def test_a_device_is_named_by_the_stem_of_its_file():
    measure = Measure.parse("latency_ms@boards/pi4.json")
    assert (measure.kind, measure.device, measure.name) == ("latency_ms", "boards/pi4.json", "latency_ms@pi4")
    assert Measure.parse("accuracy").name == "accuracy"


def test_limits_are_read():
    assert Bound.parse("latency_ms@pi4.json=8").measure.name == "latency_ms@pi4"
    share = Bound.parse("macs=25%")
    assert (share.value, share.share) == (0.25, True)
    assert Bound.parse("accuracy=0.9").value == 0.9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acuracy", "nearest: .'accuracy'"),
        ("accuracy@pi4.json", "a device predicts latency_ms and energy_mj alone"),
        ("latency_ms@", "written as in latency_ms@board.json"),
    ],
)
def test_other_names_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Measure.parse(text)


@pytest.mark.parametrize("text", ["latency_ms", "latency_ms=", "latency_ms=fast", "macs=-3", "macs=inf"])
def test_other_limits_are_refused(text):
    with pytest.raises(ConfigError, match="write name=number with a number above 0"):
        Bound.parse(text)


def test_shares_are_of_macs():
    with pytest.raises(ConfigError, match="only macs may be a share"):
        Bound.parse("parameters=20%")
    with pytest.raises(ConfigError, match="up to 100 %"):
        Bound.parse("macs=120%")


def test_two_to_four_different_objectives():
    wanted, bounds = read_measures(["accuracy", "macs"], ["macs=50%"])
    assert [measure.name for measure in wanted] == ["accuracy", "macs"]
    assert [bound.measure.name for bound in bounds] == ["macs"]
    for texts in ([], ["macs"], ["macs", "macs"], ["accuracy", "macs", "parameters", "latency_ms", "ap50"]):
        with pytest.raises(ConfigError, match="two to four different ones"):
            read_measures(texts)
    with pytest.raises(ConfigError, match="give each once"):
        read_measures(["accuracy", "macs"], ["macs=1", "macs=2"])
    with pytest.raises(ConfigError, match="bear one name"):
        read_measures(["latency_ms@a/pi.json", "latency_ms@a/pi.json", "energy_mj@b/pi.json"][1:])
