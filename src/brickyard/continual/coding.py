"""Bits coded close to their entropy: asymmetric numeral systems over bytes (rANS, arXiv 1311.2540).

A mask of density k holds H(k) bits of information for each weight. The code treats every bit as set with the
density of the whole and every byte as one symbol, so it comes within a fraction of a per cent of that, plus
32 bytes. It is exact: what is decoded is what was encoded, on any machine, since all numbers are integers.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ArtifactError

_PRECISION = 24  # frequencies are shares of 2 ** 24
_WORD = 32  # bits that leave the state at once
_LOW = 1 << _WORD  # the state stays in [2 ** 32, 2 ** 64)
_HEADER = struct.Struct("<QQQ")  # bits, bits that are set, final state

Bits = npt.NDArray[np.bool_]


def entropy(density: float) -> float:
    """Return the entropy of a bit that is set with a probability, in bits.

    Args:
        density: The probability, 0 to 1.
    """
    if density <= 0 or density >= 1:
        return 0.0
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


def encode_bits(bits: Bits) -> bytes:
    """Encode bits; their number and density are part of what is written.

    Args:
        bits: The bits, `[count]`.
    """
    ones = int(np.count_nonzero(bits))
    frequencies, starts = _model(len(bits), ones)
    packed = np.packbits(bits).tobytes()
    state, words = _LOW, []
    for symbol in reversed(packed):
        frequency = frequencies[symbol]
        if state >= frequency << (2 * _WORD - _PRECISION):
            words.append(state & (_LOW - 1))
            state >>= _WORD
        whole, rest = divmod(state, frequency)
        state = (whole << _PRECISION) + rest + starts[symbol]
    stream = np.array(words[::-1], dtype="<u4").tobytes()
    return _HEADER.pack(len(bits), ones, state) + stream


def decode_bits(content: bytes) -> Bits:
    """Decode what `encode_bits` encoded.

    Raises:
        ArtifactError: The content is no such code, or is damaged.
    """
    if len(content) < _HEADER.size or (len(content) - _HEADER.size) % (_WORD // 8):
        raise ArtifactError(f"{len(content)} bytes are no code of bits; copy or make the file again")
    count, ones, state = _HEADER.unpack_from(content)
    words = iter(np.frombuffer(content, dtype="<u4", offset=_HEADER.size).tolist())
    if ones > count:
        raise ArtifactError("the code of bits names more set bits than bits; copy or make the file again")
    frequencies, starts = _model(count, ones)
    slots = (1 << _PRECISION) - 1
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
    if state != _LOW or next(words, None) is not None or int(np.count_nonzero(bits)) != ones:
        raise ArtifactError("the code of bits is damaged; copy or make the file again")
    return bits


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
