"""A Gaussian process with a length scale for every feature, made for thousands of candidates and short waits.

Kernel: a linear part, since costs nearly add up over layers, and a Matern 5/2 part, for what layers do
together. Length scales have the prior of arXiv 2402.02229, which grows with the number of features, so that
many features and few points fit well. Parameters are those of greatest posterior density, found from where
the last fit left off.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from brickyard.search.predictors.base import PREDICTORS, Array

_JITTER = 1e-8
_TUNED_ON = 256
_ROOT5 = float(np.sqrt(5.0))


@PREDICTORS.add("gaussian")
class GaussianProcess:
    """Regression that knows how sure it is.

    Args:
        seed: Seed of the points that the kernel is fitted to where there are more than 256; all points count
            for the predictions.
        steps: Most steps of a fit from scratch.
        more_steps: Most steps of a fit that goes on from the last one.

    Attributes:
        state: Logarithms of linear scale, Matern scale, noise and the length scales, after a fit.
    """

    def __init__(self, seed: int = 0, *, steps: int = 60, more_steps: int = 8) -> None:
        self.seed, self.steps, self.more_steps = seed, steps, more_steps
        self.state: Array | None = None
        self._x, self._factor, self._alpha = np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0)
        self._mean, self._scale = 0.0, 1.0

    def fit(self, x: Array, y: Array, *, tune: bool = True) -> Self:
        """Learn from measured points.

        Args:
            x: Features `[points, width]`, about in [0, 1].
            y: Values `[points]`, finite.
            tune: Whether the parameters of the kernel are fitted too, or kept from the last fit.

        Returns:
            Itself.
        """
        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        z = (y - self._mean) / self._scale
        width = x.shape[1]
        start = self.state
        fresh = start is None or len(start) != width + 3
        if fresh:
            start = np.concatenate([[np.log(0.1), 0.0, np.log(0.05)], np.full(width, _prior(width)[0])])
        assert start is not None
        if tune or fresh:
            part = np.random.default_rng(self.seed).permutation(len(z))[:_TUNED_ON]
            found = minimize(
                _loss,
                start,
                args=(x[part], z[part], _prior(width)),
                jac=True,
                method="L-BFGS-B",
                bounds=[(-9.0, 4.0), (-6.0, 4.0), (-12.0, 0.5)] + [(-4.0, 6.0)] * width,
                options={"maxiter": self.steps if fresh else self.more_steps},
            )
            start = found.x
        self.state = np.asarray(start)
        self._x = x
        kernel = self._kernel(x, x)
        kernel[np.diag_indices(len(x))] += np.exp(self.state[2]) + _JITTER
        self._factor = cholesky(kernel, lower=True, check_finite=False)
        self._alpha = cho_solve((self._factor, True), z, check_finite=False)
        return self

    def _kernel(self, a: Array, b: Array) -> Array:
        assert self.state is not None
        linear, matern, _ = np.exp(self.state[:3])
        weights = np.exp(-self.state[3:])
        kernel: Array = matern * _matern(_distances(a * weights, b * weights))
        kernel += linear * ((a - 0.5) @ (b - 0.5).T)
        return kernel

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Predict what would be measured, its noise included.

        Args:
            x: Features `[points, width]`.

        Returns:
            Means and standard deviations, `[points]` each, in the unit of the values.
        """
        joint = self.joint(x)
        return joint.mean, joint.deviation

    def _own(self, x: Array) -> Array:
        assert self.state is not None
        linear, matern, _ = np.exp(self.state[:3])
        own: Array = matern + linear * ((x - 0.5) ** 2).sum(1)
        return own

    def joint(self, x: Array) -> Joint:
        """Predict points together, so that some of them can be supposed known.

        Args:
            x: Features `[points, width]`.
        """
        cross = self._kernel(self._x, x)
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        assert self.state is not None
        variance = np.maximum(self._own(x) - np.einsum("ij,ij->j", half, half), 1e-12)
        return Joint(self, x, half, self._mean + self._scale * (cross.T @ self._alpha), variance)


