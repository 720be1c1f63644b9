"""Bits coded close to their entropy: asymmetric numeral systems over bytes (rANS, arXiv 1311.2540).

A mask of density k holds H(k) bits of information for each weight. The code treats every bit as set with the
density of its part, which reader and writer know, and every byte as one symbol, so it comes within a fraction
of a per cent of that, plus 8 bytes for all parts together. It is exact: what is decoded is what was encoded,
on any machine, since all numbers are integers.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ArtifactError

_PRECISION = 24  # frequencies are shares of 2 ** 24
_WORD = 32  # bits that leave the state at once
_LOW = 1 << _WORD  # the state stays in [2 ** 32, 2 ** 64)
_STATE = struct.Struct("<Q")

Bits = npt.NDArray[np.bool_]


def entropy(density: float) -> float:
    """Return the entropy of a bit that is set with a probability, in bits.

    Args:
        density: The probability, 0 to 1.
    """
    if density <= 0 or density >= 1:
        return 0.0
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


def encode_bits(parts: Sequence[Bits]) -> bytes:
    """Encode bits of several parts, each with its own density.

    Args:
        parts: The bits, `[count]` each. How many there are and how many of them are set is not written.
    """
    state, words = _LOW, []
    for bits in reversed(parts):
        frequencies, starts = _model(len(bits), int(np.count_nonzero(bits)))
        for symbol in reversed(np.packbits(bits).tobytes()):
            frequency = frequencies[symbol]
            if state >= frequency << (2 * _WORD - _PRECISION):
                words.append(state & (_LOW - 1))
                state >>= _WORD
            whole, rest = divmod(state, frequency)
            state = (whole << _PRECISION) + rest + starts[symbol]
    return _STATE.pack(state) + np.array(words[::-1], dtype="<u4").tobytes()


def decode_bits(content: bytes, sizes: Sequence[tuple[int, int]]) -> list[Bits]:
    """Decode what `encode_bits` encoded.

    Args:
        content: The code.
        sizes: For each part the number of its bits, and of those that are set.

    Returns:
        The bits of each part, `[count]`.

    Raises:
        ArtifactError: The content is no such code of parts of these sizes, or is damaged.
    """
    if len(content) < _STATE.size or (len(content) - _STATE.size) % (_WORD // 8):
        raise ArtifactError(f"{len(content)} bytes are no code of bits; copy or make the file again")
    (state,) = _STATE.unpack_from(content)
    words = iter(np.frombuffer(content, dtype="<u4", offset=_STATE.size).tolist())
    slots = (1 << _PRECISION) - 1
    parts = []
    for count, ones in sizes:
        frequencies, starts = _model(count, ones)
        symbols = bytearray()
        try:
            for _ in range((count + 7) // 8):
                slot = state & slots
                symbol = bisect_right(starts, slot) - 1
                symbols.append(symbol)
                state = frequencies[symbol] * (state >> _PRECISION) + slot - starts[symbol]
                if state < _LOW:
                    state = (state << _WORD) | next(words)
        except StopIteration:
            raise ArtifactError("the code of bits ends too early; copy or make the file again") from None
        bits = np.unpackbits(np.frombuffer(bytes(symbols), dtype=np.uint8), count=count).view(np.bool_)
        if int(np.count_nonzero(bits)) != ones:
            raise ArtifactError("the code of bits is damaged; copy or make the file again")
        parts.append(bits)
    if state != _LOW or next(words, None) is not None:
        raise ArtifactError("the code of bits is damaged; copy or make the file again")
    return parts


def _model(count: int, ones: int) -> tuple[list[int], list[int]]:
    """Return the frequency of each byte, at least 1, 2 ** 24 in all, and where its slots start.

    Only exact integer arithmetic, so that a file is read on any machine as it was written.
    """
    total = 1 << _PRECISION
    set_share = min(max(ones, 1), max(count - 1, 1))
    unset_share = max(count - set_share, 1)
    whole = (set_share + unset_share) ** 8
    by_ones = [max(1, total * set_share**n * unset_share ** (8 - n) // whole) for n in range(9)]
    frequencies = [by_ones[symbol.bit_count()] for symbol in range(256)]
    likeliest = max(range(256), key=frequencies.__getitem__)
    frequencies[likeliest] += total - sum(frequencies)
    return frequencies, [0, *accumulate(frequencies)][:-1]
