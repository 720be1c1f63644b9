"""The page of a map: well-formed, self-contained, with all of its matrices."""

from xml.etree import ElementTree

import pytest

from brickyard.factory.brick_map_report import heat, render_map


def record(**changes):
    names = ["code & <b>", "prose"]
    layer = {
        "path": "layer.0",
        "neurons": 16,
        "best": [0.93, 0.81],
        "located_mean": [0.7, 0.6],
        "mean": [0.5, 0.5],
        "best_expert": [0.66, 0.67],
        "enrichment": {
            "experts": {"share": 0.25, "mean": 4.0},
            "random partition": {"share": 0.0, "mean": 0.0},
        },
    }
    return {
        "functions": names,
        "texts": [[4, 4], [5, 4]],
        "measure": "embedding",
        "share": 0.05,
        "seed": 0,
        "layers": [layer, {**layer, "best": [0.95, 0.71]}],
        "change": [[0.4, 0.1], [0.05, 0.321]],
        "random": [[0.06, 0.04], [0.08, 0.06]],
        "overlap": [[1.0, 0.02], [0.02, 1.0]],
        "shares": [0.0, 0.5],
        "sparsity": [[0.0, 0.0], [0.1, 0.2]],
        "diagonal_ratio": 4.81,
        "over_random": 6.01,
        **changes,
    }


def test_the_page_has_every_part():
    text = render_map(record(), record(diagonal_ratio=1.25, over_random=1.5), title="tiny & model")
    page = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    titles = [part.text for part in page.iter() if part.tag.endswith("h2")]
    assert titles == [
        "Best neuron: score on held-out texts",
        "Without the located neurons",
        "The same in the control",
        "Overlap",
        "Functions gather in experts",
        "Sparsity",
        "What the numbers are",
    ]
    words = " ".join(page.itertext())
    for shown in ("0.93", "0.321", "0.070", "4.81", "control 1.25", "25%, 4.0", "code & <b>", "0.76"):
        assert shown in words, shown
    assert "http" not in text.replace("http://www.w3.org", "")


def test_parts_that_a_map_lacks_are_left_out():
    bare = {"best_expert": None, "enrichment": {}}
    layers = [{**layer, **bare} for layer in record()["layers"]]
    text = render_map(record(layers=layers, shares=[], sparsity=[]), title="tiny")
    ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert "Sparsity</h2>" not in text
    assert "Best expert" not in text
    assert "control" not in text.split("What the numbers are")[0].lower()


@pytest.mark.parametrize(("value", "percent"), [(0.5, 38), (2.0, 75), (-1.0, 0)])
def test_darker_cells_have_higher_numbers(value, percent):
    assert f"var(--brick) {percent}%" in heat(["a"], ["b"], [[value]], top=1.0)
