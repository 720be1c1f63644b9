"""Models to be mapped are opened with a tokenizer that gives no more tokens than they take."""

import pytest

from brickyard.modularize.map_source import open_probe

from .encoders import letters
from .transformers_zoo import tiny


@pytest.mark.parametrize(
    ("kind", "changes", "most"), [("bert", {}, 32), ("roberta", {"pad_token_id": 1}, 30)]
)
def test_long_texts_are_cut_to_what_the_model_takes(kind, changes, most, tmp_path):
    tiny(kind, **changes).save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    probe, experts = open_probe(str(tmp_path), max_tokens=100, batch_size=2)
    assert experts is None
    assert probe.tokens.max_tokens == most
    assert len(probe.activity(["a b c " * 40, "d"])) == 3
    probe, _ = open_probe(str(tmp_path), max_tokens=8, batch_size=2)
    assert probe.tokens.max_tokens == 8
