"""The edge search: every budget is kept, nothing affordable is left closed, reasons are named."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brickyard.assemble.assembler import initial_weights
from brickyard.assemble.assembly import Assembly
from brickyard.assemble.search import binding_limit, search
from brickyard.core.errors import InfeasibleError
from brickyard.core.space import block_subsets
from brickyard.export.whole import export_blueprint
from brickyard.networks import build

QUANTITIES = ("macs", "parameters", "latency_ms")
SETS = [names for size in (1, 2, 3) for names in combinations(QUANTITIES, size)]
TASK = np.array([1, 0, 1, 0], dtype=np.float32)


def costing_of(assembly: Assembly, seed: int):
    """Costs that rise with every brick: the shares, and two that are drawn."""
    table = np.random.default_rng(seed).random((3, len(assembly.costs))) + 0.05
    table[0] = assembly.costs

    def costing(mask):
        return dict(zip(QUANTITIES, table @ mask + 0.1, strict=True))

    return costing


def limits_of(assembly: Assembly, costing, names, shares):
    """Limits between the smallest and the largest subnet."""
    least = costing(assembly.floors(assembly.logits(TASK, [assembly.fixed_cost])[0]))
    most = costing(np.ones(12, dtype=np.bool_))
    return {
        name: least[name] * 1.0001 + share * (most[name] - least[name])
        for name, share in zip(names, shares, strict=False)
    }


@settings(deadline=None)
@given(
    seed=st.integers(0, 30),
    names=st.sampled_from(SETS),
    shares=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_results_keep_every_limit_in_any_combination(make_assembly, seed, names, shares):
    assembly = make_assembly(seed)
    costing = costing_of(assembly, seed)
    limits = limits_of(assembly, costing, names, shares)
    found = search(assembly, TASK, costing=costing, limits=limits)
    assert found
    for candidate in found:
        costs = costing(candidate.mask)
        assert dict(candidate.costs) == costs
        assert all(costs[name] <= limit for name, limit in limits.items())
        assert candidate.mask[4:9].any()
    scores = [candidate.score for candidate in found]
    assert scores == sorted(scores, reverse=True)
    assert len({candidate.mask.tobytes() for candidate in found}) == len(found)


@settings(deadline=None)
@given(seed=st.integers(0, 60), share=st.floats(0.1, 1))
def test_no_wanted_brick_that_fits_stays_closed(make_assembly, seed, share):
    assembly = make_assembly(seed)
    costing = costing_of(assembly, seed)
    limits = limits_of(assembly, costing, ("macs", "parameters"), (share, share))
    (found,) = search(assembly, TASK, costing=costing, limits=limits, candidates=1)
    logits = assembly.logits(TASK, [found.limit])[0]
    for brick in np.flatnonzero(~found.mask & (logits > 0)):
        larger = found.mask.copy()
        larger[brick] = True
        assert any(costing(larger)[name] > limit for name, limit in limits.items())


def test_without_limits_all_that_the_task_wants_opens(make_assembly):
    assembly = make_assembly(4)
    best = search(assembly, TASK, costing=costing_of(assembly, 4), limits={}, candidates=1)[0]
    assert best.limit == 1.0
    assert (best.mask == (assembly.logits(TASK, [1.0])[0] > 0)).all()
    assert not best.mask.all()


def test_an_impossible_limit_is_named_with_the_smallest_value(make_assembly):
    assembly = make_assembly(1)
    costing = costing_of(assembly, 1)
    least = costing(assembly.floors(assembly.logits(TASK, [assembly.fixed_cost])[0]))
    limits = {"macs": least["macs"] * 0.9, "parameters": least["parameters"] * 0.5, "latency_ms": 100.0}
    message = r"parameters = .* cannot be met: the smallest .* needs .*; allow at least that"
    with pytest.raises(InfeasibleError, match=message) as caught:
        search(assembly, TASK, costing=costing, limits=limits)
    assert caught.value.limit == "parameters"
    assert caught.value.requested == limits["parameters"]
    assert caught.value.smallest == least["parameters"]
    exact = search(assembly, TASK, costing=costing, limits=dict(least))
    assert dict(exact[0].costs) == least


def test_the_same_request_finds_the_same(make_assembly):
    assembly = make_assembly(2)

    def run():
        found = search(assembly, TASK, costing=costing_of(assembly, 2), limits={"macs": 0.6}, candidates=7)
        return [(candidate.mask.tolist(), candidate.limit, candidate.score) for candidate in found]

    assert run() == run()


def test_the_binding_limit_is_the_one_nearest_to_being_reached():
    assert binding_limit({"macs": 50, "parameters": 9}, {"macs": 100, "parameters": 10}) == "parameters"
    assert binding_limit({"macs": 50}, {}) is None


def test_a_search_takes_milliseconds():
    blueprint = export_blueprint(build("residual_cnn_pico").eval())
    subsets = block_subsets(blueprint.space)
    shares = np.concatenate([blueprint.macs_per_group(subset.name) for subset in subsets])
    costs = (shares / blueprint.count(blueprint.space.largest()).macs).astype(np.float32)
    weights = initial_weights("additive", num_words=4, block_sizes=[s.count for s in subsets], seed=0)
    assembly = Assembly("additive", weights, blueprint.space, costs, float(1 - costs.sum()))
    largest = blueprint.space.largest()

    def costing(mask):
        counts = blueprint.count(assembly.config(mask, largest))
        return {
            "macs": counts.macs,
            "parameters": counts.parameters,
            "peak_memory_bytes": counts.peak_memory_bytes,
        }

    whole = costing(np.ones(len(costs), dtype=np.bool_))
    limits = {name: value * 0.6 for name, value in whole.items() if name != "peak_memory_bytes"}
    seconds = []
    for _ in range(5):
        started = time.process_time()
        found = search(assembly, TASK, costing=costing, limits=limits)
        seconds.append(time.process_time() - started)
    assert found
    assert min(seconds) < 0.05
