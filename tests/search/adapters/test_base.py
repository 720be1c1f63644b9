"""A super-network made of functions is searched whole."""

import pytest

from brickyard.core.config import Config
from brickyard.core.errors import ConfigError
from brickyard.search import Foreign, run
from brickyard.search.adapters.base import numbers_of


def test_a_network_of_three_functions_is_searched_and_cut(space, measure):
    network = Foreign(space=space, evaluate=measure, extract=dict)
    result = run(network, objectives=["error", "macs"], evaluations=12, sampler="random")
    same = run(space=space, evaluate=measure, objectives=["error", "macs"], evaluations=12, sampler="random")
    assert result.points == same.points
    assert space.check(network.extract(result.front[0].config)) == result.front[0].config


def test_what_computes_the_same_is_evaluated_once(space, measure):
    seen: list[Config] = []

    def evaluate(config):
        seen.append(config)
        return measure(config)

    def canonical(config):
        return config.replace({"parts": (), "width": 8})

    network = Foreign(space=space, evaluate=evaluate, extract=dict, canonical=canonical)
    run(network, objectives=["macs"], evaluations=6, sampler="random")
    assert len({canonical(config) for config in seen}) == len(seen) == 6


@pytest.mark.parametrize("names", [(), ("space",), ("network", "evaluate"), ("network", "space", "evaluate")])
def test_a_network_or_its_parts(space, measure, names):
    network = Foreign(space=space, evaluate=measure, extract=dict)
    parts = {"network": network, "space": space, "evaluate": measure}
    with pytest.raises(ConfigError, match="needs either a network, or space and evaluate"):
        run(**{name: parts[name] for name in names}, objectives=["error"])


def test_an_evaluation_gives_numbers_by_name():
    assert numbers_of({"error": 1.0}, "evaluate") == {"error": 1.0}
    with pytest.raises(ConfigError, match=r"evaluate returned 0.5; return numbers by name"):
        numbers_of(0.5, "evaluate")
