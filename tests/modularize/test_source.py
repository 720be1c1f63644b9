"""Where trained networks come from: code with weights, transformers folders; heads in the data's order."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from brickyard.core.errors import ModularizeError
from brickyard.modularize.source import fit_head_, load_cnn

CODE = """
from torch import nn

number = 3

def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def text():
    return "no module"
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return path


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    path = tmp_path / "nets.safetensors"
    save_file(net.state_dict(), path)
    return path, net.eval()


def test_code_with_weights_gives_the_trained_module(code, weights):
    path, net = weights
    dense = load_cnn(f"{code}:tiny", weights=path)
    picture = torch.randn(2, 3, 8, 8)
    assert torch.equal(dense.module(picture), net(picture))
    assert (dense.labels, dense.mean, dense.std) == (None, None, None)
    assert not dense.module.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "has no function 'missing'"),
        ("number", "has no function 'number'"),
        ("text", "text of .* gives a str, not a torch module"),
    ],
)
def test_code_without_such_a_function_is_refused(code, weights, name, message):
    with pytest.raises(ModularizeError, match=message):
        load_cnn(f"{code}:{name}", weights=weights[0])


def test_missing_files_are_refused_by_name(code, tmp_path):
    with pytest.raises(ModularizeError, match=r"other\.py is not a file"):
        load_cnn(f"{tmp_path / 'other.py'}:tiny", weights=tmp_path)
    with pytest.raises(ModularizeError, match=r"weights = None is not a file"):
        load_cnn(f"{code}:tiny")


def test_weights_that_do_not_fit_are_refused(code, tmp_path):
    path = tmp_path / "odd.safetensors"
    save_file({"0.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(ModularizeError, match=r"(?s)odd\.safetensors does not fit tiny of .*Missing key"):
        load_cnn(f"{code}:tiny", weights=path)


def test_a_folder_of_transformers_brings_labels_and_normalisation(tmp_path, weights):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", id2label={0: "cat", 1: "dog"}
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    record = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(record))
    dense = load_cnn(str(tmp_path / "model"))
    assert dense.labels == ("cat", "dog")
    assert dense.mean == (0.1, 0.2, 0.3)
    picture = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(dense.module(picture), model(picture).logits)
    with pytest.raises(ModularizeError, match="brings weights of its own"):
        load_cnn(str(tmp_path / "model"), weights=weights[0])


def test_a_folder_that_is_no_classifier_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ModularizeError, match="is no image classifier of transformers"):
        load_cnn(str(tmp_path))


def test_rows_of_the_head_come_into_the_order_of_the_data():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    weight = net[1].weight.detach().clone()
    fit_head_(net, labels=("Dog", "cat", "owl"), wanted=("cat", "dog", "owl"), fresh=False)
    assert torch.equal(net[1].weight, weight[[1, 0, 2]])
    fit_head_(net, labels=None, wanted=("a", "b", "c"), fresh=False)
    assert torch.equal(net[1].weight, weight[[1, 0, 2]])


def test_other_classes_are_refused_or_get_a_new_head():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(
        ModularizeError, match=r"scores 3 classes \(dog, cat, owl\), the data have 2 \(x, y\)"
    ):
        fit_head_(net, labels=("dog", "cat", "owl"), wanted=("x", "y"), fresh=False)
    assert net[1].out_features == 3
    fit_head_(net, labels=("dog", "cat", "owl"), wanted=("x", "y"), fresh=True)
    assert net[1].out_features == 2
