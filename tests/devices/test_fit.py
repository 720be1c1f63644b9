"""The regression from block times to subnet times."""

import numpy as np
import pytest

from brickyard.devices.fit import fit


@pytest.fixture
def alone(rng: np.random.Generator) -> np.ndarray:
    times = rng.uniform(0.02, 0.2, (60, 4))
    return times * (rng.random((60, 4)) < 0.8)


def test_common_coefficients_are_found(alone: np.ndarray):
    times = 0.9 * alone.sum(1) - 0.01 * (alone > 0).sum(1) + 0.05
    found = fit(alone[:40], times[:40])
    assert (found.slope, found.offset, found.common_constant) == pytest.approx((0.9, 0.01, 0.05))
    assert found.common(alone[40:]) == pytest.approx(times[40:])
    assert found.predict(alone[40:]) == pytest.approx(times[40:])


def test_blocks_of_their_own_kind_are_found(alone: np.ndarray):
    factors, offsets = np.array([0.7, 0.8, 1.0, 1.2]), np.array([0.0, 0.01, 0.01, 0.02])
    times = alone @ factors - (alone > 0) @ offsets + 0.05
    found = fit(alone[:40], times[:40])
    own = np.abs(found.predict(alone[40:]) / times[40:] - 1).mean()
    common = np.abs(found.common(alone[40:]) / times[40:] - 1).mean()
    assert own < 0.01 < common


def test_a_block_that_is_always_on_does_no_harm(alone: np.ndarray):
    """Its time cannot be told from the constant; the pull decides."""
    always = np.concatenate([alone, np.full((60, 1), 0.03)], axis=1)
    times = 0.9 * always.sum(1) - 0.01 * (always > 0).sum(1) + 0.05
    assert fit(always[:40], times[:40]).predict(always[40:]) == pytest.approx(times[40:], rel=1e-3)
