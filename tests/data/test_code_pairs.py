"""Pairs are cut where they stand, without names and docstrings, and split by file."""

import gzip
import json
import sys
from dataclasses import replace

import pytest

from brickyard.core.errors import ArtifactError, DataError
from brickyard.data.code_pairs import (
    CodePair,
    first_of_each,
    parallel_pairs,
    python_files,
    python_pairs,
    read_code_pairs,
    split_by_file,
    translated_pairs,
    write_code_pairs,
)

SHAPES = '''"""A module."""

class Square:
    def area(self, scale=1):
        """Return the area of
        the square.

        More is said here.
        """
        if scale < 0:
            return self.area(-scale)
        return scale * self.side**2  # no "area_of"

    def perimeter(self):
        """Return the length of all sides."""

    def side(self): """Return the one side."""; return 1

def area_of(shape):
    # no docstring
    return shape.area()

async def fetch(url):
    """Load a shape from afar."""
    return await url.fetch()

def short(x):
    """Two words."""
    return x
'''
PAIR = CodePair(query="q", document="d", source="s", file="a.py", line=1)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "shapes"
    for name, text in {
        "shapes.py": SHAPES,
        "broken.py": "def broken(:",
        "tests/test_shapes.py": SHAPES,
        "deep/test_more.py": SHAPES,
        ".hidden/shapes.py": SHAPES,
        "deep/other.py": 'def f():\n    "Return one and two."\n    return 1, 2\n',
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_functions_are_cut_out_without_docstring_and_name(folder):
    seen = []
    found = python_pairs(python_files(str(folder)), progress=lambda done, total: seen.append((done, total)))
    assert [(pair.file, pair.line, pair.source) for pair in found] == [
        ("deep/other.py", 1, "shapes"),
        ("shapes.py", 4, "shapes"),
        ("shapes.py", 23, "shapes"),
    ]
    area = found[1]
    assert area.query == "Return the area of the square."
    assert area.document == (
        "def f(self, scale=1):\n    if scale < 0:\n        return self.f(-scale)\n"
        '    return scale * self.side**2  # no "area_of"'
    )
    assert found[2].document == "async def f(url):\n    return await url.f()"
    assert seen[-1] == (3, 3)


def test_limits_leave_pairs_out(folder):
    files = python_files(str(folder))
    assert len(python_pairs(files, min_words=2)) == 4
    assert [pair.query for pair in python_pairs(files, min_words=5)] == [
        "Return the area of the square.",
        "Load a shape from afar.",
    ]
    assert len(python_pairs(files, max_characters=60)) == 2


def test_packages_and_the_standard_library_are_found_by_name():
    assert python_files("json").name == "json"
    found = python_pairs(python_files("json"))
    assert any(pair.file == "decoder.py" and "raw_decode" not in pair.document for pair in found)
    names = {path.name for path in python_files("stdlib").paths}
    assert {"argparse.py", "fileinput.py"} <= names
    for wrong in ("no_such_package", "no/such/folder", "argparse.nothing", "xml.nothing", "__main__"):
        with pytest.raises(DataError, match=rf"{wrong} is neither a folder nor an installed package or mod"):
            python_files(wrong)


def test_modules_of_one_file_and_dotted_names_are_found():
    for name in ("textwrap", "os"):  # os is frozen
        found = python_files(name)
        assert (found.name, [path.name for path in found.paths]) == (name, [f"{name}.py"])
    pairs = python_pairs(python_files("textwrap"))
    assert {(pair.source, pair.file) for pair in pairs} == {("textwrap", "textwrap.py")}
    package = python_files("xml.etree")
    assert (package.name, package.root.name) == ("xml.etree", "etree")
    assert "ElementTree.py" in [path.name for path in package.paths]
    assert [path.name for path in python_files("xml.etree.ElementTree").paths] == ["ElementTree.py"]


def test_nothing_is_imported_to_find_a_module(tmp_path, monkeypatch):
    for name in ("outer_of_pairs/__init__.py", "outer_of_pairs/inner/module.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("outer_of_pairs.inner", "outer_of_pairs.inner.module"):
        assert [path.name for path in python_files(name).paths] == ["module.py"]
    assert "outer_of_pairs" not in sys.modules


def test_modules_without_python_source_are_refused(tmp_path, monkeypatch):
    (tmp_path / "compiled_of_pairs.pyc").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name, origin in (("sys", "built-in"), ("compiled_of_pairs", r".*compiled_of_pairs\.pyc")):
        with pytest.raises(DataError, match=rf"{name} is a module without Python source \({origin}\); give"):
            python_files(name)


def test_a_folder_without_code_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no Python files outside of tests"):
        python_files(str(tmp_path))


def test_files_of_parallel_folders_are_paired_by_path(tmp_path):
    for name, text in {
        "java/a/One.java": "class One\n",
        "cs/a/One.cs": " class one ",
        "java/Two.java": "class Two",
        "cs/Three.cs": "class three",
        "java/Empty.java": " ",
        "cs/Empty.cs": "class empty",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    [pair] = parallel_pairs(tmp_path / "java", tmp_path / "cs")
    assert pair == CodePair(query="class One", document="class one", source="java", file="a/One.java", line=1)
    (tmp_path / "cs" / "a" / "One.txt").touch()
    with pytest.raises(DataError, match=r"One\.txt and One\.cs are alike but for their endings"):
        parallel_pairs(tmp_path / "java", tmp_path / "cs")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no piece of .*java has a counterpart in .*none"):
        parallel_pairs(tmp_path / "java", tmp_path / "none")


def test_lines_of_parallel_files_are_paired(tmp_path):
    (tmp_path / "some.java.gz").write_bytes(gzip.compress(b"one java\n\nthree java\n"))
    (tmp_path / "some.cs").write_text("one cs\ntwo cs\nthree cs\n")
    found = parallel_pairs(tmp_path / "some.java.gz", tmp_path / "some.cs")
    assert [(pair.line, pair.query, pair.document) for pair in found] == [
        (1, "one java", "one cs"),
        (3, "three java", "three cs"),
    ]
    (tmp_path / "short.cs").write_text("one cs\n")
    with pytest.raises(DataError, match=r"some\.java\.gz has 3 lines, .*short\.cs has 1; lines must match"):
        parallel_pairs(tmp_path / "some.java.gz", tmp_path / "short.cs")
    with pytest.raises(DataError, match=r"must both be folders or both be files"):
        parallel_pairs(tmp_path, tmp_path / "short.cs")
    with pytest.raises(DataError, match=r"absent is not a file"):
        parallel_pairs(tmp_path / "absent", tmp_path / "short.cs")


def test_a_translator_is_any_function():
    pairs = [replace(PAIR, document=text) for text in ("one", "two")]
    found = translated_pairs(pairs, lambda code: "" if code == "two" else f" {code}! ")
    assert found == [replace(PAIR, query="one", document="one!")]
    with pytest.raises(DataError, match=r"^s, a\.py, line 1: the translator gives a NoneType; it must give"):
        translated_pairs(pairs, lambda code: None)


def test_a_translator_that_fails_is_told_with_its_place():
    pairs = [PAIR, replace(PAIR, file="b.py", line=7, document="two")]

    def translate(code):
        return {"d": "done"}[code]

    message = (
        r"^s, b\.py, line 7: the translator fails with KeyError: 'two'; mend it, or let it give an empty"
    )
    with pytest.raises(DataError, match=message) as caught:
        translated_pairs(pairs, translate)
    assert isinstance(caught.value.__cause__, KeyError)


def test_equal_texts_are_kept_once():
    pairs = [replace(PAIR, query=query, document=document) for query, document in ("ax", "ay", "bx", "by")]
    assert [pair.query + pair.document for pair in first_of_each(pairs)] == ["ax", "by"]


def test_a_file_is_held_out_whole_whatever_else_there_is():
    pairs = [replace(PAIR, file=f"{number % 40}.py", line=number) for number in range(400)]
    found = split_by_file(pairs, heldout_share=0.25)
    sides = {}
    for pair in found:
        sides.setdefault(pair.file, set()).add(pair.split)
    assert all(len(side) == 1 for side in sides.values())
    share = sum(side == {"heldout"} for side in sides.values()) / 40
    assert 0.1 < share < 0.4
    assert split_by_file(pairs[:7], heldout_share=0.25) == found[:7]
    assert split_by_file(pairs, heldout_share=0.25, seed=1) != found
    lines = split_by_file(pairs, heldout_share=0.25, by_line=True)
    assert 0.2 < sum(pair.split == "heldout" for pair in lines) / 400 < 0.3
    assert {pair.split for pair in lines if pair.file == "0.py"} == {"train", "heldout"}
    with pytest.raises(DataError, match=r"heldout_share = 1 must lie in \[0, 1\)"):
        split_by_file(pairs, heldout_share=1)


def test_pairs_come_back_from_their_file(tmp_path):
    pairs = [replace(PAIR, query="Größe", split="heldout"), replace(PAIR, document="a\nb")]
    write_code_pairs(tmp_path / "pairs.jsonl", pairs)
    assert read_code_pairs(tmp_path / "pairs.jsonl") == pairs
    (tmp_path / "few.jsonl").write_text('{"query": "a", "document": "b"}\n\n')
    assert read_code_pairs(tmp_path / "few.jsonl") == [
        CodePair(query="a", document="b", source="few", file="few.jsonl", line=1)
    ]
    with pytest.raises(
        ArtifactError, match=r"none is not a folder, so .*none/pairs\.jsonl cannot be written"
    ):
        write_code_pairs(tmp_path / "none" / "pairs.jsonl", pairs)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1: no JSON"),
        (
            '{"query": "a"}',
            r"line 1: expected an object with query and document, and of other keys only source",
        ),
        ('{"query": "a", "document": "b", "extra": 1}', r"expected an object with query and document"),
        ('{"query": 1, "document": "b"}', r"line 1: query = 1; line is a number"),
        (json.dumps({"query": "a", "document": "b", "split": "test"}), r"line 1: split = 'test'; line is"),
        ("", r"has no pairs"),
    ],
)
def test_bad_files_are_told(tmp_path, line, message):
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        read_code_pairs(tmp_path / "bad.jsonl")


BREAKS = "\f\v\x1c\x85\u2028\u2029"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_end_where_python_ends_them(tmp_path, end, encoding):
    breaks = BREAKS if encoding != "latin-1" else "\f\v\x1c\x85"
    cookie = "# coding: latin-1\n" if encoding == "latin-1" else ""
    code = f'{cookie}"""A page ends here.\f\n{breaks}é"""\n\f\ndef one():\n    """Return the number one."""\n'
    code += f"    text = '{breaks.replace(chr(11), '')}'\n    return 1\n\n\ndef two():\n    return 2\n"
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "pages.py").write_bytes(code.replace("\n", end).encode(encoding))
    [pair] = python_pairs(python_files(str(tmp_path / "some")))
    assert pair.query == "Return the number one."
    assert pair.document.startswith("def f():\n    text = ")
    assert pair.document.endswith("    return 1")


