"""Texts by function: files of lines and folders of files."""

import pytest

from brickyard.core.errors import DataError
from brickyard.data.functions import load_functions


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prose.txt").write_text("one\n\n two \none\nthree\nboth\n")
    (tmp_path / "code").mkdir()
    for place, text in enumerate(("def f():\n    pass\n", "x = 1\n", "both", "")):
        (tmp_path / "code" / f"{place}.py").write_text(text)
    (tmp_path / ".hidden").write_text("not read")
    return tmp_path


def test_lines_and_files_are_texts(folder):
    found = load_functions(folder, most=10, seed=0)
    assert found.functions == ("code", "prose")
    assert found.texts == ("def f():\n    pass", "x = 1", "one", "two", "three")  # not what is in both
    assert found.labels == (0, 0, 1, 1, 1)


def test_some_are_drawn_by_a_seed(folder):
    (folder / "prose.txt").write_text("\n".join(f"text {place}" for place in range(50)))
    one, same, other = (load_functions(folder, most=5, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert one.labels == (0, 0, 0, 1, 1, 1, 1, 1)  # no text is in both now


def test_what_is_no_function_is_refused(folder):
    with pytest.raises(DataError, match="nowhere is no folder"):
        load_functions(folder / "nowhere", most=5, seed=0)
    with pytest.raises(DataError, match="1 texts of a function are not allowed"):
        load_functions(folder, most=1, seed=0)
    (folder / "few.txt").write_text("alone\n")
    with pytest.raises(DataError, match="holds 1 texts of few alone"):
        load_functions(folder, most=5, seed=0)
    (folder / "few.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        load_functions(folder, most=5, seed=0)
    (folder / "few.txt").rename(folder / "code.txt")
    with pytest.raises(DataError, match="code as a file and as a folder"):
        load_functions(folder, most=5, seed=0)
    (folder / "code.txt").rename(folder / "README.md")
    with pytest.raises(DataError, match=r"README.md is no function"):
        load_functions(folder, most=5, seed=0)
    (folder / "alone").mkdir()
    with pytest.raises(DataError, match="holds 0 functions"):
        load_functions(folder / "alone", most=5, seed=0)
