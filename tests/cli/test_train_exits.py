"""From pairs to an encoder with exits, its table, and a model that is cut at one of them."""

import json
import random
import re
import shutil

import pytest
import torch

from brickyard.core.files import read_manifest
from brickyard.data.code_pairs import CodePair, write_code_pairs
from brickyard.modularize import load_exits

transformers = pytest.importorskip("transformers")
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny encoder with a tokenizer, as transformers saves it with a head for hidden tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model") / "tiny"
    words = ["[PAD]", "[UNK]", "[MASK]", *LETTERS, *LETTERS.upper()]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(words), num_hidden_layers=3, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    rules = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Letters with the same letters as capitals; the last of them are held out."""
    draw = random.Random(0)
    texts = {" ".join(draw.sample(LETTERS, 3)) for _ in range(60)}
    found = [
        CodePair(
            query=text,
            document=text.upper(),
            source="xy"[number % 2],
            file=f"{number}.py",
            line=1,
            split="heldout" if number > 40 else "train",
        )
        for number, text in enumerate(sorted(texts))
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_code_pairs(path, found)
    return path


def command(model, pairs, out, *more):
    small = ("--batch-size", "8", "--max-tokens", "16", "--learning-rate", "0.01")
    return ("train", "exits", model, "--pairs", pairs, "--exits", "1,3", "--out", out, *small, *more)


@pytest.fixture(scope="module")
def encoder(run, model, pairs, tmp_path_factory):
    """The folder of a trained encoder, and what the command said."""
    out = tmp_path_factory.mktemp("encoders") / "exits"
    done = run(*command(model, pairs, out, "--steps", "20", "--mlm", "0.1", "--same-source", "0.1"))
    assert done.exit_code == 0, done.output
    return out, done


def test_training_writes_the_encoder_its_table_and_curves(encoder):
    out, done = encoder
    assert f"encoder    {out}" in done.stdout
    assert re.search(r"\| 3 \| 0\.\d{3} \|", done.stdout)
    assert re.search(r"train 20/20 loss .*InfoNCE 1:.* 3:.*hidden tokens 1:.*sources 1:", done.stderr)
    assert load_exits(out).exits == (1, 3)
    files = read_manifest(out, format_version=1, kind="network")["sha256"]
    assert {"exits.json", "training/curves.png", "training/log.json", "heads.safetensors"} <= set(files)
    assert (out / "training" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not out.with_name("exits.training").exists()
    provenance = json.loads((out / "network.json").read_text())["provenance"]
    assert provenance["settings"]["train"]["mlm"] == 0.1
    assert provenance["pairs"]["train"] == 41


def test_evaluate_measures_each_exit(run, encoder, pairs, tmp_path):
    folder, _ = encoder
    done = run("evaluate", folder, "--data", pairs, "--out", tmp_path / "table", "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert [row["exit"] for row in record["rows"]] == [1, 3]
    kept = json.loads((folder / "exits.json").read_text())
    assert [row["mrr"] for row in record["rows"]] == [row["mrr"] for row in kept["rows"]]
    assert json.loads((tmp_path / "table" / "exits.json").read_text()) == record
    assert (tmp_path / "table" / "exits.png").is_file()
    done = run("evaluate", folder, "--data", pairs, "--part", "all")
    assert f"{len(pairs.read_text().splitlines())} queries" in done.stdout
    for more in (("--label", "x"), ("--pictures", "9"), ("--seed", "1")):
        refused = run("evaluate", folder, "--data", pairs, *more)
        assert refused.exit_code == 1
        assert "this encoder has exits and reads pairs" in re.sub(r"[\s│]+", " ", refused.stderr)
    refused = run("evaluate", folder, "--data", pairs, "--out", tmp_path / "table")
    assert refused.exit_code == 1
    assert "exits.json already exists; choose another folder" in refused.stderr
    write_code_pairs(tmp_path / "one.jsonl", [CodePair(query="a", document="A", source="", file="", line=1)])
    refused = run("evaluate", folder, "--data", tmp_path / "one.jsonl")
    assert "none of the 1 pairs" in refused.stderr
    assert "take all of them by --part all" in refused.stderr


def test_make_cuts_at_the_best_exit_within_the_limit(run, encoder, tmp_path):
    folder, _ = encoder
    table = json.loads((folder / "exits.json").read_text())
    early, last = table["rows"]
    early.update(mrr=0.4, latency_ms=1.0)
    last.update(mrr=0.9, latency_ms=3.0)
    (tmp_path / "exits.json").write_text(json.dumps(table))
    device = ("--device", tmp_path / "exits.json")
    done = run("make", folder, *device, "--latency-ms", "2", "--out", tmp_path / "small", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["exit"] == 1
    assert [choice["latency_ms"] for choice in report["choices"]] == [1.0, 3.0]
    assert report == json.loads((tmp_path / "small" / "report.json").read_text())
    read_manifest(tmp_path / "small", format_version=1, kind="model")
    assert transformers.AutoModel.from_pretrained(tmp_path / "small").config.num_hidden_layers == 1
    assert (tmp_path / "small" / "modules.json").is_file()

    import onnxruntime

    whole = load_exits(folder)
    batch = {name: part.numpy() for name, part in whole.tokens(["a b c", "d"]).items()}
    found = onnxruntime.InferenceSession(tmp_path / "small" / "model.onnx").run(None, batch)[0]
    expected = whole.encode(["a b c", "d"], exit=1)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
    said = run("report", tmp_path / "small").stdout
    assert "cut at exit 1 of 1, 3" in said
    assert "1.000 ms p50 (last exit 3.000)" in said

    refused = run("evaluate", tmp_path / "small", "--data", "pairs.jsonl")
    assert refused.exit_code == 1
    assert "was cut at one exit" in refused.stderr

    done = run("make", folder, *device, "--latency-ms", "0.5", "--out", tmp_path / "none", "--json")
    assert done.exit_code == 2
    assert "no exit takes at most 0.5 ms; the quickest takes 1 ms" in done.stderr
    assert "binding limit latency_ms: requested 0.5, smallest 1" in done.stderr
    assert not (tmp_path / "none").exists()
    assert json.loads(done.stdout)["feasible"] is False


def test_make_times_this_machine_and_takes_the_last_exit_without_a_table(run, encoder, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(encoder[0], folder)
    (folder / "exits.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]["exits.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = run("make", folder, "--latency-ms", "1000", "--out", tmp_path / "last")
    assert done.exit_code == 0, done.output
    assert "cut at exit 3 of 1, 3" in done.stdout
    assert "not measured: no pairs were held out" in done.stdout
    report = json.loads((tmp_path / "last" / "report.json").read_text())
    assert all(0 < choice["latency_ms"] < 1000 for choice in report["choices"])
    fewest = report["choices"][0]["parameters"]
    done = run("make", folder, "--max-parameters", fewest, "--out", tmp_path / "few")
    assert "cut at exit 1 of 1, 3" in done.stdout


def test_what_make_cannot_do_for_encoders_is_told(run, encoder, tmp_path):
    folder, out = encoder[0], tmp_path / "out"

    def refused(*more):
        done = run("make", folder, "--out", out, *more)
        assert done.exit_code == 1
        assert not out.exists()
        return re.sub(r"[\s│]+", " ", done.stderr)

    for more in (("--task", "a"), ("--format", "onnx-int8"), ("--measure-memory",), ("--threshold", "0.1")):
        assert "it is not for an encoder with exits" in refused(*more)
    for more in (("--jobs", "2"), ("--seed", "1")):
        assert "it is not for an encoder with exits" in refused(*more)
    assert "max_macs = 25% cannot be limited for an encoder" in refused("--max-macs", "25%")
    assert "latency_ms = -1.0 is not a usable limit" in refused("--latency-ms", "-1")
    assert "no.json is not a file; give the exits.json" in refused("--device", tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{}")
    assert "is no table of exits" in refused("--device", tmp_path / "bad.json")
    table = json.loads((folder / "exits.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**table, "rows": table["rows"][:1]}))
    assert "is of the exits [1], the encoder has [1, 3]" in refused("--device", tmp_path / "other.json")


def test_what_cannot_be_trained_is_told(run, model, pairs, tmp_path):
    out = tmp_path / "out"

    def refused(*more):
        done = run(*command(model, pairs, out), *more)
        assert done.exit_code == 1
        assert not out.exists()
        return re.sub(r"[\s│]+", " ", done.stderr)

    assert "is not numbers with commas between" in refused("--exits", "one")
    assert "exits = [3, 1] is not allowed" in refused("--exits", "3,1")
    assert "fewer than a batch of 64" in refused("--batch-size", "64")
    assert "steps = 0 must be above 0" in refused("--steps", "0")
    assert "absent.jsonl is not a file" in refused("--pairs", tmp_path / "absent.jsonl")
    taken = run(*command(model, pairs, model))
    assert "already exists; choose another folder" in taken.stderr
