"""Spaces: configs are checked whole, counted, encoded and read back."""

import json
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brickyard.core.config import Config
from brickyard.core.decision import Choice, Option, Subset
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space


def space() -> Space:
    return Space([Subset("block", 3, minimum=1), Choice("depth", (1, 2, 4)), Option("act", ("relu", "gelu"))])


def test_size_is_the_number_of_configs_it_contains():
    subsets = [tuple(i for i in range(3) if bits >> i & 1) for bits in range(8)]
    candidates = product(subsets, range(6), ("relu", "gelu", "tanh"))
    legal = [
        config
        for block, depth, act in candidates
        if space().contains(config := {"block": block, "depth": depth, "act": act})
    ]
    assert len(legal) == space().size == 7 * 3 * 2


@given(seed=st.integers(0, 999))
def test_samples_are_legal_and_round_trip(seed: int):
    config = space().sample(random.Random(seed))
    assert config in (space().check(config), space().decode(space().encode(config)))
    assert len(space().encode(config)) == space().width == 6


@given(vector=st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_any_vector_decodes_to_a_legal_config(vector: list[float]):
    assert space().contains(space().decode(vector))


def test_corners():
    assert space().largest() == Config({"block": (0, 1, 2), "depth": 4, "act": "relu"})
    assert space().smallest() == Config({"block": (0,), "depth": 1, "act": "relu"})
    assert space().active() == space().largest()


def test_check_gives_canonical_form_and_order():
    checked = space().check({"act": "gelu", "depth": 2, "block": [0, 2]})
    assert list(checked.items()) == [("block", (0, 2)), ("depth", 2), ("act", "gelu")]


def test_wrong_names_are_refused():
    config = dict(space().largest())
    with pytest.raises(ConfigError, match=r"'dept' is not in the space; nearest: \['depth'\]") as caught:
        space().check({**config, "dept": 3})
    assert (caught.value.path, caught.value.value, caught.value.allowed) == ("dept", 3, ["depth"])
    del config["act"]
    with pytest.raises(ConfigError, match="lacks a value for 'act'"):
        space().check(config)
    assert not space().contains(config)


def test_vector_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="vector has 5 entries; this space needs 6"):
        space().decode([0.0] * 5)


def test_a_shared_decision_counts_once_and_a_namesake_is_refused():
    depth = Choice("depth", (1, 2))
    assert len(Space([depth, depth])) == 1
    with pytest.raises(ConfigError, match="two different decisions are named 'depth'"):
        Space([depth, Choice("depth", (1, 2))])


def test_json_gives_an_equal_space():
    again = Space.from_json(json.loads(json.dumps(space().to_json())))
    assert again == space()
    assert again != Space([Choice("depth", (1, 2))])


def test_thousands_of_bits_are_no_burden():
    wide = Space(Subset(f"layer{index}", 256) for index in range(40))
    config = wide.sample(random.Random(0))
    assert wide.size == 2**10240
    assert wide.decode(wide.encode(config)) == config
