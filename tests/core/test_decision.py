"""Decisions: legal values, round trips, sizes, and what is refused."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brickyard.core.decision import Choice, Decision, Option, Subset, decision_from_json
from brickyard.core.errors import ConfigError

counts = st.integers(1, 12).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, count)))
subsets = counts.map(lambda pair: Subset("s", pair[0], minimum=pair[1]))
choices = st.sets(st.integers(-5, 99), min_size=1, max_size=6).map(lambda values: Choice("c", sorted(values)))
options = st.sets(st.text(max_size=4), min_size=1, max_size=5).map(lambda values: Option("o", sorted(values)))
decisions = st.one_of(subsets, choices, options)


@given(decision=decisions, seed=st.integers(0, 999))
def test_legal_values_round_trip(decision: Decision, seed: int):
    for value in (decision.sample(random.Random(seed)), decision.largest(), decision.smallest()):
        assert decision.check(value) == value
        vector = decision.encode(value)
        assert len(vector) == decision.width
        assert decision.decode(vector) == value


@given(decision=decisions, numbers=st.lists(st.floats(-1, 2), min_size=12, max_size=12))
def test_any_vector_decodes_to_a_legal_value(decision: Decision, numbers: list[float]):
    value = decision.decode(numbers[: decision.width])
    assert decision.check(value) == value


@given(decision=decisions)
def test_json_gives_an_equal_decision(decision: Decision):
    again = decision_from_json(decision.to_json())
    assert type(again) is type(decision)
    assert again.to_json() == decision.to_json()
    assert again.value == again.largest()


@pytest.mark.parametrize(("count", "minimum"), [(1, 0), (1, 1), (5, 0), (5, 2), (5, 5), (8, 7)])
def test_size_of_a_subset_is_what_counting_gives(count: int, minimum: int):
    legal = sum(1 for kept in range(minimum, count + 1) for _ in combinations(range(count), kept))
    assert Subset("s", count, minimum=minimum).size == legal


def test_subset_draws_every_value():
    subset, rng = Subset("s", 3, minimum=1), random.Random(0)
    assert len({subset.sample(rng) for _ in range(300)}) == subset.size == 7


def test_choice_decodes_to_the_nearest_place():
    choice = Choice("kernel", (3, 5, 7))
    assert [choice.decode([place]) for place in (-1.0, 0.2, 0.3, 0.6, 0.8, 9.0)] == [3, 3, 5, 5, 7, 7]


@pytest.mark.parametrize(
    ("decision", "value", "allowed"),
    [
        (Choice("c", (1, 2)), 3, r"one of \[1, 2\]"),
        (Choice("c", (1, 2)), True, r"one of \[1, 2\]"),
        (Choice("c", (1, 2)), 1.0, r"one of \[1, 2\]"),
        (Option("c", ("a", "b")), "A", r"one of \['a', 'b'\]"),
        (Subset("c", 3), (3,), "0 to 3 different ascending indices in 0..2"),
        (Subset("c", 3), (1, 0), "0 to 3 different ascending"),
        (Subset("c", 3), (0, 0), "0 to 3 different ascending"),
        (Subset("c", 3), (True,), "0 to 3 different ascending"),
        (Subset("c", 3), 1, "0 to 3 different ascending"),
        (Subset("c", 3, minimum=2), (1,), "2 to 3 different ascending"),
    ],
)
def test_illegal_values_are_refused(decision: Decision, value: object, allowed: str):
    with pytest.raises(ConfigError, match=rf"^c = .* is not allowed; allowed: {allowed}") as caught:
        decision.check(value)
    assert (caught.value.path, caught.value.value) == ("c", value)
    assert caught.value.allowed in str(caught.value)


def test_lists_are_legal_and_become_tuples():
    assert Subset("s", 4).check([0, 2]) == (0, 2)


def test_malformed_decisions_are_refused():
    with pytest.raises(ConfigError, match=r"width needs ascending values, got \[2, 1\]"):
        Choice("width", (2, 1))
    with pytest.raises(ConfigError, match="o needs one or more different values"):
        Option("o", ())
    with pytest.raises(ConfigError, match="o needs one or more different values"):
        Option("o", ("a", "a"))
    with pytest.raises(ConfigError, match="s needs count >= 1 and 0 <= minimum <= count, got 2, 3"):
        Subset("s", 2, minimum=3)
    with pytest.raises(ConfigError, match=r"kind 'dial' is unknown; known: \['choice', 'option', 'subset'\]"):
        decision_from_json({"kind": "dial", "name": "x"})
    with pytest.raises(ConfigError, match="does not fit subset"):
        decision_from_json({"kind": "subset", "name": "x", "count": 2, "colour": "red"})
