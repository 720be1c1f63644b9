"""A small assembler over three blocks, of which one must keep a brick."""

from collections.abc import Callable

import numpy as np
import pytest

from brickyard.assemble.assembler import initial_weights
from brickyard.assemble.assembly import Assembly
from brickyard.core.decision import Choice, Subset
from brickyard.core.space import Space

Make = Callable[[int], Assembly]


@pytest.fixture(scope="session")
def make_assembly() -> Make:
    """Makes an assembler of four words with random weights and costs from a seed."""

    def make(seed: int) -> Assembly:
        rng = np.random.default_rng(seed)
        subsets = [Subset("first", 4), Subset("second", 5, minimum=1), Subset("third", 3)]
        space = Space([subsets[0], Choice("depth", (1, 2)), *subsets[1:], Subset("head.words", 4, minimum=1)])
        initial = initial_weights("additive", num_words=4, block_sizes=[4, 5, 3], seed=seed)
        weights = {
            name: value + rng.standard_normal(value.shape).astype(np.float32) * 0.5
            for name, value in initial.items()
        }
        costs = rng.dirichlet(np.ones(12)).astype(np.float32) * np.float32(0.9)
        return Assembly("additive", weights, space, costs, 0.1)

    return make
