"""Weights: what is tied is kept once and comes back tied."""

import pytest
import torch
from safetensors.torch import load, save

from brickyard.core.weights import distinct_state, load_distinct_state_
from brickyard.networks import build


def test_tied_weights_are_kept_once_and_come_back():
    torch.manual_seed(3)
    network = build("translation_pico")
    state = distinct_state(network)
    assert set(network.state_dict()) - set(state) == {"root.output.weight"}
    other = build("translation_pico")
    load_distinct_state_(other, load(save(state)))
    assert other.root.output.weight is other.root.target.tokens.weight
    found = other.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in network.state_dict().items())


def test_a_whole_state_is_taken_too():
    network, other = build("translation_pico"), build("translation_pico")
    load_distinct_state_(other, network.state_dict())
    assert torch.equal(other.root.output.weight, network.root.output.weight)


def test_tensors_of_equal_values_or_without_numbers_are_told_apart():
    module = torch.nn.ModuleList([torch.nn.LayerNorm(2), torch.nn.LayerNorm(2)])
    for part in module:
        part.register_buffer("nothing", torch.zeros(0))
    assert set(distinct_state(module)) == set(module.state_dict())


def test_what_lacks_or_is_strange_is_refused():
    network = build("translation_pico")
    state = distinct_state(network)
    name = next(iter(state))
    lacking = {key: value for key, value in state.items() if key != name}
    with pytest.raises(RuntimeError, match=f"Missing key.*{name}"):
        load_distinct_state_(network, lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other\.weight"):
        load_distinct_state_(network, {**state, "other.weight": torch.zeros(1)})
