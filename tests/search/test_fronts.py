"""Fronts and volumes against slow ways and another library."""

import numpy as np
import pytest
from pymoo.indicators.hv import HV

from brickyard.search.fronts import boxes, hypervolume, non_dominated


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_front_and_volume(objectives, rng):
    values = np.round(rng.random((30, objectives)), 1)
    reference = np.full(objectives, 0.85)
    mask = non_dominated(values)
    dominated = [any((v <= w).all() and (v < w).any() for v in values) for w in values]
    assert not (mask & dominated).any()
    assert len(np.unique(values[mask], axis=0)) == mask.sum()
    assert {tuple(row) for row in values[mask]} == {tuple(row) for row in values[~np.array(dominated)]}
    assert hypervolume(values, reference) == pytest.approx(HV(ref_point=reference)(values))


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_boxes_part_the_free_space(objectives, rng):
    values = rng.random((12, objectives))
    reference = np.ones(objectives)
    lower, upper = boxes(values[non_dominated(values)], reference)
    points = rng.random((500, objectives))
    inside = ((points[:, None] > lower) & (points[:, None] <= upper)).all(2).sum(1)
    dominated = (values[None] <= points[:, None]).all(2).any(1)
    assert (inside == ~dominated).all()


def test_nothing_below_the_reference_is_no_volume():
    assert hypervolume(np.array([[2.0, 2.0]]), np.ones(2)) == 0.0
    assert hypervolume(np.zeros((0, 2)), np.ones(2)) == 0.0
    lower, upper = boxes(np.zeros((0, 2)), np.ones(2))
    assert np.isneginf(lower).all()
    assert (upper == 1).all()
