"""What learned tasks take, what is left, and when it is said that little is."""

from dataclasses import replace

import numpy as np
import pytest

from brickyard.core.errors import ArtifactError
from brickyard.factory.capacity import capacity_of, draw_overlap


def test_masks_overlap_and_free_weights_are_counted(taught):
    capacity = capacity_of(taught)
    first, second = capacity.tasks
    assert (first.name, first.arm, second.arm) == ("Stripes", "exssnet", "supsup")
    assert first.trained_share == 1
    assert second.trained_share < 1
    overlap = np.array(capacity.overlap)
    assert overlap.shape == (2, 2)
    assert np.allclose(np.diagonal(overlap), 1)
    both = round(overlap[0, 1] * capacity.num_kept)
    assert capacity.num_weights - capacity.free == 2 * capacity.num_kept - both
    assert second.trained_share == pytest.approx(1 - overlap[1, 0])
    assert capacity.next_share == pytest.approx(capacity.free / capacity.num_weights, abs=0.01)
    assert first.mask_bits >= first.entropy
    assert first.trained_bytes > second.trained_bytes


def test_a_warning_comes_before_the_free_weights_run_out(taught):
    capacity = capacity_of(taught)
    assert capacity.warning is None
    assert replace(capacity, free=capacity.num_kept).warning is None
    less = replace(capacity, free=capacity.num_kept - 1, next_share=0.2)
    assert less.exclusive_left == 0
    assert "fewer than the" in less.warning
    assert "about 20% of its mask" in less.warning


def test_a_factory_that_learned_nothing_is_told_so(pico):
    with pytest.raises(ArtifactError, match="has learned no task since it was trained; teach it one"):
        capacity_of(pico)


def test_the_overlap_is_drawn(taught, tmp_path):
    draw_overlap(capacity_of(taught), tmp_path / "overlap.png")
    assert (tmp_path / "overlap.png").read_bytes().startswith(b"\x89PNG")
