"""Nearly equal texts are found, others kept."""

import random

import pytest

from brickyard.core.errors import DataError
from brickyard.data.near_duplicates import distinct

pytest.importorskip("datasketch")


def words(seed, count=60):
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefgh", k=6)) for _ in range(count)]


def shares(one, other):
    """The exact Jaccard similarity of runs of five letters, the slow way."""
    first, second = ({text[place : place + 5] for place in range(len(text) - 4)} for text in (one, other))
    return len(first & second) / len(first | second)


def test_what_shares_more_than_the_limit_is_left_out():
    whole = words(0)
    little, much = ([*whole[:keep], *words(1)[keep:]] for keep in (57, 40))
    texts = [" ".join(part) for part in (whole, little, much, words(2))]
    assert shares(texts[0], texts[1]) > 0.8
    assert shares(texts[0], texts[2]) < 0.6
    seen = []
    found = distinct(texts, progress=lambda done, total: seen.append((done, total)))
    assert found == [0, 2, 3]
    assert seen[-1] == (4, 4)
    assert distinct(texts, similarity=0.95) == [0, 1, 2, 3]


def test_white_space_makes_no_difference_and_short_texts_are_compared():
    assert distinct(["a  b\n c", "a b c", "ab", "ab", "", "x"]) == [0, 2, 4, 5]


def test_bad_limits_are_told():
    with pytest.raises(DataError, match=r"similarity = 0 must lie in \(0, 1\]"):
        distinct(["a"], similarity=0)
    with pytest.raises(DataError, match=r"permutations = 31 must be at least 32"):
        distinct(["a"], permutations=31)


@pytest.mark.parametrize("permutations", [32, 64, 256])
@pytest.mark.parametrize("similarity", [0.01, 0.5, 0.98, 0.99, 0.999, 1])
def test_equal_texts_are_found_from_every_similarity(similarity, permutations):
    texts = ["abcdefgh ijkl", "abcdefgh ijkl", "zyxwvu tsrq"]
    assert distinct(texts, similarity=similarity, permutations=permutations) == [0, 2]
