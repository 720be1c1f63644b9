"""Tokens: every text comes back, ids keep clear of the special ones, files are read strictly."""

import pytest

from brickyard.core.errors import DataError
from brickyard.data.tokens import Tokenizer

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 3


def test_texts_come_back():
    tokenizer = Tokenizer.train(TEXTS, vocab_size=300)
    strange = ["the cat sat", "Ünknown wörds, 12 % — ok?", "<end> of <padding>", "日本", ""]
    ids = tokenizer.encode(strange)
    assert tokenizer.decode(ids)[:2] == strange[:2]
    assert tokenizer.decode(ids)[3:] == strange[3:]
    assert ids[4] == []
    assert all(3 <= number < tokenizer.vocab_size for row in ids for number in row)
    assert len(ids[0]) < len("the cat sat")
    assert tokenizer.vocab_size <= 300


def test_special_ids_are_left_out_of_texts():
    tokenizer = Tokenizer.train(TEXTS, vocab_size=300)
    row = tokenizer.encode(["the dog"])[0]
    assert tokenizer.decode([[1, *row, 2, 0, 0]]) == ["the dog"]


def test_case_may_be_dropped():
    tokenizer = Tokenizer.train(TEXTS, vocab_size=300, lower=True)
    assert tokenizer.encode(["THE Cat"]) == tokenizer.encode(["the cat"])
    assert Tokenizer.train(TEXTS, vocab_size=300).encode(["THE Cat"]) != tokenizer.encode(["the cat"])


def test_a_file_keeps_it(tmp_path):
    tokenizer = Tokenizer.train(TEXTS, vocab_size=300)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.encode(TEXTS) == tokenizer.encode(TEXTS)
    assert again.vocab_size == tokenizer.vocab_size


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer"):
        Tokenizer.load(tmp_path / "bad.json")
    with pytest.raises(DataError, match="at least 260 are needed"):
        Tokenizer.train(TEXTS, vocab_size=100)