def test_whatever_stands_in_a_pair_is_read_back(tmp_path):
    pair = replace(PAIR, query=f"a {BREAKS} b", document=f"x = '{BREAKS}\r\n'")
    write_code_pairs(tmp_path / "pairs.jsonl", [pair, PAIR])
    assert read_code_pairs(tmp_path / "pairs.jsonl") == [pair, PAIR]


def test_lines_that_hold_other_breaks_stay_whole(tmp_path):
    (tmp_path / "one").write_text(f"a b c{BREAKS}d\nsecond line\n", newline="")
    (tmp_path / "other").write_bytes(b"\xef\xbb\xbffirst\r\nsecond\r\n")
    found = parallel_pairs(tmp_path / "one", tmp_path / "other")
    assert [(pair.query[-1], pair.document) for pair in found] == [("d", "first"), ("e", "second")]


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: whole[:12] + b"garbage" * 9])
def test_damaged_archives_are_told(tmp_path, damage):
    whole = gzip.compress(b"one java\ntwo java\n" * 50)
    (tmp_path / "some.java.gz").write_bytes(damage(whole))
    (tmp_path / "some.cs").write_text("one\n")
    with pytest.raises(DataError, match=r"some\.java\.gz is damaged, or not compressed by gzip"):
        parallel_pairs(tmp_path / "some.java.gz", tmp_path / "some.cs")
