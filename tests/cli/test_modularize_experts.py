"""`brickyard modularize experts`: a folder of transformers becomes a network folder with experts."""

import json

import pytest
import torch

from brickyard.modularize import load_modular

transformers = pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", *["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far", "away"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny encoder with a tokenizer."""
    return written(tmp_path_factory.mktemp("model") / "tiny", "Bert", max_position_embeddings=8)


def written(folder, kind, **more):
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 16}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), **sizes, **more)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(folder)
    return folder


def command(model, out, *more):
    return ("modularize", "experts", model, "--experts", "4", "--top-k", "2", "--out", out, *more)


def test_a_network_folder_is_written(run, model, tmp_path):
    done = run(*command(model, tmp_path / "network"))
    assert done.exit_code == 0, done.output
    assert "bert.encoder.layer.0.intermediate.dense: 4 experts of 4 neurons, 2 for a token" in done.stdout
    modular = load_modular(tmp_path / "network")
    assert list(modular.experts) == [f"bert.encoder.layer.{n}.intermediate.dense" for n in (0, 2)]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "network").pad_token == "[PAD]"


def test_without_out_the_folder_is_named_after_the_model(run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = ("modularize", "experts", model, "--experts", "4", "--top-k", "2")
    done = run(*more)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("tiny-experts: ")
    assert len(load_modular(tmp_path / "tiny-experts").experts) == 2
    done = run(*more)
    assert done.exit_code == 1
    assert "tiny-experts already exists; choose another folder by --out, or remove it first" in done.stderr


def test_a_network_folder_is_split_anew_from_the_original(run, model, tmp_path):
    assert run(*command(model, tmp_path / "first")).exit_code == 0
    done = run(*command(tmp_path / "first", tmp_path / "second", "--experts", "8", "--layers", "all"))
    assert done.exit_code == 0, done.output
    assert "has experts already" in done.stderr
    original = transformers.BertForMaskedLM.from_pretrained(model).state_dict()
    modular = load_modular(tmp_path / "second")
    assert len(modular.experts) == 3
    found = modular.revert().state_dict()
    assert list(found) == list(original)
    assert all(torch.equal(original[name], value) for name, value in found.items())


@pytest.mark.filterwarnings("default:partitions cannot be kept")
def test_a_cache_that_cannot_be_written_is_one_line(run, model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = run(*command(model, tmp_path / "network"))
    assert done.exit_code == 0, done.output
    assert done.stderr.count("warning: partitions cannot be kept in") == 1
    assert len(load_modular(tmp_path / "network").experts) == 2


def test_a_sample_of_lines_finds_resident_neurons(run, model, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat on a mat\n\na dog ran far away and sat on the mat and on the cat\n" * 3)
    more = ("--sample", lines, "--resident", "4", "--partition", "coactivation", "--layers", "1", "--json")
    done = run(*command(model, tmp_path / "network", *more))
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    [part] = record["layers"].values()
    assert part == {"experts": 4, "expert_width": 3, "resident": 4}
    assert record["error"] < 1e-5
    provenance = json.loads((tmp_path / "network" / "network.json").read_text())["provenance"]
    assert provenance["partition"] == "coactivation"


def test_long_lines_are_cut_to_what_a_model_with_padded_positions_takes(run, tmp_path):
    folder = written(tmp_path / "padded", "Roberta", max_position_embeddings=16, pad_token_id=1)
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat on a mat and the dog ran far away and " * 4)
    more = ("--sample", lines, "--resident", "4", "--experts", "3", "--layers", "1")
    done = run(*command(folder, tmp_path / "network", *more))
    assert done.exit_code == 0, done.output


def test_a_tokenizer_without_padding_is_kept_as_it_was(run, tmp_path):
    folder = written(tmp_path / "tiny", "Bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat\nthe dog sat\n")
    more = ("--sample", lines, "--resident", "4", "--experts", "3", "--layers", "1")
    done = run(*command(folder, tmp_path / "network", *more))
    assert done.exit_code == 0, done.output
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "network").pad_token is None
    tokenizer.unk_token = None
    tokenizer.save_pretrained(folder)
    done = run(*command(folder, tmp_path / "other", *more))
    assert done.exit_code == 1
    assert "has no token to pad texts with; set its pad_token" in done.stderr
    assert not (tmp_path / "other").exists()


def test_a_sample_for_an_encoder_with_a_decoder(run, tmp_path):
    folder = written(tmp_path / "tiny", "Bert")  # its tokenizer
    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 3}
    config = transformers.T5Config(vocab_size=len(WORDS), **sizes, decoder_start_token_id=0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat\nthe dog sat\n")
    more = ("--sample", lines, "--resident", "4", "--experts", "3", "--layers", "all")
    done = run(*command(folder, tmp_path / "network", *more))
    assert done.exit_code == 0, done.output
    assert len(load_modular(tmp_path / "network").experts) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--top-k", "5"), "top_k = 5 is not allowed"),
        (("--layers", "last:9"), "is not allowed for 3 layers"),
        (("--experts", "5"), "cannot be split into 5 experts"),
        (("--resident", "4"), "needs a sample"),
        (("--sample", "nowhere.txt"), "nowhere.txt is not a file; expected lines of text"),
        (("--sample", __file__), "--sample is read for --resident and --partition coactivation alone"),
        (("--seed", "-1"), "should be greater than or equal to 0"),
        (("--layers", "last:²"), "is not allowed for 3 layers"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(run, model, tmp_path, more, message):
    done = run(*command(model, tmp_path / "network", *more))
    assert done.exit_code == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there(run, tmp_path):
    done = run(*command(tmp_path / "none", tmp_path / "network"))
    assert done.exit_code == 1
    assert "is no model of transformers" in done.stderr
