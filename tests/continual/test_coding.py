"""Bits come back exactly, and take hardly more room than their entropy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brickyard.continual.coding import decode_bits, encode_bits, entropy
from brickyard.core.errors import ArtifactError


def coded(parts):
    """Return the parts after coding them back and forth."""
    sizes = [(len(bits), int(np.count_nonzero(bits))) for bits in parts]
    return decode_bits(encode_bits(parts), sizes)


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.05, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 5000])
def test_bits_come_back(density, count, rng):
    bits = rng.random(count) < density
    (found,) = coded([bits])
    assert np.array_equal(found, bits)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=100), max_size=4))
def test_any_parts_come_back(values):
    parts = [np.array(value, dtype=bool) for value in values]
    found = coded(parts)
    assert len(found) == len(parts)
    assert all(np.array_equal(one, other) for one, other in zip(found, parts, strict=True))


@pytest.mark.parametrize("density", [0.002, 0.02, 0.05, 0.1, 0.5])
def test_the_code_is_close_to_the_entropy(density, rng):
    count = 266_200
    bits = np.zeros(count, dtype=bool)
    bits[rng.permutation(count)[: round(density * count)]] = True
    spent = 8 * len(encode_bits([bits])) / (count * entropy(density))
    assert 0.99 < spent < (1.05 if density < 0.02 else 1.01)


def test_every_part_has_its_own_density(rng):
    sizes = [(3000, 60), (640, 96), (20_000, 10_000)]
    parts = [rng.permutation(np.arange(count) < ones) for count, ones in sizes]
    held = sum(count * entropy(ones / count) for count, ones in sizes)
    assert 8 * len(encode_bits(parts)) < 1.01 * held + 64


def test_entropy_is_that_of_a_bit():
    assert entropy(0.5) == 1.0
    assert entropy(0.0) == entropy(1.0) == 0.0
    assert entropy(0.1) == pytest.approx(0.1 * math.log2(10) + 0.9 * math.log2(1 / 0.9))


def test_damaged_code_is_refused(rng):
    bits = rng.permutation(np.arange(4000) < 400)
    content, sizes = encode_bits([bits]), [(4000, 400)]
    with pytest.raises(ArtifactError, match="ends too early"):
        decode_bits(content[:-4], sizes)
    with pytest.raises(ArtifactError, match="are no code of bits"):
        decode_bits(content[:-3], sizes)
    with pytest.raises(ArtifactError, match="is damaged"):
        decode_bits(content + b"\0\0\0\0", sizes)
    with pytest.raises(ArtifactError, match=r"is damaged|ends too early"):
        decode_bits(content, [(4000, 401)])
