"""Budgets: what is a limit, what is refused, and in which units it is judged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from brickyard.core.errors import BudgetError
from brickyard.factory.records import Budget, Costs

positive = st.one_of(st.none(), st.floats(1e-6, 1e9))
counts = st.one_of(st.none(), st.integers(1, 10**12))


@given(
    latency_ms=positive,
    max_parameters=counts,
    max_file_mb=positive,
    max_memory_mb=positive,
    max_macs=counts,
    energy_mj=positive,
)
def test_limits_are_those_that_are_set_in_base_units(**given_limits):
    limits = Budget(**given_limits).limits(whole_macs=1000)
    names = {
        "latency_ms": ("latency_ms", 1),
        "max_macs": ("macs", 1),
        "max_parameters": ("parameters", 1),
        "max_file_mb": ("file_bytes", 1e6),
        "max_memory_mb": ("runtime_memory_bytes", 1e6),
        "energy_mj": ("energy_mj", 1),
    }
    expected = {
        names[name][0]: value * names[name][1] for name, value in given_limits.items() if value is not None
    }
    assert limits == expected


@pytest.mark.parametrize(
    ("text", "limit"),
    [("25%", 250), ("12.5 %", 125), ("100%", 1000), (" 300 ", 300), ("0.01%", 0.1)],
)
def test_macs_may_be_a_share_of_the_whole_network(text, limit):
    assert Budget(max_macs=text).limits(whole_macs=1000) == {"macs": pytest.approx(limit)}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("latency_ms", 0, "must be above 0"),
        ("latency_ms", -1.0, "must be above 0"),
        ("latency_ms", float("nan"), "must be above 0"),
        ("max_file_mb", float("inf"), "must be above 0"),
        ("max_memory_mb", "much", "valid number"),
        ("energy_mj", 0.0, "must be above 0"),
        ("max_parameters", 1.5, "valid integer"),
        ("max_macs", "0%", "above 0 % and not above 100 %"),
        ("max_macs", "120%", "above 0 % and not above 100 %"),
        ("max_macs", "half", "whole number or a share such as '25%'"),
        ("max_macs", 0, "whole number above 0"),
        ("max_macs", True, "whole number above 0"),
        ("max_macs", 2.5, "whole number above 0"),
        ("max_watts", 3, "Extra inputs are not permitted"),
    ],
)
def test_what_is_no_limit_is_refused_with_the_known_ones(name, value, reason):
    with pytest.raises(BudgetError) as caught:
        Budget(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} = {value!r} is not a usable limit")
    assert reason in message
    assert (
        "known limits: latency_ms, max_macs, max_parameters, max_file_mb, max_memory_mb, energy_mj" in message
    )


def test_records_are_frozen_and_strict():
    with pytest.raises(ValidationError, match="frozen"):
        Budget(latency_ms=1).latency_ms = 2
    with pytest.raises(ValidationError, match="Extra inputs"):
        Costs(macs=1, parameters=1, file_bytes=1, peak_memory_bytes=1, watts=1)
    budget = Budget(latency_ms=0.5, max_macs="25 %")
    assert Budget(**budget.model_dump()) == budget
