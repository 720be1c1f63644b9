"""Cuts: which entries of an axis stay."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brickyard.core.cut import Cut


@st.composite
def cuts_and_values(draw: st.DrawFn) -> tuple[Cut, object]:
    kind = draw(st.sampled_from(["subset", "prefix", "center"]))
    if kind == "center":
        full = draw(st.sampled_from([3, 5, 7, 9]))
        return Cut(2, "kernel", "center", full), draw(st.sampled_from(range(1, full + 1, 2)))
    units, unit = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    cut = Cut(0, "width", kind, units * unit, unit)
    if kind == "prefix":
        return cut, draw(st.integers(0, units))
    return cut, tuple(sorted(draw(st.sets(st.integers(0, units - 1)))))


@given(cuts_and_values())
def test_indices_fit_length_and_axis(pair: tuple[Cut, object]):
    cut, value = pair
    indices = cut.indices(value)
    assert indices.shape == (cut.length(value),)
    assert np.all(np.diff(indices) > 0)
    assert not len(indices) or 0 <= indices[0] <= indices[-1] < cut.full
    if cut.kind == "center":
        assert indices[0] == cut.full - 1 - indices[-1]


@pytest.mark.parametrize(
    ("cut", "value", "expected"),
    [
        (Cut(0, "w", "subset", 8, 2), (0, 3), [0, 1, 6, 7]),
        (Cut(0, "w", "subset", 8, 2), (), []),
        (Cut(0, "w", "prefix", 8, 2), 3, [0, 1, 2, 3, 4, 5]),
        (Cut(0, "w", "center", 7), 3, [2, 3, 4]),
    ],
)
def test_indices(cut: Cut, value: object, expected: list[int]):
    assert cut.indices(value).tolist() == expected


def test_json():
    cut = Cut(1, "stage0.block0", "subset", 64, 8)
    assert Cut.from_json(json.loads(json.dumps(cut.to_json()))) == cut


def test_entries_behind_the_units_always_stay():
    cut = Cut(0, "experts", "subset", 8, 2, 2)
    assert cut.indices((0, 2)).tolist() == [0, 1, 4, 5, 6, 7]
    assert cut.indices(()).tolist() == [6, 7]
    assert (cut.length((0, 2)), cut.length((0, 1, 2))) == (6, 8)
    assert Cut.from_json(json.loads(json.dumps(cut.to_json()))) == cut
    assert "fixed" not in Cut(0, "experts", "subset", 8, 2).to_json()
