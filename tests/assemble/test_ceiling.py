"""The ceiling: never above the limit, nested in the limit, what must stay stays."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brickyard.assemble.ceiling import ALWAYS, open_bricks

BRICKS = 9
logits = arrays(np.float32, (3, BRICKS), elements=st.floats(-50, 50, width=32))
costs = arrays(np.float32, BRICKS, elements=st.floats(0, 0.25, width=32))
limits = arrays(np.float32, 3, elements=st.floats(-0.5, 1.5, width=32))


@given(logits, costs, limits)
def test_open_bricks_never_cost_more_than_the_limit(logits, costs, limits):
    opened = open_bricks(logits, costs, limits)
    assert opened.shape == logits.shape
    assert opened.dtype == np.bool_
    assert ((opened * costs).sum(1) <= np.maximum(limits, 0) + 1e-5).all()
    assert not opened[logits <= 0].any()


@given(logits, costs, limits, limits)
def test_a_higher_limit_keeps_what_a_lower_one_opens(logits, costs, first, second):
    low = open_bricks(logits, costs, np.minimum(first, second))
    high = open_bricks(logits, costs, np.maximum(first, second))
    assert (low <= high).all()


def test_the_longest_prefix_opens_and_no_brick_behind_a_gap():
    logits = np.array([[3.0, 2.0, 1.0, -1.0]], dtype=np.float32)
    costs = np.array([0.3, 0.5, 0.1, 0.0], dtype=np.float32)
    expected = {0.2: "0000", 0.3: "1000", 0.4: "1000", 0.8: "1100", 1.0: "1110"}
    for limit, bits in expected.items():
        opened = open_bricks(logits, costs, np.array([limit], dtype=np.float32))[0]
        assert "".join(str(int(bit)) for bit in opened) == bits


def test_equal_logits_open_in_the_order_of_the_bricks():
    logits = np.ones((1, 4), dtype=np.float32)
    opened = open_bricks(logits, np.full(4, 0.25, dtype=np.float32), np.array([0.5], dtype=np.float32))
    assert opened.tolist() == [[True, True, False, False]]


def test_bricks_that_must_stay_are_open_under_any_limit():
    logits = np.array([[ALWAYS, 5.0, ALWAYS + 2]], dtype=np.float32)
    opened = open_bricks(logits, np.ones(3, dtype=np.float32), np.zeros(1, dtype=np.float32))
    assert opened.tolist() == [[True, False, True]]
