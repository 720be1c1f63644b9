"""A space whose best points are known, and what an evaluation of it gives."""

import math
from collections.abc import Callable

import pytest

from brickyard.core.config import Config
from brickyard.core.decision import Choice, Option, Subset
from brickyard.core.space import Space


def _measure(config: Config) -> dict[str, float]:
    cost = config["depth"] * config["width"] + 10 * len(config["parts"])
    quality = math.log(config["depth"]) + 0.7 * math.log(config["width"]) + 0.4 * len(config["parts"])
    quality += 0.3 if config["act"] == "gelu" and 1 in config["parts"] else 0.0
    return {"error": 10.0 - quality, "macs": float(cost)}


@pytest.fixture
def space() -> Space:
    """288 configs of all three kinds of decisions."""
    decisions = [Choice("depth", [1, 2, 3]), Choice("width", [8, 16, 32]), Option("act", ["relu", "gelu"])]
    return Space([*decisions, Subset("parts", 4)])


@pytest.fixture
def measure() -> Callable[[Config], dict[str, float]]:
    """A cost that adds up, and an error that falls with it, further for one combination."""
    return _measure
