"""Folders of encoders: with all exits, and of one for sentence-transformers."""

import json
import shutil

import pytest
import torch

from brickyard.core.errors import ArtifactError
from brickyard.core.files import sha256, write_json
from brickyard.modularize import add_exits, load_exits, save_exits

from .encoders import TEXTS, backbone, letters
from .transformers_zoo import transformers


def encoder(head="own", **settings):
    made = add_exits(
        backbone(), **{"exits": (1, 3), "tokenizer": letters(), "head": head, "max_tokens": 16, **settings}
    )
    with torch.no_grad():
        for parameter in made.network.root.head.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return made


@pytest.mark.parametrize("head", ["own", "shared", "none"])
def test_exits_are_read_back(head, tmp_path):
    made = encoder(head)
    again = load_exits(save_exits(made, tmp_path / "exits", provenance={"note": "pico"}))
    assert (again.exits, again.head, again.embed_dim) == ((1, 3), head, 12)
    for exit in again.exits:
        assert torch.equal(again.encode(TEXTS, exit=exit), made.encode(TEXTS, exit=exit))
    whole = transformers.AutoModel.from_pretrained(tmp_path / "exits")
    assert whole.config.num_hidden_layers == 3
    assert json.loads((tmp_path / "exits" / "network.json").read_text())["provenance"] == {"note": "pico"}


def test_a_backbone_without_its_pooler_is_read_back(tmp_path):
    model = transformers.BertModel(backbone().config, add_pooling_layer=False).eval()
    made = add_exits(model, exits=(1, 3), tokenizer=letters(), max_tokens=16)
    folders = [save_exits(made, tmp_path / name) for name in ("first", "second")]
    assert made.backbone.pooler is None
    again = load_exits(folders[0])
    assert torch.equal(again.encode(TEXTS, exit=3), made.encode(TEXTS, exit=3))
    one, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert one == other


def test_other_folders_are_refused(tmp_path):
    folder = save_exits(encoder(), tmp_path / "exits")
    with pytest.raises(ArtifactError, match="already exists"):
        save_exits(encoder(), folder)
    weights = folder / "heads.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="differs from the hash"):
        load_exits(folder)
    with pytest.raises(ArtifactError, match="not a folder"):
        load_exits(tmp_path / "none")


def edit(**values):
    return lambda record: record["multi_exit"].update(values)


ALTERED = {
    "exits": (edit(exits=None), r"multi_exit\.exits = None: Input should be a valid list"),
    "no exits": (edit(exits=[]), r"multi_exit\.exits = \[\]: List should have at least 1 item"),
    "an exit": (edit(exits=[1, "3"]), r"multi_exit\.exits\.1 = '3': Input should be a valid integer"),
    "exits that are not there": (edit(exits=[1, 9]), r"cannot be read back: exits = \[1, 9\] is not allowed"),
    "width": (edit(embed_dim="x"), r"multi_exit\.embed_dim = 'x': Input should be a valid integer"),
    "other width": (edit(embed_dim=5), r"cannot be read back: "),
    "tokens": (edit(max_tokens=0), r"multi_exit\.max_tokens = 0: Input should be greater than 0"),
    "head": (edit(head="foo"), r"multi_exit\.head = 'foo': Input should be 'own', 'shared' or 'none'"),
    "other head": (edit(head="shared"), r"cannot be read back: "),
    "unknown part": (edit(more=1), r"multi_exit\.more = 1: Extra inputs are not permitted"),
    "lacking part": (
        lambda record: record["multi_exit"].pop("head"),
        r"\(multi_exit\.head: Field required\)",
    ),
    "null": (lambda record: record.update(multi_exit=None), r"multi_exit = None: Input should be a valid"),
    "version": (lambda record: record.update(format_version=2), r"format_version = 2: Input should be 1"),
    "unknown": (lambda record: record.update(more=1), r"\(more = 1: Extra inputs are not permitted\)"),
    "lacking": (lambda record: record.pop("multi_exit"), r"is a network folder without exits"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_exits(encoder(), tmp_path_factory.mktemp("exits") / "exits")


@pytest.mark.parametrize("name", [*ALTERED, "list", "manifest"])
def test_altered_records_are_told(name, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "exits")
    record = json.loads((folder / "network.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    if name == "list":
        record, message = [], r"network\.json is malformed \(file = \[\]: Input should be a valid"
    elif name == "manifest":
        manifest["more"], message = 1, r"manifest\.json is malformed \(more = 1: Extra inputs"
    else:
        change, message = ALTERED[name]
        change(record)
    write_json(folder / "network.json", record)
    manifest["sha256"]["network.json"] = sha256(folder / "network.json")
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match=message):
        load_exits(folder)


def test_a_cut_encoder_is_a_folder_of_transformers(tmp_path):
    made = encoder(embed_dim=8)
    folder = made.truncate(1).save(tmp_path / "cut")
    model = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(model.encoder.layer) == model.config.num_hidden_layers == 1
    again = add_exits(model.eval(), exits=(1,), tokenizer=tokenizer, head="none", max_tokens=16)
    bare = encoder("none").truncate(1)
    assert torch.equal(again.encode(TEXTS), bare.encode(TEXTS))
    types = [
        record["type"].rpartition(".")[2] for record in json.loads((folder / "modules.json").read_text())
    ]
    assert types == ["Transformer", "Pooling", "Dense", "Normalize"]
    with pytest.raises(ArtifactError, match="already exists"):
        made.truncate(1).save(folder)
    with pytest.raises(ArtifactError, match="needs a backbone of transformers and its tokenizer"):
        encoder(tokenizer=None).truncate(1).save(tmp_path / "other")


@pytest.mark.parametrize("head", ["own", "shared", "none"])
def test_sentence_transformers_gives_the_same_bits(head, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    cut = encoder(head, embed_dim=None if head == "none" else 8).truncate(1)
    model = sentence_transformers.SentenceTransformer(str(cut.save(tmp_path / "cut")), device="cpu")
    assert model.max_seq_length == 16
    assert torch.equal(model.encode(TEXTS, convert_to_tensor=True), cut.encode(TEXTS))
