"""Texts that are nearly the same, found by MinHash (A. Broder, 1997) with locality-sensitive hashing.

The defaults are those of the training data of ModularStarEncoder (arXiv 2503.03008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from brickyard.core.errors import DataError, MissingExtraError

_LETTERS = 5  # of a shingle
_LEAST = 32  # hash functions, with which pairs are found from all similarities
_FOUND_FROM = 0.9  # hashing finds pairs from this similarity on at least; then their own is looked at


def distinct(
    texts: Sequence[str],
    *,
    similarity: float = 0.7,
    permutations: int = 256,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[int]:
    """Return the places of texts that are not nearly the same as one before them that is kept.

    Args:
        texts: The texts; runs of white space count as one blank.
        similarity: Share of common runs of five letters (Jaccard) from which on texts count as the same, in
            (0, 1].
        permutations: Hash functions by which it is estimated; its standard error is 0.03 with 256.
        progress: Called with the texts that are done and all of them.

    Raises:
        DataError: An argument is out of range.
        MissingExtraError: datasketch is not installed.
    """
    if not 0 < similarity <= 1 or permutations < _LEAST:
        raise DataError(
            f"similarity = {similarity} must lie in (0, 1], and permutations = {permutations} must be at "
            f"least {_LEAST}"
        )
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise MissingExtraError("datasketch", extra="pairs") from None
    found = MinHashLSH(threshold=min(similarity, _FOUND_FROM), num_perm=permutations)
    sketches: dict[int, Any] = {}
    for place, text in enumerate(texts):
        joined = " ".join(text.split())
        pieces = {joined[start : start + _LETTERS] for start in range(max(1, len(joined) - _LETTERS + 1))}
        sketch = MinHash(num_perm=permutations, seed=0)
        sketch.update_batch([piece.encode() for piece in sorted(pieces)])
        near = found.query(sketch)
        if not any(sketch.jaccard(sketches[other]) >= similarity for other in near):
            found.insert(place, sketch)
            sketches[place] = sketch
        progress(place + 1, len(texts))
    return list(sketches)
