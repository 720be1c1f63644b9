"""Subnets of networks that read tokens: what is counted, measured and left out."""

import numpy as np
import pytest
import torch

from brickyard.core.errors import ConfigError
from brickyard.data.texts import Texts
from brickyard.devices.runtimes.ort import ORT
from brickyard.factory.text_subnets import TextSubnets, export_texts, macs_of
from brickyard.networks import build


class Judged:
    """A network whose subnets are judged by a number of their own."""

    def __init__(self, name: str, metric: str) -> None:
        self.network, self.metric = build(name).eval(), metric
        self.heldout = Texts(tuple(str(place) for place in range(20)), np.arange(20))

    def subnet(self, config):
        return self.network.extract(config).eval()

    def evaluate(self, config, examples):
        return {self.metric: float(examples.labels.sum())}


@pytest.fixture(scope="module", params=[("text_encoder_pico", "accuracy"), ("translation_pico", "bleu")])
def subnets(request):
    return TextSubnets(Judged(*request.param))


def test_a_subnet_is_counted_and_measured(subnets):
    small, large = (subnets.config(config) for config in (subnets.space.smallest(), subnets.space.largest()))
    found = subnets.figures(small, {subnets.trained.metric, "latency_ms", "file_bytes"})
    assert set(found) == {subnets.trained.metric, "macs", "parameters", "file_bytes", "latency_ms"}
    whole = subnets.figures(large, set())
    assert found["macs"] < whole["macs"] == subnets.whole_macs
    assert 4 * found["parameters"] < found["file_bytes"]
    assert found["latency_ms"] > 0
    assert "classes" not in subnets.space


def test_macs_are_those_of_products():
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    assert macs_of(module, (torch.zeros(3, 4),)) == 3 * (4 * 8 + 8 * 2)


def test_the_exported_file_computes_the_subnet(subnets):
    module = subnets.trained.subnet(subnets.config(subnets.space.smallest()))
    inputs = subnets.full_inputs
    session = ORT.open(export_texts(module, inputs), threads=1)
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, {name: part.numpy() for name, part in zip(names, inputs, strict=True)})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, module(*inputs).numpy(), atol=1e-4)


def test_layers_left_out_decide_nothing(subnets):
    depth = next(part for part in subnets.space if part.name.endswith("depth"))
    last = [part for part in subnets.space if f"layer{depth.largest() - 1}." in part.name]
    last = [part for part in last if part.name.rpartition("layer")[0] == depth.name.removesuffix("depth")]
    assert last
    shallow = subnets.space.largest().replace({depth.name: depth.smallest()})
    other = shallow.replace({part.name: part.smallest() for part in last})
    assert subnets.canonical(other) == subnets.canonical(shallow) == shallow
    inputs = subnets.full_inputs
    with torch.no_grad():
        scores = [subnets.trained.subnet(subnets.config(c))(*inputs).numpy() for c in (shallow, other)]
    np.testing.assert_array_equal(*scores)
    deep = subnets.space.largest().replace({last[0].name: last[0].smallest()})
    assert subnets.canonical(deep) == deep


def test_all_subnets_are_judged_by_the_same_examples_and_no_more_than_wanted():
    trained = Judged("text_encoder_pico", "accuracy")
    for wanted, count in ((7, 7), (20, 20), (1000, 20)):
        subnets = TextSubnets(trained, examples=wanted, seed=3)
        labels = subnets.labelled.labels
        assert len(set(labels.tolist())) == count
        small, large = (subnets.config(c) for c in (subnets.space.smallest(), subnets.space.largest()))
        judged = [subnets.figures(config, {"accuracy"})["accuracy"] for config in (small, large)]
        assert judged == [labels.sum()] * 2
    draws = [TextSubnets(trained, examples=7, seed=seed).labelled.labels.tolist() for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_tasks_are_refused():
    with pytest.raises(ConfigError, match="leave it out"):
        TextSubnets(Judged("text_encoder_pico", "accuracy"), task="a")
