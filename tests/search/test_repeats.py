"""Which points are measured again: those that noise may have put on the front, or hidden behind it."""

import numpy as np
import pytest

from brickyard.search.repeats import noise_of, to_repeat


def points(*values):
    return [np.atleast_2d(np.array(value, dtype=float)) for value in values]


def test_noise_is_pooled_over_points_measured_more_than_once(rng):
    assert noise_of(points([[1.0, 2.0]])) is None
    exact = points([[1.0, 7.7], [1.2, 7.7]], [[9.0, 3.3], [9.2, 3.3]], [[4.0, 1.0]])
    assert noise_of(exact) == pytest.approx([np.sqrt(0.02), 0.0])
    assert noise_of(exact)[1] == 0.0
    many = [rng.normal(place, 0.5, (3, 1)) for place in range(2000)]
    assert noise_of(many) == pytest.approx([0.5], rel=0.03)


def test_first_some_of_the_front_show_how_large_the_noise_is():
    front = [[place, -place] for place in range(20)]
    found = to_repeat(points(*([value] for value in front), [[30.0, 30.0]]), 2)
    assert len(found) == 8
    assert {0, 19} <= set(found)
    assert 20 not in found
    assert set(to_repeat(points([[1.0]], [[2.0]], [[1.0], [1.1]]), 5)) == {0, 1}


def test_points_closer_than_the_noise_are_measured_again_those_with_fewest_measurements_first():
    noisy = [[1.0], [1.4]]  # deviation 0.28, standard error of a difference about 0.35
    known = [[[9.0], [9.4]]] * 8  # so that the noise is known
    measured = points(noisy, [[1.5]], *known)
    assert to_repeat(measured, 9) == [1, 0]
    assert to_repeat(measured, 2) == [1]
    assert to_repeat(measured, 1) == []


def test_what_is_told_apart_in_one_exact_objective_each_way_is_left_alone():
    noisy = [[1.0, 10.0], [1.4, 10.0]]
    known = [[[9.0, 20.0], [9.4, 20.0]]] * 8
    better_in_the_exact_one = points(noisy, [[1.5, 9.0]], *known)  # beats the other, or neither does
    assert to_repeat(better_in_the_exact_one, 9) == [1, 0]
    far = points(noisy, [[9.0, 9.0]], *known)
    assert to_repeat(far, 9) == []


def test_without_noise_nothing_is_repeated():
    twice = [[1.0, 2.0], [1.0, 2.0]]
    assert to_repeat(points(twice, twice, [[2.0, 1.0]] * 2), 9) == []
    assert to_repeat([], 3) == []
