"""Texts from tables and line by line: columns found or named, splits, and every mistake told by its place."""

import json

import numpy as np
import pytest

from brickyard.core.errors import DataError
from brickyard.data.texts import Pairs, Texts, load_pairs, load_texts

ROWS = [(f"text {number}", "news" if number % 3 else "sport") for number in range(30)]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))
    return path


@pytest.fixture
def lines(tmp_path):
    files = tmp_path / "a.en", tmp_path / "a.de"
    files[0].write_text("".join(f"line {number}\n" for number in range(20)))
    files[1].write_text("".join(f"Zeile {number}\n" for number in range(20)))
    return files


def test_texts_of_a_table(table):
    source = load_texts(table, heldout_share=0.2)
    assert source.vocabulary.words == ("news", "sport")
    assert len(source.train) == 24
    assert len(source.heldout) == 6
    assert not set(source.train.texts) & set(source.heldout.texts)
    truth = dict(ROWS)
    for part in (source.train, source.heldout):
        words = [source.vocabulary.words[label] for label in part.labels]
        assert words == [truth[text] for text in part.texts]
    assert load_texts(table, heldout_share=0.2).train.texts == source.train.texts
    assert load_texts(table, heldout_share=0.2, seed=1).train.texts != source.train.texts


def test_columns_by_name_and_a_table_to_test_on(table, tmp_path):
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps({"a": f"x {i}", "b": i % 2}) + "\n" for i in range(6)))
    source = load_texts(path, text="a", label="b", heldout=path)
    assert source.vocabulary.words == ("0", "1")
    assert source.train.texts == source.heldout.texts
    with pytest.raises(DataError, match=r"no column of .* looks like the text; name it"):
        load_texts(path, label="b")
    with pytest.raises(DataError, match="column 'texd' does not exist; nearest: text"):
        load_texts(table, text="texd")
    other = tmp_path / "other.tsv"
    other.write_text("text\tlabel\nx\tweather\n")
    with pytest.raises(DataError, match="'weather' is in no text to train on"):
        load_texts(table, heldout=other)
    with pytest.raises(DataError, match="is a folder"):
        load_texts(tmp_path)


def test_pairs_line_by_line(lines):
    source = load_pairs(lines[0], translations=lines[1], heldout_share=0.1)
    assert len(source.train) == 18
    assert len(source.heldout) == 2
    for part in (source.train, source.heldout):
        assert [text.split()[1] for text in part.sources] == [text.split()[1] for text in part.targets]
    given = load_pairs(lines[0], translations=lines[1], heldout=lines[0], heldout_translations=lines[1])
    assert len(given.train) == len(given.heldout) == 20


def test_pairs_of_a_table(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("en\tde\n" + "".join(f"one {i}\teins {i}\n" for i in range(10)))
    source = load_pairs(path, source="en", target="de", heldout_share=0.2)
    assert (len(source.train), len(source.heldout)) == (8, 2)
    assert source.train.targets[0].startswith("eins")


def test_pairs_that_do_not_match_are_told(lines):
    lines[1].write_text("Zeile 0\n\nZeile 2\n")
    with pytest.raises(DataError, match=r"a\.de has no text in line 2"):
        load_pairs(lines[0], translations=lines[1])
    lines[1].write_text("Zeile 0\n")
    with pytest.raises(DataError, match=r"a\.de has no text in line 2"):
        load_pairs(lines[0], translations=lines[1])
    lines[0].write_text("")
    with pytest.raises(DataError, match=r"a\.en has no text in line 1"):
        load_pairs(lines[0], translations=lines[1])
    lines[0].write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        load_pairs(lines[0], translations=lines[1])


@pytest.mark.parametrize(
    "options", [{}, {"translations": "b", "source": "x", "target": "y"}, {"source": "x"}, {"target": "y"}]
)
def test_pairs_need_one_of_two_forms(lines, options):
    with pytest.raises(DataError, match=r"either from two files .* or from a table"):
        load_pairs(lines[0], **options)


def test_both_parts_have_the_same_form(lines):
    with pytest.raises(DataError, match="need the same form"):
        load_pairs(lines[0], translations=lines[1], heldout=lines[0])


def test_files_keep_examples(tmp_path):
    texts = Texts(("one\u2028line", 'two "x"'), np.array([1, 0]))
    texts.save(tmp_path / "texts.jsonl")
    again = Texts.load(tmp_path / "texts.jsonl")
    assert again.texts == texts.texts
    assert again.labels.tolist() == [1, 0]
    pairs = Pairs(("a", "b"), ("c", "d"))
    pairs.save(tmp_path / "pairs.jsonl")
    assert Pairs.load(tmp_path / "pairs.jsonl").targets == ("c", "d")
    with pytest.raises(DataError, match=r"line 1: expected an object with \['label', 'text'\]"):
        Texts.load(tmp_path / "pairs.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        Pairs.load(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"labels have shape \(1,\)"):
        Texts(("a", "b"), np.array([1]))
