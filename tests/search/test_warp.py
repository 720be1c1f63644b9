"""Warping keeps the order, and the distances of the better half."""

import numpy as np
import pytest

from brickyard.search.warp import half_rank


def test_order_and_the_better_half_stay():
    values = np.concatenate([np.linspace(5, 8, 10), [9, 10, 30, 60, 90]])
    warp = half_rank(values)
    warped = warp(values)
    assert (np.diff(warped) > 0).all()
    median = np.median(values)
    assert (warped[values <= median] == values[values <= median]).all()
    assert warped.max() < 20
    between = warp(np.array([45.0, 200.0]))
    assert warped[-3] < between[0] < warped[-2]
    assert between[1] > warped[-1]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 5.0]])
def test_few_or_equal_values_stay_as_they_are(values):
    assert half_rank(np.array(values))(np.array(values)).tolist() == values
