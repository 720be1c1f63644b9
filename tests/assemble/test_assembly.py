"""A trained assembler at work: masks under limits, configs and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brickyard.assemble.assembly import raise_floors
from brickyard.assemble.ceiling import ALWAYS
from brickyard.core.decision import Subset
from brickyard.core.errors import ConfigError

TASKS = [np.array([int(bit) for bit in f"{number:04b}"], dtype=np.float32) for number in range(1, 16)]
OTHERS = {"depth": 2, "head.words": (0, 2)}


@given(seed=st.integers(0, 40), task=st.sampled_from(TASKS), limit=st.floats(0.1, 1.0))
def test_the_assembler_never_exceeds_the_limit(make_assembly, seed, task, limit):
    assembly = make_assembly(seed)
    logits = assembly.logits(task, [limit])
    mask = assembly.masks(logits, [limit])[0]
    kept = assembly.floors(logits[0])
    assert (mask | kept).tolist() == mask.tolist()
    cost = assembly.fixed_cost + float(assembly.costs[mask].sum())
    floor = assembly.fixed_cost + float(assembly.costs[kept].sum())
    assert cost <= max(limit, floor) + 1e-5


@given(
    seed=st.integers(0, 40), task=st.sampled_from(TASKS), low=st.floats(0.1, 1.0), high=st.floats(0.1, 1.0)
)
def test_masks_nest_in_the_limit_for_fixed_logits(make_assembly, seed, task, low, high):
    assembly = make_assembly(seed)
    logits = np.repeat(assembly.logits(task, [0.5]), 2, axis=0)
    small, large = assembly.masks(logits, sorted((low, high)))
    assert (small <= large).all()


def test_floors_are_the_best_bricks_of_their_block_and_count_as_wanted(rng):
    subsets = [Subset("a", 4, minimum=2), Subset("b", 3), Subset("c", 2, minimum=1)]
    logits = rng.standard_normal((20, 9)).astype(np.float32) - 1
    raised = raise_floors(logits, subsets)
    for before, after in zip(logits, raised, strict=True):
        best = {*np.argsort(-before[:4])[:2], 7 + int(np.argmax(before[7:]))}
        assert set(np.flatnonzero(after >= ALWAYS)) == best
        others = [brick for brick in range(9) if brick not in best]
        assert (after[others] == before[others]).all()
    assert (raise_floors(raised, [Subset("all", 9)]) == raised).all()


def test_a_mask_survives_the_way_through_a_config(make_assembly, rng):
    assembly = make_assembly(0)
    assert [subset.name for subset in assembly.subsets] == ["first", "second", "third"]
    for _ in range(20):
        mask = rng.random(12) < 0.5
        mask[4] = True
        config = assembly.config(mask, OTHERS)
        assert config["depth"] == 2
        assert config["head.words"] == (0, 2)
        assert config["first"] == tuple(np.flatnonzero(mask[:4]))
        assert (assembly.mask(config) == mask).all()


def test_a_mask_that_empties_a_block_with_a_minimum_is_refused(make_assembly):
    with pytest.raises(ConfigError, match="second"):
        make_assembly(0).config(np.zeros(12, dtype=np.bool_), OTHERS)
