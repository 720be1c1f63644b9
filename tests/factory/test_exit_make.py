"""Encoders are cut at the exit that a budget allows; more in tests/cli/test_train_exits.py."""

import pytest
import torch

from brickyard.core.errors import ArtifactError, BudgetError, DeviceError
from brickyard.factory.exit_make import make_exit
from brickyard.factory.records import Budget
from brickyard.modularize import load_exits, save_exits

from ..modularize.encoders import TEXTS, backbone, letters


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from brickyard.modularize import add_exits

    encoder = add_exits(backbone(), exits=(1, 3), tokenizer=letters(), max_tokens=16, embed_dim=8)
    return save_exits(encoder, tmp_path_factory.mktemp("encoder") / "exits")


def test_the_folder_is_one_of_sentence_transformers_with_onnx(folder, tmp_path):
    told = []
    report = make_exit(
        folder,
        budget=Budget(),
        out=tmp_path / "made",
        seconds=0.1,
        progress=lambda *step: told.append(step),
    )
    assert (report.exit, report.tokens, report.embed_dim, report.max_tokens) == (3, 16, 8, 16)
    assert told[0][0] == "latency"
    assert report.chosen.parameters > report.choices[0].parameters
    assert report.chosen.mrr is None
    assert (tmp_path / "made" / "model.onnx").stat().st_size == report.file_bytes
    sentence_transformers = pytest.importorskip("sentence_transformers")
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path / "made"), device="cpu")
    found = loaded.encode(TEXTS, convert_to_tensor=True)
    assert torch.allclose(found, load_exits(folder).encode(TEXTS, exit=3), atol=1e-6)


def test_nothing_is_written_where_something_is_wrong(folder, tmp_path):
    with pytest.raises(BudgetError, match=r"energy_mj = 1.0 cannot be limited .*: latency_ms, max_param"):
        make_exit(folder, budget=Budget(energy_mj=1), out=tmp_path / "made")
    with pytest.raises(DeviceError, match=r"threads = 0"):
        make_exit(folder, budget=Budget(), out=tmp_path / "made", threads=0)
    with pytest.raises(ArtifactError, match=r"already exists; choose another folder"):
        make_exit(folder, budget=Budget(), out=folder)
    assert not (tmp_path / "made").exists()
