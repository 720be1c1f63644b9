"""A point of a front becomes the model that was judged."""

import json

import numpy as np
import pytest
import torch

from brickyard.core.errors import ArtifactError, ConfigError
from brickyard.factory.evaluate import evaluate_model
from brickyard.factory.from_front import make_from_front
from brickyard.factory.measures import read_measures
from brickyard.factory.quality import open_session, scores_of
from brickyard.factory.searching import SearchSetup, search_network
from brickyard.factory.twin import load_model


@pytest.fixture(scope="module")
def found(supernet, tmp_path_factory):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    out = tmp_path_factory.mktemp("search") / "found"
    wanted, _ = read_measures(["accuracy", "macs"])
    search_network(SearchSetup(network=str(supernet), objectives=wanted, pictures=30), out=out, evaluations=3)
    return out


def test_the_model_is_what_was_judged(found, tmp_path):
    report = make_from_front(found, 0, out=tmp_path / "model")
    point = json.loads((found / "front.json").read_text())["front"][0]
    assert report.quality is not None
    assert report.quality.value == pytest.approx(point["metrics"]["accuracy"])
    for name in ("macs", "parameters", "file_bytes"):
        assert getattr(report, name) == point["metrics"][name]
    assert report.parity_error < 1e-4
    assert report.parity_reference == "the subnet as torch computes it, normalisation not folded"
    request = json.loads((tmp_path / "model" / "request.json").read_text())
    assert request["front"] == {"study": "search", "place": 0, "metrics": point["metrics"]}


def test_the_folder_is_an_ordinary_model_folder(found, tmp_path):
    make_from_front(found, 0, out=tmp_path / "model")
    inputs = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)
    with torch.no_grad():
        twin = load_model(tmp_path / "model")(torch.from_numpy(inputs)).numpy()
    content = (tmp_path / "model" / "model.onnx").read_bytes()
    np.testing.assert_allclose(scores_of(open_session(content), inputs), twin, atol=1e-4)
    assert evaluate_model(tmp_path / "model", "digits").metric == "accuracy"


def test_other_places_and_folders_are_refused(found, supernet, tmp_path):
    with pytest.raises(ConfigError, match=r"has no place 99; allowed: 0 to \d"):
        make_from_front(found, 99, out=tmp_path / "model")
    with pytest.raises(ArtifactError, match="did not write it"):
        make_from_front(supernet, 0, out=tmp_path / "model")
    with pytest.raises(ArtifactError, match="already exists"):
        make_from_front(found, 0, out=found)


def test_a_network_that_has_changed_is_refused(found, tmp_path):
    changed = tmp_path / "found"
    changed.mkdir()
    record = json.loads((found / "search.json").read_text())
    record["network_sha256"] = "0" * 64
    (changed / "search.json").write_text(json.dumps(record))
    (changed / "front.json").write_bytes((found / "front.json").read_bytes())
    with pytest.raises(ArtifactError, match="is not what was searched any more"):
        make_from_front(changed, 0, out=tmp_path / "model")