class Joint:
    """Predictions of some points that know of each other.

    Attributes:
        mean: Means, `[points]`.
        variance: Variances of the standardised function, `[points]`; they shrink as points are supposed
            known.
    """

    def __init__(self, process: GaussianProcess, x: Array, half: Array, mean: Array, variance: Array) -> None:
        self.process, self.x, self.half, self.mean, self.variance = process, x, half, mean, variance
        self._more: list[Array] = []

    @property
    def deviation(self) -> Array:
        """Standard deviations of what would be measured, `[points]`, in the unit of the values."""
        assert self.process.state is not None
        found: Array = self.process._scale * np.sqrt(self.variance + np.exp(self.process.state[2]))
        return found

    def suppose(self, index: int) -> None:
        """Take the value of a point as known, as large as its mean (kriging believer); means stay."""
        process = self.process
        assert process.state is not None
        row = process._kernel(self.x[index : index + 1], self.x)[0] - self.half[:, index] @ self.half
        for more in self._more:
            row -= more[index] * more
        noise = float(np.exp(process.state[2])) + _JITTER
        more = row / np.sqrt(max(row[index], 1e-12) + noise)
        self._more.append(more)
        self.variance = np.maximum(self.variance - more**2, 1e-12)


def _prior(width: int) -> tuple[float, float]:
    """Return mean and deviation of the log length scales."""
    return float(np.sqrt(2.0) + 0.5 * np.log(max(1, width))), float(np.sqrt(3.0))


def _distances(a: Array, b: Array) -> Array:
    squares: Array = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * (a @ b.T)
    np.maximum(squares, 0.0, out=squares)
    return np.sqrt(squares, out=squares)


def _matern(distance: Array) -> Array:
    scaled = _ROOT5 * distance
    kernel: Array = scaled * (1.0 / 3.0)
    kernel += 1.0
    kernel *= scaled
    kernel += 1.0
    np.negative(scaled, out=scaled)
    kernel *= np.exp(scaled, out=scaled)
    return kernel


def _loss(state: Array, x: Array, z: Array, prior: tuple[float, float]) -> tuple[float, Array]:
    """Return the negative log posterior per point and its gradient."""
    count = len(z)
    linear, matern, noise = np.exp(state[:3])
    weights = np.exp(-state[3:])
    scaled = x * weights
    distance = _distances(scaled, scaled)
    shape = _matern(distance)
    inner = (x - 0.5) @ (x - 0.5).T
    kernel = matern * shape + linear * inner
    kernel[np.diag_indices(count)] += noise + _JITTER
    try:
        factor = cholesky(kernel, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e6, np.zeros_like(state)
    inverse = cho_solve((factor, True), np.eye(count), check_finite=False)
    alpha = inverse @ z
    value = 0.5 * z @ alpha + np.log(np.diag(factor)).sum()
    outer = 0.5 * (inverse - np.outer(alpha, alpha))
    gradient = np.empty_like(state)
    gradient[0] = linear * (outer * inner).sum()
    gradient[1] = matern * (outer * shape).sum()
    gradient[2] = noise * np.trace(outer)
    # dk/d(log length) = (5/3) (1 + sqrt5 r) exp(-sqrt5 r) (difference / length)^2
    core = outer * matern * (5.0 / 3.0) * (1.0 + _ROOT5 * distance) * np.exp(-_ROOT5 * distance)
    sums = core.sum(1)
    gradient[3:] = 2.0 * ((scaled**2 * sums[:, None]).sum(0) - (scaled * (core @ scaled)).sum(0))
    middle, spread = prior
    off = (state[3:] - middle) / spread
    value += 0.5 * (off**2).sum()
    gradient[3:] += off / spread
    # weak priors keep the noise small and the scales near those of standardised targets
    for place, (centre, width) in enumerate(((np.log(0.1), 2.0), (0.0, 1.5), (np.log(0.01), 2.0))):
        near = (state[place] - centre) / width
        value += 0.5 * near**2
        gradient[place] += near / width
    return float(value) / count, gradient / count
