"""Centre detectors: shapes of the maps, sizes that do not fit, heat of combinations."""

import pytest
import torch

from brickyard.core.errors import ConfigError
from brickyard.networks import NETWORKS, build
from brickyard.networks.detection import DETECTORS, OUTPUTS


def test_every_detector_is_known_as_one():
    made = {name: build(name).outputs for name in NETWORKS}
    assert {name for name, outputs in made.items() if outputs == OUTPUTS} == set(DETECTORS)


@pytest.mark.parametrize(("kind", "maps"), [("classes", 5), ("presence", 1)])
def test_maps_have_a_cell_for_four_pixels(kind, maps):
    network = build("center_pico", num_outputs=5, head_kind=kind, image_size=[24, 40]).eval()
    assert network.input_shape == (3, 24, 40)
    heat, boxes = network(torch.randn(2, 3, 24, 40))
    assert heat.shape == (2, maps, 6, 10)
    assert boxes.shape == (2, 4, 6, 10)
    assert float(heat.detach().min()) > 0
    assert float(heat.detach().max()) < 1


@pytest.mark.parametrize("size", [20, [24, 20], [24, 24, 24], 0])
def test_sizes_that_do_not_halve_evenly_are_refused(size):
    with pytest.raises(ConfigError, match="multiple of 8 pixels"):
        build("center_pico", image_size=size)


@torch.no_grad()
def test_more_words_never_raise_the_heat_and_every_missing_word_counts():
    network = build("center_pico", num_outputs=4, head_kind="presence").eval()
    x = torch.randn(1, 3, 32, 32)
    largest = network.space.largest()

    def logit(*words):
        with network.configured(largest.replace({"head.words": words})):
            return network(x)[0].logit()

    one, two, both = logit(0), logit(2), logit(0, 2)
    bias = network.root.get_submodule("head.heat.score").bias
    assert (both < torch.minimum(one, two)).all()
    torch.testing.assert_close(both - bias, (one - bias) + (two - bias), atol=1e-4, rtol=1e-4)
