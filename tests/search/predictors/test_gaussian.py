"""The Gaussian process against another library, finite differences and its own promises."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern

from brickyard.search.predictors.gaussian import GaussianProcess, _loss, _prior


def wave(x):
    return np.sin(5 * x[:, 0]) + x[:, 1]


def test_gradient_of_the_posterior(rng):
    x = rng.random((25, 4))
    z = wave(x) - wave(x).mean()
    state = 0.3 * rng.standard_normal(7)
    value = check_grad(lambda s: _loss(s, x, z, _prior(4))[0], lambda s: _loss(s, x, z, _prior(4))[1], state)
    assert value < 1e-6


def test_predictions_equal_those_of_another_library(rng):
    x, points = rng.random((20, 3)), rng.random((15, 3))
    y = wave(x)
    ours = GaussianProcess().fit(x, y)
    linear, matern, noise = np.exp(ours.state[:3])
    kernel = ConstantKernel(matern) * Matern(np.exp(ours.state[3:]), nu=2.5) + ConstantKernel(
        linear
    ) * DotProduct(1e-5)
    theirs = GaussianProcessRegressor(kernel, alpha=noise + 1e-8, optimizer=None)
    theirs.fit(x - 0.5, (y - y.mean()) / y.std())
    mean, deviation = theirs.predict(points - 0.5, return_std=True)
    own_mean, own_deviation = ours.predict(points)
    assert own_mean == pytest.approx(y.mean() + y.std() * mean, abs=1e-6)
    assert own_deviation == pytest.approx(y.std() * np.sqrt(deviation**2 + noise), abs=1e-5)


def test_supposing_a_point_is_the_same_as_measuring_its_mean(rng):
    x, points = rng.random((20, 3)), rng.random((15, 3))
    process = GaussianProcess().fit(x, wave(x))
    joint = process.joint(points)
    for index in (3, 7):
        joint.suppose(index)
    again = GaussianProcess()
    again.state = process.state
    more = np.concatenate([wave(x), joint.mean[[3, 7]]])
    again.fit(np.vstack([x, points[[3, 7]]]), more, tune=False)
    mean, deviation = again.predict(points)
    assert mean == pytest.approx(joint.mean, abs=5e-3)  # the mean of all values moves a little
    assert deviation / again._scale == pytest.approx(joint.deviation / process._scale, abs=1e-6)


def test_what_matters_is_told_from_what_does_not(rng):
    x = rng.random((80, 8))
    process = GaussianProcess().fit(x, wave(x))
    assert process.state[3] < process.state[4:].min()  # the wave; the rest is linear or nothing


def test_is_as_sure_as_it_is_right(rng):
    x, points = rng.random((80, 4)), rng.random((400, 4))
    process = GaussianProcess().fit(x, wave(x) + 0.2 * rng.standard_normal(80))
    mean, deviation = process.predict(points)
    off = np.abs(mean - wave(points) - 0.2 * rng.standard_normal(400))
    assert 0.55 < (off < deviation).mean() < 0.85
    assert np.abs(mean - wave(points)).mean() < 0.15


def test_equal_values_and_a_single_point(rng):
    x = rng.random((5, 2))
    mean, deviation = GaussianProcess().fit(x, np.full(5, 3.0)).predict(x)
    assert mean == pytest.approx(np.full(5, 3.0))
    assert (deviation > 0).all()
    assert GaussianProcess().fit(x[:1], np.array([2.0])).predict(x)[0].shape == (5,)


def test_points_are_predicted_alike_in_any_company(rng):
    x, points = rng.random((40, 3)), rng.random((700, 3))
    process = GaussianProcess().fit(x, wave(x))
    together, alone = process.predict(points), [process.predict(points[[place]]) for place in (0, 300, 699)]
    for part in range(2):
        assert together[part][[0, 300, 699]] == pytest.approx([found[part][0] for found in alone], rel=1e-9)
