"""A Gaussian process with a length scale for every feature, made for thousands of candidates and short waits.

Kernel: a linear part, since costs nearly add up over layers, and a Matern 5/2 part, for what layers do
together. Length scales have the prior of arXiv 2402.02229, which grows with the number of features, so that
many features and few points fit well. Parameters are those of greatest posterior density, found from where
the last fit left off.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dpotri, dtrtri
from scipy.optimize import minimize

from brickyard.search.predictors.base import PREDICTORS, Array
from brickyard.search.threads import one_blas_thread

_JITTER = 1e-8
_TUNED_ON = 256
_CHUNK = 256  # points whose kernel fits into the processor's cache
_ROOT5 = float(np.sqrt(5.0))


class _Side(NamedTuple):
    """What the kernel needs of points.

    Attributes:
        scaled: Features times sqrt(5) over the length scales, `[points, width]`.
        squares: Their squared norms, `[points]`.
        centred: Features around 0, `[points, width]`.
    """

    scaled: Array
    squares: Array
    centred: Array

    def part(self, places: slice) -> _Side:
        """Return the side of some of the points."""
        return _Side(self.scaled[places], self.squares[places], self.centred[places])


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
        self._known = _Side(np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0)))
        self._inverse, self._alpha = np.zeros((0, 0)), np.zeros(0)
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
        with one_blas_thread():
            return self._fit(x, y, tune=tune)

    def _fit(self, x: Array, y: Array, *, tune: bool) -> Self:
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
        self._known = self._side(x)
        kernel = self._kernel(self._known, self._known)
        kernel[np.diag_indices(len(x))] += np.exp(self.state[2]) + _JITTER
        factor = cholesky(kernel, lower=True, check_finite=False)
        self._alpha = cho_solve((factor, True), z, check_finite=False)
        self._inverse = dtrtri(factor, lower=1)[0]
        return self

    def _side(self, x: Array) -> _Side:
        assert self.state is not None
        scaled = x * (_ROOT5 * np.exp(-self.state[3:]))
        return _Side(scaled, (scaled**2).sum(1), x - 0.5)

    def _kernel(self, a: _Side, b: _Side) -> Array:
        assert self.state is not None
        linear, matern, _ = np.exp(self.state[:3])
        kernel = _matern(_distances(a, b))
        kernel *= matern
        kernel += (linear * a.centred) @ b.centred.T
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

    def joint(self, x: Array) -> Joint:
        """Predict points together, so that some of them can be supposed known.

        Args:
            x: Features `[points, width]`.
        """
        assert self.state is not None
        linear, matern, _ = np.exp(self.state[:3])
        side = self._side(x)
        half, mean = np.empty((len(x), len(self._alpha))), np.empty(len(x))
        for first in range(0, len(x), _CHUNK):
            part = slice(first, first + _CHUNK)
            cross = self._kernel(side.part(part), self._known)
            mean[part] = cross @ self._alpha
            half[part] = dtrmm(1.0, self._inverse, cross.T, lower=1, overwrite_b=1).T
        own = matern + linear * (side.centred**2).sum(1)
        variance = np.maximum(own - np.einsum("ij,ij->i", half, half), 1e-12)
        return Joint(self, side, half, self._mean + self._scale * mean, variance)


class Joint:
    """Predictions of some points that know of each other.

    Attributes:
        mean: Means, `[points]`.
        variance: Variances of the standardised function, `[points]`; they shrink as points are supposed
            known.
    """

    def __init__(
        self, process: GaussianProcess, side: _Side, half: Array, mean: Array, variance: Array
    ) -> None:
        self.process, self.side, self.half = process, side, half
        self.mean, self.variance = mean, variance
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
        row = process._kernel(self.side.part(slice(index, index + 1)), self.side)[0]
        row -= self.half @ self.half[index]
        for more in self._more:
            row -= more[index] * more
        noise = float(np.exp(process.state[2])) + _JITTER
        more = row / np.sqrt(max(row[index], 1e-12) + noise)
        self._more.append(more)
        self.variance = np.maximum(self.variance - more**2, 1e-12)


def _prior(width: int) -> tuple[float, float]:
    """Return mean and deviation of the log length scales."""
    return float(np.sqrt(2.0) + 0.5 * np.log(max(1, width))), float(np.sqrt(3.0))


def _distances(a: _Side, b: _Side) -> Array:
    """Return the distances of scaled points times sqrt(5), `[points of a, points of b]`."""
    squares: Array = (-2.0 * a.scaled) @ b.scaled.T
    squares += a.squares[:, None]
    squares += b.squares
    np.maximum(squares, 0.0, out=squares)
    return np.sqrt(squares, out=squares)


def _matern(distance: Array) -> Array:
    """Return the kernel for distances times sqrt(5), which are overwritten."""
    kernel: Array = distance * (1.0 / 3.0)
    kernel += 1.0
    kernel *= distance
    kernel += 1.0
    np.negative(distance, out=distance)
    kernel *= np.exp(distance, out=distance)
    return kernel


def _loss(state: Array, x: Array, z: Array, prior: tuple[float, float]) -> tuple[float, Array]:
    """Return the negative log posterior per point and its gradient."""
    count = len(z)
    linear, matern, noise = np.exp(state[:3])
    scaled = x * (_ROOT5 * np.exp(-state[3:]))
    side = _Side(scaled, (scaled**2).sum(1), x - 0.5)
    distance = _distances(side, side)
    decay = np.exp(-distance)
    steep = (1.0 + distance) * decay
    shape = steep + distance**2 * (decay * (1.0 / 3.0))
    inner = side.centred @ side.centred.T
    kernel = matern * shape + linear * inner
    kernel[np.diag_indices(count)] += noise + _JITTER
    try:
        factor = cholesky(kernel, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e6, np.zeros_like(state)
    lower = np.tril(dpotri(factor, lower=1)[0])
    inverse = lower + np.tril(lower, -1).T
    alpha = inverse @ z
    value = 0.5 * z @ alpha + np.log(np.diag(factor)).sum()
    outer = 0.5 * (inverse - np.outer(alpha, alpha))
    gradient = np.empty_like(state)
    gradient[0] = linear * (outer * inner).sum()
    gradient[1] = matern * (outer * shape).sum()
    gradient[2] = noise * np.trace(outer)
    # with s = sqrt5 r, dk/d(log length) = (1 + s) exp(-s) (sqrt5 difference / length)^2 / 3
    core = outer * ((matern / 3.0) * steep)
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
