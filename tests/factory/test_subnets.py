"""Subnets as graphs with their own normalisation: what torch computes, and which decisions play no part."""

import random

import numpy as np
import pytest
import torch

from brickyard.bricks.calibration import extract_calibrated
from brickyard.core.errors import ExportError, TaskError
from brickyard.core.space import HEAD_SUBSETS
from brickyard.devices.runtimes import RUNTIMES
from brickyard.factory.clock import Clock
from brickyard.factory.quality import open_session, scores_of
from brickyard.factory.subnets import Subnets


@pytest.fixture(scope="module")
def subnets(supernet):
    return Subnets(supernet, pictures=40)


def inputs_of(subnets):
    return subnets.folder.preprocess.apply(subnets.folder.heldout.images[:6])


def test_the_head_is_left_to_the_task(subnets):
    assert not {decision.name for decision in subnets.space} & set(HEAD_SUBSETS)
    assert subnets.config(subnets.space.smallest())["classes"] == tuple(range(10))


def test_a_graph_computes_the_calibrated_module(subnets):
    config = subnets.config(subnets.space.sample(random.Random(4)))
    batches = torch.from_numpy(subnets.folder.preprocess.apply(subnets.folder.calibration.images)).split(128)
    inputs = inputs_of(subnets)
    with torch.no_grad():
        expected = extract_calibrated(subnets.network, batches, config)(torch.from_numpy(inputs)).numpy()
        plain = subnets.network.extract(config).eval()(torch.from_numpy(inputs)).numpy()
    found = scores_of(open_session(subnets.graph(config)), inputs)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(plain - expected).max() > 1e-2


def test_blocks_left_out_decide_nothing(subnets):
    small = subnets.space.smallest()
    other = small.replace({"stage0.block1.kernel": 5, "stage1.block1.expand": 3})
    assert subnets.canonical(other) == subnets.canonical(small) != subnets.canonical(subnets.space.largest())
    inputs = inputs_of(subnets)
    scores = [scores_of(open_session(subnets.graph(subnets.config(c))), inputs) for c in (small, other)]
    np.testing.assert_array_equal(*scores)
    deep = subnets.space.largest()
    assert subnets.canonical(deep.replace({"stage0.block1.kernel": 3})) != deep


@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_subnets_are_timed_by_the_runtime_that_is_asked_for(supernet, monkeypatch, runtime):
    pytest.importorskip("openvino")
    timed = Subnets(supernet, pictures=40, runtime=runtime)
    opened = []
    for name, entry in RUNTIMES.items():

        def opening(content, *, threads, name=name, really=entry.open, **more):
            opened.append(name)
            return really(content, threads=threads, **more)

        monkeypatch.setattr(entry, "open", opening)
    found = timed.figures(timed.config(timed.space.smallest()), {"latency_ms"})
    assert found["latency_ms"] > 0
    assert opened[-1] == runtime


def test_a_file_that_computes_something_else_is_refused(subnets):
    config = subnets.config(subnets.space.smallest())
    graph = subnets.blueprint.cut(config)  # with the normalisation of the whole network
    with pytest.raises(ExportError, match=r"differs from the whole network by .*nothing was written"):
        subnets.realised(config, graph, clock=Clock())


def test_property_factories_need_a_task(pico):
    with pytest.raises(TaskError, match="name one property or more with --task, of small, large"):
        Subnets(pico)
    subnets = Subnets(pico, task="red circle", pictures=20)
    full = subnets.config(subnets.space.largest())
    assert len(full["head.words"]) == 2
    assert subnets.model(full, clock=Clock()).parity_error < 1e-4
    emptied = subnets.config(subnets.space.smallest())
    assert subnets.model(emptied, clock=Clock()).parity_error < 1e-4
