"""Bits come back exactly, and take hardly more room than their entropy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brickyard.continual.coding import decode_bits, encode_bits, entropy
from brickyard.core.errors import ArtifactError


@pytest.mark.parametrize("density", [0.0, 0.001, 0.02, 0.05, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 5000])
def test_bits_come_back(density, count, rng):
    bits = rng.random(count) < density
    assert np.array_equal(decode_bits(encode_bits(bits)), bits)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=200))
def test_any_bits_come_back(values):
    bits = np.array(values, dtype=bool)
    assert np.array_equal(decode_bits(encode_bits(bits)), bits)


@pytest.mark.parametrize("density", [0.002, 0.02, 0.05, 0.1, 0.5])
def test_the_code_is_close_to_the_entropy(density, rng):
    count = 266_200
    bits = np.zeros(count, dtype=bool)
    bits[rng.permutation(count)[: round(density * count)]] = True
    spent = 8 * len(encode_bits(bits)) / (count * entropy(density))
    assert 0.99 < spent < (1.05 if density < 0.02 else 1.01)


def test_entropy_is_that_of_a_bit():
    assert entropy(0.5) == 1.0
    assert entropy(0.0) == entropy(1.0) == 0.0
    assert entropy(0.1) == pytest.approx(0.1 * math.log2(10) + 0.9 * math.log2(1 / 0.9))


def test_damaged_code_is_refused(rng):
    content = encode_bits(rng.random(4000) < 0.1)
    with pytest.raises(ArtifactError, match="ends too early"):
        decode_bits(content[:-4])
    with pytest.raises(ArtifactError, match="are no code of bits"):
        decode_bits(content[:-3])
    with pytest.raises(ArtifactError, match="is damaged"):
        decode_bits(content + b"\0\0\0\0")
    with pytest.raises(ArtifactError, match="more set bits than bits"):
        decode_bits(content[:8] + b"\xff" * 8 + content[16:])
