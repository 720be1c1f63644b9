"""`brickyard map` and `brickyard map prune`: from labelled texts to a page, and to a smaller model."""

import json
import random

import pytest
import torch

from brickyard.core.errors import ArtifactError
from brickyard.modularize import load_map, modularize_transformer, save_modular

transformers = pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", *(chr(97 + place) for place in range(16))]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny encoder with a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(folder)
    rules = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    lines = {
        name: ["".join(f"{letter} " for letter in draw.choices(pool, k=6)) for _ in range(12)]
        for name, pool in (("front", "abcde"), ("back", "klmno"))
    }
    (folder / "front.txt").write_text("\n".join(lines["front"]))
    (folder / "back").mkdir()
    for place, line in enumerate(lines["back"]):
        (folder / "back" / f"{place}.txt").write_text(line)
    return folder


def command(model, texts, out, *more):
    return ("map", model, "--texts", texts, "--out", out, "--share", "0.2", *more)


def test_a_map_is_written_and_a_model_cut_from_it(run, model, texts, tmp_path):
    done = run(*command(model, texts, tmp_path / "map", "--experts", "4"))
    assert done.exit_code == 0, done.output
    assert "own / others" in done.stdout
    assert f"page         {tmp_path / 'map' / 'map.html'}" in done.stdout
    assert "perturbation" in done.stderr
    names = {path.name for path in (tmp_path / "map").iterdir()}
    expected = {"map.html", "map.json", "control.json", "changes.csv", "neurons.csv", "scores.safetensors"}
    assert names == expected
    found = load_map(tmp_path / "map")
    assert found.functions == ("back", "front")
    assert set(found.layers[0].experts.tolist()) == {0, 1, 2, 3}
    assert "The same in the control" in (tmp_path / "map" / "map.html").read_text()

    prune = ("map", "prune", model, "--map", tmp_path / "map", "--keep", "front", "--out", tmp_path / "small")
    done = run(*prune, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    small = transformers.AutoModel.from_pretrained(tmp_path / "small")
    assert small.config.intermediate_size == 8
    count = sum(part.numel() for part in small.parameters())
    assert record["parameters"]["after"] == count < record["parameters"]["before"]
    assert set(record["change"]) == set(record["random"]) == {"back", "front"}
    neurons = set(record["neurons"]["encoder.layer.0.intermediate.dense"])
    experts = found.layers[0].experts
    kept = {int(experts[neuron]) for neuron in neurons}
    assert len(kept) == 2
    assert len(neurons) == 8
    again = json.loads((tmp_path / "small" / "pruned.json").read_text())
    assert again["change"] == record["change"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "small").pad_token == "[PAD]"


def test_a_map_that_was_stopped_goes_on(run, model, texts, tmp_path, monkeypatch):
    def stop(*values, **more):
        raise ArtifactError("no room on the disk")

    out, settings = tmp_path / "map", ("--change-texts", "4")
    with monkeypatch.context() as patch:
        patch.setattr("brickyard.modularize.save_map", stop)
        assert run(*command(model, texts, out, *settings)).exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["map.mapping"]
    done = run(*command(model, texts, out, "--seed", "1", *settings))
    assert done.exit_code == 1
    assert "is of another run" in done.stderr
    done = run(*command(model, texts, out, *settings))
    assert done.exit_code == 0, done.output
    assert "activity" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


def test_experts_of_neurons_that_are_active_together(run, model, texts, tmp_path):
    def experts(partition):
        out = tmp_path / partition
        done = run(*command(model, texts, out, "--experts", "4", "--partition", partition, "--no-control"))
        assert done.exit_code == 0, done.output
        return [layer.experts for layer in load_map(out).layers]

    together, by_keys = experts("coactivation"), experts("kmeans")
    assert all(torch.bincount(layer).tolist() == [4] * 4 for layer in together)
    assert not all(torch.equal(*pair) for pair in zip(together, by_keys, strict=True))


def test_a_network_folder_brings_its_experts(run, model, texts, tmp_path):
    dense = transformers.BertModel.from_pretrained(model)
    modular = modularize_transformer(dense, experts=4, top_k=2, layers=[1], cache=False, partition="random")
    order = next(iter(modular.orders().values()))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    save_modular(modular, tmp_path / "network", processor=tokenizer)
    more = ("--no-control", "--json")
    done = run(*command(tmp_path / "network", texts, tmp_path / "map", *more))
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["control"] is None
    assert [layer["best_expert"] is None for layer in record["layers"]] == [True, False]
    found = load_map(tmp_path / "map")
    assert torch.equal(found.layers[1].experts[order], torch.arange(16) // 4)
    done = run(*command(model, texts, tmp_path / "dense", *more))
    plain = json.loads(done.stdout)
    assert plain["layers"][0]["best"] == record["layers"][0]["best"]
    assert plain["change"] == record["change"]
    done = run(*command(tmp_path / "network", texts, tmp_path / "no", "--experts", "4"))
    assert done.exit_code == 1
    assert "has experts of its own" in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--share", "2"), "share = 2.0 is not allowed"),
        (("--partition", "random"), "it is for --experts; leave it out"),
        (("--experts", "5"), "16 neurons cannot be split into 5 experts"),
        (("--max-texts", "1"), "1 texts of a function are not allowed"),
        (("--max-tokens", "1"), "max_tokens = 1"),
        (("--texts", "nowhere"), "nowhere is no folder"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(run, model, texts, tmp_path, more, message):
    done = run(*command(model, texts, tmp_path / "map", *more))
    assert done.exit_code == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_pruning_needs_the_model_and_the_texts_of_the_map(run, model, texts, tmp_path):
    assert run(*command(model, texts, tmp_path / "map", "--no-control")).exit_code == 0
    other = tmp_path / "other"
    torch.manual_seed(1)
    transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(other)
    transformers.AutoTokenizer.from_pretrained(model).save_pretrained(other)
    changed = tmp_path / "texts"
    changed.mkdir()
    for name in ("front", "back"):
        (changed / f"{name}.txt").write_text("a b c\nd e f\n" if name == "front" else "k l\nm n\n")
    for named, more, message in (
        (other, ("--keep", "front"), "the map is of another model"),
        (model, ("--keep", "front", "--texts", changed), "does not hold the texts of the map"),
        (model, ("--keep", "sideways"), "are not all on this map; known: back, front"),
        (model, ("--keep", "front", "--share", "1"), "share = 1.0 is not allowed"),
    ):
        done = run("map", "prune", named, "--map", tmp_path / "map", "--out", tmp_path / "small", *more)
        assert done.exit_code == 1, more
        assert message in done.stderr
        assert not (tmp_path / "small").exists()
    record = json.loads((tmp_path / "map" / "map.json").read_text())
    del record["provenance"]["texts"]
    (tmp_path / "map" / "map.json").write_text(json.dumps(record))
    done = run(
        *("map", "prune", model, "--map", tmp_path / "map", "--out", tmp_path / "small", "--keep", "front")
    )
    assert done.exit_code == 1
    assert "does not tell texts of its texts; make it again" in done.stderr


@pytest.mark.parametrize("kind", ["DistilBert", "Bloom"])
def test_a_smaller_model_is_read_back_or_not_written(run, model, texts, tmp_path, kind):
    named = {"DistilBert": {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 16}, "Bloom": {}}[kind]
    sizes = {"hidden_size": 12, "n_layer": 2, "n_head": 3, "vocab_size": len(WORDS), **named}
    sizes = {name: value for name, value in sizes.items() if not named or name in (*named, "vocab_size")}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "model")
    done = run(*command(tmp_path / "model", texts, tmp_path / "map", "--no-control"))
    assert done.exit_code == 0, done.output
    more = ("--map", tmp_path / "map", "--out", tmp_path / "small", "--keep", "front")
    done = run("map", "prune", tmp_path / "model", *more)
    if kind == "DistilBert":
        assert done.exit_code == 0, done.output
        small = transformers.AutoModel.from_pretrained(tmp_path / "small")
        assert small.config.hidden_dim == 8
    else:
        assert done.exit_code == 1
        assert "which its config cannot tell, so no folder could be read back" in done.stderr
        assert not (tmp_path / "small").exists()
