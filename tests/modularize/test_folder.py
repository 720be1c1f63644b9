"""Transformers with experts are kept in folders that brickyard and transformers read."""

import json

import pytest
import torch
from torch import nn

from brickyard.core.errors import ArtifactError, ModularizeError
from brickyard.core.files import sha256, write_json
from brickyard.factory.network_folder import JudgedFolder
from brickyard.modularize import load_modular, load_transformer, modularize_transformer, save_modular
from brickyard.modularize.intake import example_inputs

from .transformers_zoo import Block, Stack, X, tiny, transformers

KINDS = ("bert-classifier", "gpt2", "llama", "vit", "t5")


def output(model, inputs):
    with torch.no_grad():
        return model(**inputs)[0]


def made(kind="bert-classifier", **settings):
    model = tiny(kind)
    return modularize_transformer(
        model, **{"experts": 4, "top_k": 2, "layers": [0, 1], "cache": False, **settings}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_experts_modes_and_weights_come_back(kind, tmp_path):
    original = tiny(kind).state_dict()
    modular = made(kind)
    next(iter(modular.experts.values())).split.mode = "dense"
    inputs = example_inputs(modular.model)
    folder = save_modular(modular, tmp_path / "network")
    again = load_modular(folder)
    assert type(again.model) is type(modular.model)
    assert not again.model.training
    assert again.network.space == modular.network.space
    assert again.error == modular.error
    assert [part.split.mode for part in again.experts.values()] == ["dense", "masked"]
    assert torch.equal(output(again.model, inputs), output(modular.model, inputs))
    again.revert()
    found = again.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in original.items())


def test_transformers_reads_the_equal_dense_model(tmp_path):
    sample = [{"input_ids": torch.randint(1, 20, (3, 6))}]
    modular = made(experts=3, resident=4, sample=sample)
    inputs = example_inputs(modular.model)
    folder = save_modular(modular, tmp_path / "network")
    dense = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    modular.use("dense")
    assert torch.equal(output(dense, inputs), output(modular.model, inputs))
    assert [part.split.resident for part in load_modular(folder).experts.values()] == [4, 4]


def test_learned_gates_come_back(tmp_path):
    modular = made(gate="learned")
    for leader in modular.experts.values():
        leader.gate.places.data += torch.randn(4, 256)
    inputs = example_inputs(modular.model)
    again = load_modular(save_modular(modular, tmp_path / "network"))
    assert torch.equal(output(again.model, inputs), output(modular.model, inputs))


def test_the_control_comes_back(tmp_path):
    again = load_modular(save_modular(made(gate="lowest"), tmp_path / "network"))
    assert all(leader.split.gate == "lowest" for leader in again.experts.values())


def test_the_folder_tells_what_it_is(tmp_path):
    folder = save_modular(made(), tmp_path / "network", provenance={"model": "tiny"})
    record = json.loads((folder / "network.json").read_text())
    assert record["provenance"] == {"model": "tiny"}
    assert record["experts"][0] == {
        "keys": "bert.encoder.layer.0.intermediate.dense",
        "neurons": 16,
        "experts": 4,
        "expert_width": 4,
        "top_k": 2,
        "gate": "keys",
        "mode": "masked",
    }
    assert json.loads((folder / "manifest.json").read_text())["kind"] == "network"


def test_altered_folders_are_refused(tmp_path):
    folder = save_modular(made(), tmp_path / "network")
    (folder / "orders.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"orders\.safetensors differs from the hash"):
        load_modular(folder)


def test_records_that_do_not_fit_the_model_are_refused(tmp_path):
    folder = save_modular(made(), tmp_path / "network")
    record = json.loads((folder / "network.json").read_text())
    record["experts"][1]["neurons"] = 12
    write_json(folder / "network.json", record)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["network.json"] = sha256(folder / "network.json")
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match=r"layer\.1\.intermediate\.dense is no .* of 12 neurons"):
        load_modular(folder)


def test_other_network_folders_are_told_apart(supernet, tmp_path):
    with pytest.raises(ArtifactError, match="a network folder without experts"):
        load_modular(supernet)
    with pytest.raises(ArtifactError, match="is not a folder"):
        load_modular(tmp_path / "nowhere")
    folder = save_modular(made(), tmp_path / "network")
    with pytest.raises(ValueError, match="holds no pictures"):
        JudgedFolder.open_with(folder, None)


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    modular = made()
    modular.revert()
    with pytest.raises(ModularizeError, match="dense again"):
        save_modular(modular, tmp_path / "network")
    other = modularize_transformer(Stack(Block(nn.ReLU())), experts=4, top_k=2, layers="all", inputs=X)
    with pytest.raises(ArtifactError, match="a Stack is no model of transformers"):
        save_modular(other, tmp_path / "network")
    assert list(tmp_path.iterdir()) == []


def test_taken_folders_stay_as_they_are(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="already exists"):
        save_modular(made(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_models_that_lack_weights_are_refused(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**record, "architectures": ["BertForSequenceClassification"]})
    with pytest.raises(ModularizeError, match="lacks weights of a BertForSequenceClassification"):
        load_transformer(tmp_path)
    with pytest.raises(ModularizeError, match="is no model of transformers"):
        load_transformer(tmp_path / "nowhere")
