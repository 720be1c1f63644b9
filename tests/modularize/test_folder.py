"""Transformers with experts are kept in folders that brickyard and transformers read."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from brickyard.core.errors import ArtifactError, ModularizeError
from brickyard.core.files import sha256, write_json
from brickyard.factory.network_folder import JudgedFolder
from brickyard.modularize import load_modular, load_transformer, modularize_transformer, save_modular
from brickyard.modularize.intake import example_inputs

from .encoders import backbone, letters
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


def seal(folder):
    """Write the hashes of a folder anew."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {name: sha256(folder / name) for name in manifest["sha256"]}
    write_json(folder / "manifest.json", manifest)


def rewrite(folder, name, change):
    """Change a record of a folder as if it were legal."""
    record = json.loads((folder / name).read_text())
    change(record)
    write_json(folder / name, record)
    if name != "manifest.json":
        seal(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_modular(made(), tmp_path_factory.mktemp("modular") / "network")


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


def test_the_active_subnet_comes_back(tmp_path):
    modular = made()
    inputs = example_inputs(modular.model)
    whole = output(modular.model, inputs)
    modular.network.configure({**modular.network.space.largest(), next(iter(modular.experts)): (0, 2, 3)})
    folder = save_modular(modular, tmp_path / "network")
    again = load_modular(folder)
    assert again.network.space.active() == modular.network.space.active()
    assert torch.equal(output(again.model, inputs), output(modular.model, inputs))
    assert not torch.equal(output(again.model, inputs), whole)
    for active in ([], [0, 0], [2, 1], [4]):
        rewrite(
            folder, "network.json", lambda record, active=active: record["experts"][0].update(active=active)
        )
        with pytest.raises(ArtifactError, match="active must be one or more ascending numbers below experts"):
            load_modular(folder)


def test_transformers_reads_the_equal_dense_model(tmp_path):
    sample = [{"input_ids": torch.randint(1, 20, (3, 6))}]
    modular = made(experts=3, resident=4, sample=sample)
    inputs = example_inputs(modular.model)
    folder = save_modular(modular, tmp_path / "network")
    dense = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    modular.use("dense")
    assert torch.equal(output(dense, inputs), output(modular.model, inputs))
    assert [part.split.resident for part in load_modular(folder).experts.values()] == [4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_learned_gates_come_back(kind, tmp_path):
    modular = made(kind, gate="learned")
    for leader in modular.experts.values():
        leader.gate.places.data += torch.randn(4, 256)
    inputs = example_inputs(modular.model)
    folder = save_modular(modular, tmp_path / "network")
    again = load_modular(folder)
    assert torch.equal(output(again.model, inputs), output(modular.model, inputs))
    assert set(load_file(folder / "gates.safetensors")) == {
        f"{path}.gate.{name}" for path in modular.experts for name in ("project", "places", "scale")
    }
    assert not [name for name in load_file(folder / "model.safetensors") if ".gate." in name]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
def test_adapters_are_merged_before_a_folder_is_written(tmp_path):
    peft = pytest.importorskip("peft")
    modular = made("llama")
    adapted = peft.get_peft_model(modular.model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModularizeError, match=r"q_proj the first, which no network folder keeps; merge them"):
        save_modular(modular, tmp_path / "network")
    assert not list(tmp_path.iterdir())
    adapted.merge_and_unload()
    load_modular(save_modular(modular, tmp_path / "network"))


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
        "active": [0, 1, 2, 3],
    }
    assert json.loads((folder / "manifest.json").read_text())["kind"] == "network"


def test_altered_folders_are_refused(tmp_path):
    folder = save_modular(made(), tmp_path / "network")
    (folder / "orders.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"orders\.safetensors differs from the hash"):
        load_modular(folder)


def test_records_that_do_not_fit_the_model_are_refused(tmp_path):
    folder = save_modular(made(), tmp_path / "network")
    rewrite(folder, "network.json", lambda record: record["experts"][1].update(neurons=20))
    orders = load_file(folder / "orders.safetensors")
    orders["bert.encoder.layer.1.intermediate.dense"] = torch.arange(20)
    save_file(orders, folder / "orders.safetensors")
    seal(folder)
    with pytest.raises(ArtifactError, match=r"layer\.1\.intermediate\.dense is no .* of 20 neurons"):
        load_modular(folder)


def first(**values):
    return lambda record: record["experts"][0].update(values)


ALTERED = {
    "top_k above experts": (first(top_k=99), r"experts\.0 = .*top_k must not be above experts"),
    "too wide": (first(expert_width=999), r"experts\.0 = .*experts times expert_width must not be above neu"),
    "no number": (first(experts="4"), r"experts\.0\.experts = '4': Input should be a valid integer"),
    "truth": (first(top_k=True), r"experts\.0\.top_k = True: Input should be a valid integer"),
    "none": (first(top_k=0), r"experts\.0\.top_k = 0: Input should be greater than 0"),
    "mode": (first(mode="foo"), r"experts\.0\.mode = 'foo': Input should be 'dense', 'masked' or 'sparse'"),
    "gate": (first(gate="foo"), r"experts\.0\.gate = 'foo': Input should be 'keys', 'lowest' or 'learned'"),
    "unknown part": (first(more=1), r"experts\.0\.more = 1: Extra inputs are not permitted"),
    "no error": (lambda record: record.pop("error"), r"\(error: Field required\)"),
    "error": (lambda record: record.update(error=float("nan")), r"error = nan: Input should be a finite"),
    "version": (lambda record: record.update(format_version=2), r"format_version = 2: Input should be 1"),
    "builder": (lambda record: record.update(builder="foo"), r"builder = 'foo': Input should be ''"),
    "unknown": (lambda record: record.update(more=1), r"more = 1: Extra inputs are not permitted"),
    "no experts": (lambda record: record.update(experts=[]), r"experts = \[\]: List should have at least 1"),
    "null": (lambda record: record.update(experts=None), r"experts = None: Input should be a valid list"),
    "lacking": (lambda record: record.pop("experts"), r"is a network folder without experts"),
    "twice": (
        lambda record: record["experts"].append(record["experts"][0]),
        r"both must name the same, each once",
    ),
    "learned": (first(gate="learned"), r"lacks the weights of the gate of bert\.encoder\.layer\.0"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_altered_records_are_told(name, saved, tmp_path):
    change, message = ALTERED[name]
    folder = shutil.copytree(saved, tmp_path / "network")
    rewrite(folder, "network.json", change)
    with pytest.raises(ArtifactError, match=message):
        load_modular(folder)


def test_records_of_another_shape_are_told(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "network")
    rewrite(folder, "manifest.json", lambda record: record.update(more=1))
    with pytest.raises(ArtifactError, match=r"manifest\.json is malformed \(more = 1: Extra inputs"):
        load_modular(folder)
    rewrite(folder, "manifest.json", lambda record: record.pop("more"))
    write_json(folder / "network.json", [])
    seal(folder)
    with pytest.raises(
        ArtifactError, match=r"network\.json is malformed \(file = \[\]: Input should be a valid"
    ):
        load_modular(folder)


@pytest.mark.parametrize("order", [torch.zeros(16, dtype=torch.int64), torch.arange(16.0), torch.arange(8)])
def test_orders_that_are_no_permutation_are_told(order, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "network")
    orders = load_file(folder / "orders.safetensors")
    orders["bert.encoder.layer.1.intermediate.dense"] = order
    save_file(orders, folder / "orders.safetensors")
    seal(folder)
    with pytest.raises(ArtifactError, match=r"layer\.1\.intermediate\.dense is no permutation of 16 neurons"):
        load_modular(folder)


def test_gates_of_another_number_of_experts_are_told(tmp_path):
    folder = save_modular(made(gate="learned"), tmp_path / "network")
    rewrite(folder, "network.json", first(experts=2, top_k=1, active=[0, 1]))
    with pytest.raises(ArtifactError, match=r"the weights of the gate of .* do not fit 2 experts"):
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


@pytest.mark.parametrize("size", [100, 0, -1])
def test_damaged_weights_are_told(size, tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    os.truncate(weights, size if size >= 0 else weights.stat().st_size + size)
    message = r"that can be loaded \(SafetensorError: .*\); give a whole folder"
    with pytest.raises(ModularizeError, match=message):
        load_transformer(tmp_path)


def test_configs_that_do_not_fit_are_told(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    for change in ({"hidden_size": 24}, {"hidden_size": "x"}, {"hidden_act": "foo"}):
        write_json(tmp_path / "config.json", {**record, **change})
        with pytest.raises(ModularizeError, match=r"is no model of transformers that can be loaded \("):
            load_transformer(tmp_path)


@pytest.fixture
def encoder(tmp_path):
    backbone().save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    return tmp_path


def test_tokenizers_come_with_their_model(encoder):
    assert len(load_transformer(encoder)[1]) == 20
    (encoder / "tokenizer_config.json").unlink()
    assert len(load_transformer(encoder)[1]) >= 20


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("tokenizer.json", text) for text in ("", "{broken", "{}", "[]")],
        *[("tokenizer_config.json", text) for text in ("", "{broken", "[]")],
    ],
)
def test_broken_tokenizers_are_told(name, text, encoder):
    (encoder / name).write_text(text)
    message = (
        r"the tokenizer of .* cannot be loaded from tokenizer_config\.json, tokenizer\.json \(.*; save it"
    )
    with pytest.raises(ModularizeError, match=message):
        load_transformer(encoder)


def test_tokenizers_without_vocabulary_are_told(encoder):
    (encoder / "tokenizer.json").unlink()
    with pytest.raises(ModularizeError, match=r"cannot be loaded from tokenizer_config\.json \("):
        load_transformer(encoder)
    write_json(encoder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(ModularizeError, match=r"has tokenizer_config\.json but no vocabulary"):
        load_transformer(encoder)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "vit", "llama"])
def test_models_without_files_of_a_tokenizer_come_with_none(kind, tmp_path):
    tiny(kind).save_pretrained(tmp_path)
    assert load_transformer(tmp_path)[1] is None


def test_picture_processors_come_with_their_model_unless_broken(tmp_path):
    tiny("vit").save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    assert hasattr(load_transformer(tmp_path)[1], "image_mean")
    write_json(tmp_path / "preprocessor_config.json", {"feature_extractor_type": "Wav2Vec2FeatureExtractor"})
    assert load_transformer(tmp_path)[1] is None
    (tmp_path / "preprocessor_config.json").write_text("{broken")
    with pytest.raises(ModularizeError, match=r"preprocessor_config\.json of .* cannot be loaded \(OSError"):
        load_transformer(tmp_path)
