"""The expected improvement against draws."""

import numpy as np
import pytest

from brickyard.search.fronts import boxes, hypervolume, non_dominated
from brickyard.search.improvement import expected_improvement


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_equals_the_mean_of_draws(objectives, rng):
    values = 0.3 + 0.7 * rng.random((6, objectives))
    reference = np.ones(objectives)
    front = values[non_dominated(values)]
    mean, deviation = np.full((1, objectives), 0.4), np.full((1, objectives), 0.2)
    found = expected_improvement(mean, deviation, *boxes(front, reference))[0]
    wider = np.where(rng.random((3000, objectives)) < 0.1, 3.0, 1.0)  # one in ten is an outlier
    draws = mean + deviation * wider * rng.standard_normal((3000, objectives))
    before = hypervolume(values, reference)
    gains = [hypervolume(np.vstack([front, draw]), reference) - before for draw in draws]
    assert found == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(len(gains)))


def test_a_sure_point_gains_what_it_adds():
    front, reference = np.array([[0.5, 0.5]]), np.ones(2)
    mean = np.array([[0.25, 0.75], [0.6, 0.6]])
    found = expected_improvement(mean, np.full((2, 2), 1e-9), *boxes(front, reference))
    assert found == pytest.approx([0.25 * 0.25, 0.0])
