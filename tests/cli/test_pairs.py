"""`brickyard pairs`: code becomes a file of pairs."""

import json
import re

import pytest

from brickyard.data.code_pairs import read_code_pairs

pytest.importorskip("datasketch")
BODY = "    total = 0\n    for {name} in range(10):\n        total += {name}\n    return total\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "sums"
    root.mkdir()
    for number in range(8):
        letters = "abcdefgh"[number]
        text = f'def add_{letters}(x):\n    """Add numbers by way of {letters}."""\n'
        (root / f"{letters}.py").write_text(text + BODY.replace("{name}", letters * 12))
    (root / "same.py").write_text(f'def again():\n    """Add them again."""\n{BODY.format(name="a" * 12)}')
    return root


def test_docstrings_become_pairs_without_near_duplicates(run, folder, tmp_path):
    out = tmp_path / "pairs.jsonl"
    done = run("pairs", folder, "--out", out, "--heldout-share", "0.4", "--similarity", "0.75")
    assert done.exit_code == 0, done.output
    found = read_code_pairs(out)
    assert [pair.file for pair in found] == [f"{letter}.py" for letter in "abcdefgh"]
    heldout = sum(pair.split == "heldout" for pair in found)
    assert 0 < heldout < 8
    assert f"{out}: {8 - heldout} pairs to train on and {heldout} held out, of 9 that were cut" in done.stdout
    assert "duplicates 9/9" in done.stderr
    json_out = tmp_path / "all.jsonl"
    done = run("pairs", folder, "json", "--similarity", "1", "--out", json_out, "--json")
    record = json.loads(done.stdout)
    assert record["sources"] == 2
    assert record["train"] + record["heldout"] == len(read_code_pairs(json_out))
    assert {pair.source for pair in read_code_pairs(json_out)} == {"sums", "json"}


def test_modules_and_dotted_packages_are_sources(run, tmp_path):
    out = tmp_path / "pairs.jsonl"
    done = run("pairs", "textwrap", "xml.etree", "--out", out, "--similarity", "1")
    assert done.exit_code == 0, done.output
    assert {pair.source for pair in read_code_pairs(out)} == {"textwrap", "xml.etree"}


def test_code_is_paired_with_parallel_files_or_translations(run, folder, tmp_path):
    one, other = tmp_path / "some.one", tmp_path / "some.other"
    one.write_text("".join(f"first {'xyz'[number % 3] * 9} {number}\n" for number in range(40)))
    other.write_text("".join(f"{number * 7919} other {number}\n" for number in range(40)))
    out = tmp_path / "parallel.jsonl"
    done = run("pairs", one, "--parallel", other, "--out", out)
    assert done.exit_code == 0, done.output
    found = read_code_pairs(out)
    assert {pair.split for pair in found} == {"train", "heldout"}
    assert (found[0].query, found[0].document) == ("first xxxxxxxxx 0", "0 other 0")

    code = tmp_path / "translate.py"
    code.write_text("def loud(code):\n    return code.upper()\n")
    out = tmp_path / "loud.jsonl"
    done = run("pairs", folder, "--translator", f"{code}:loud", "--out", out, "--similarity", "1")
    assert done.exit_code == 0, done.output
    assert all(pair.document == pair.query.upper() for pair in read_code_pairs(out))


def test_what_is_wrong_is_told(run, folder, tmp_path):
    out = tmp_path / "pairs.jsonl"

    def refused(*arguments):
        done = run("pairs", *arguments)
        assert done.exit_code == 1
        assert not out.exists()
        return re.sub(r"[\s│]+", " ", done.stderr)

    assert "is neither a folder nor an installed package" in refused("no/folder", "--out", out)
    assert "two sources are named sums" in refused(folder, folder, "--out", out)
    assert "it must be above 0" in refused(folder, "--out", out, "--similarity", "0")
    assert "goes with one SOURCE" in refused(folder, "json", "--parallel", folder, "--out", out)
    assert "no pairs were found in" in refused(folder, "--out", out, "--min-words", "99")
    assert "heldout_share = 1.0 must lie" in refused(folder, "--out", out, "--heldout-share", "1")
    code = tmp_path / "translate.py"
    code.write_text("1 / 0")
    assert "give FILE.py:FUNCTION" in refused(folder, "--out", out, "--translator", "loud")
    for text, message in (("1 / 0", "cannot be run: ZeroDivisionError"), ("", "has no function loud")):
        code.write_text(text)
        assert message in refused(folder, "--out", out, "--translator", f"{code}:loud")
    code.write_text("def loud(code):\n    raise OSError('no line')\n")
    failed = refused(folder, "--out", out, "--translator", f"{code}:loud")
    assert "sums, a.py, line 1: the translator fails with OSError: no line; mend it" in failed
    assert "sys is a module without Python source (built-in)" in refused("sys", "--out", out)
    early = run("pairs", folder, "--out", tmp_path / "none" / "pairs.jsonl")
    assert early.exit_code == 1
    assert "read sums" not in early.stderr  # before any work
    assert f"{tmp_path / 'none'} is not a folder" in early.stderr
    taken = run("pairs", folder, "--out", code)
    assert "already exists; choose another file" in taken.stderr
