"""Configs: frozen, equal whatever the order, the same after JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brickyard.core.config import Config
from brickyard.core.errors import ConfigError

values = st.one_of(st.integers(), st.text(max_size=5), st.lists(st.integers(0, 9), max_size=4))


@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_json_keeps_everything(record: dict[str, object]):
    config = Config(record)
    again = Config.from_json(config.to_json())
    assert again == config
    assert (hash(again), again.digest()) == (hash(config), config.digest())


def test_order_does_not_matter():
    one, two = Config({"a": 1, "b": [2]}), Config({"b": (2,), "a": 1})
    assert one == two
    assert (hash(one), one.digest(), one.to_json()) == (hash(two), two.digest(), two.to_json())
    assert one != Config({"a": 1, "b": [3]})
    assert one != {"a": 1, "b": (2,)}


def test_values_are_frozen():
    blocks = [0, 3]
    config = Config({"stage1": blocks})
    blocks.append(4)
    assert config["stage1"] == (0, 3)
    with pytest.raises(TypeError):
        config["stage1"] = ()  # type: ignore[index]


def test_digest_stays_what_it_is():
    assert Config({"depth": 2, "stage1": [0, 3]}).digest().startswith("929c")


def test_replace_leaves_the_first_alone():
    config = Config({"a": 1, "b": 2})
    assert config.replace({"b": 3}) == Config({"a": 1, "b": 3})
    assert config["b"] == 2


@pytest.mark.parametrize(
    ("text", "message"), [("{", "config is not JSON"), ("[1]", "is a JSON list; expected an object")]
)
def test_other_text_is_refused(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        Config.from_json(text)
