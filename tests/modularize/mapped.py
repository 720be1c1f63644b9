"""Tiny maps: two functions whose texts have different letters."""

import random

from brickyard.modularize.brick_map import BrickMap, map_bricks
from brickyard.modularize.neurons import NeuronProbe
from brickyard.modularize.text_encoder import Tokens

from .encoders import letters
from .transformers_zoo import tiny

FUNCTIONS = ("front", "back", "all")


def labelled(count: int = 8) -> tuple[list[str], list[int]]:
    """Texts of the first letters, of the last ones, and of all."""
    draw = random.Random(0)
    pools = ("abcde", "klmno", "abcdefghijklmno")
    texts = [" ".join(draw.choices(pool, k=6)) for pool in pools for _ in range(count)]
    return texts, [label for label in range(3) for _ in range(count)]


def probe_of(kind: str) -> NeuronProbe:
    return NeuronProbe(tiny(kind), Tokens(letters(), max_tokens=16))


def mapped(kind: str = "bert", **settings) -> tuple[NeuronProbe, BrickMap]:
    probe = probe_of(kind)
    texts, labels = labelled()
    return probe, map_bricks(
        probe, texts, labels, FUNCTIONS, **{"share": 0.2, "shares": (0.0, 0.5), **settings}
    )
