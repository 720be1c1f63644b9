"""Malformed data of every kind: the command ends with code 1, names the file or row, and writes nothing."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from brickyard.cli.app import app
from brickyard.core.errors import BrickyardError, DataError
from brickyard.data.examples import Preprocess

datasets = pytest.importorskip("datasets")
PREPROCESS = Preprocess(8, 8, 3, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(kind="PNG", side=12):
    stream = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def header_alone(width, height):
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "set"
    for color in ("blue", "red"):
        (path / color).mkdir(parents=True)
        for number in range(3):
            (path / color / f"{number}.png").write_bytes(picture(side=12 + number))
    return path


def refused(data, out, *more):
    """Train on the data, in vain; returns the message."""
    arguments = ["train", "--data", str(data), "--network", "residual_cnn_pico", "--out", str(out), *more]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert list(out.parent.iterdir()) == []
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_what_is_no_picture_is_named(folder, tmp_path):
    out = tmp_path / "out" / "factory"
    out.parent.mkdir()
    for name, content in {
        "garbage.png": b"nothing",
        "truncated.png": picture(side=40)[:300],
        "truncated.jpg": picture("JPEG", side=40)[:700],
        "no_bytes.png": b"",
        "no_columns.png": header_alone(0, 5),
        "no_rows.png": header_alone(5, 0),
        "no_pixels.png": header_alone(5, 5),
        "no_size.ppm": b"P6 0 0 255\n",
        "no_size.gif": b"GIF89a\0\0\0\0",
        "bomb.png": header_alone(60_000, 60_000),
    }.items():
        file = folder / "red" / name
        file.write_bytes(content)
        message = refused(folder, out)
        assert f"image {file} cannot be read" in message
        assert "replace it or drop row" in message
        file.unlink()


def test_folders_that_make_no_classes_are_named(folder, tmp_path):
    out = tmp_path / "out" / "factory"
    out.parent.mkdir()

    def spoil(name, make, message):
        path = folder / name
        make(path)
        assert message.format(path) in refused(folder, out)
        if path.is_dir() and not path.is_symlink():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()

    def class_of(file, content):
        def make(path):
            path.mkdir()
            (path / file).write_bytes(content)

        return make

    spoil("green", lambda path: path.mkdir(), "class folder {} is empty")
    spoil("green", class_of("notes.txt", b"later"), "class folder {} is empty: it holds no image")
    spoil("Red", class_of("0.png", picture()), "word 'red' occurs twice in the vocabulary (case ignored)")
    spoil(" ", class_of("0.png", picture()), "row 0 has no value in column 'label'")
    spoil("red/gone.png", lambda path: path.symlink_to("nowhere"), "image {} is a link to nothing")
    spoil("0.png", lambda path: path.write_bytes(picture()), "image {} lies beside the class folders")


def test_what_the_system_puts_into_folders_is_left_out(folder):
    from brickyard.data import load_data

    (folder / "red" / ".ipynb_checkpoints").mkdir()
    (folder / "red" / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    assert load_data(folder).vocabulary.words == ("blue", "red")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "t.csv is empty"),
        ("t.csv", "file,label\n", "t.csv has no rows"),
        ("t.csv", "file,label\nred/0.png,x\nred/1.png,y,z\n", "Expected 2 fields in line 3, saw 3"),
        ("t.csv", 'file,label\n"red/0.png,x\nred/1.png,y\n', "EOF inside string starting at row 1"),
        ("t.csv", "file,label,label\nred/0.png,x,y\n", "t.csv names the column 'label' twice"),
        ("t.csv", "file,label\nred/0.png,x\nred/9.png,y\n", "red/9.png does not exist (row 1)"),
        ("t.csv", "file,label\nred/0.png,x\n,y\n", "the image of row 1 is missing"),
        ("t.csv", "file,label\nred/0.png,x\nred/1.png\n", "row 1 has no value in column 'label'"),
        ("t.csv", "file,label\nred/0.png,x\nred,y\n", "red cannot be read"),
        ("t.csv", "file,label\n1,x\n2,y\n", "the image of row 0 is 1, neither a path nor bytes"),
        (
            "t.csv",
            "file,kind\nred/0.png,x\nred/1.png,y\n",
            "no column of ['file', 'kind'] looks like the class",
        ),
        ("t.csv", b"file,label\n\xff\xfe,x\n", "t.csv is not a table in UTF-8"),
        ("t.jsonl", '{"file":"red/0.png"\n', "Missing a comma or '}'"),
        ("t.jsonl", "", "t.jsonl is empty"),
        ("t.parquet", b"PAR1", "Parquet file size is 4 bytes"),
    ],
)
def test_tables_are_refused_with_their_row(folder, tmp_path, name, content, message):
    file, out = folder / name, tmp_path / "out" / "factory"
    out.parent.mkdir()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    told = refused(file, out)
    assert message in told
    assert name in told or "row" in told or "column" in told


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]),
    changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 1500),
)
def test_a_damaged_picture_is_read_or_named(tmp_path, kind, changes, length):
    content = bytearray(picture(kind, side=16)[:length])
    for place, value in changes:
        if place < len(content):
            content[place] = value
    file = tmp_path / f"picture.{kind.lower()}"
    file.write_bytes(content)
    try:
        told = str(PREPROCESS.load_image(file).shape)
    except DataError as error:
        told = str(error)
    assert told == "(8, 8, 3)" or told.startswith(f"image {file} cannot be read")


@pytest.mark.parametrize("height", [6_000_000, 20_000_000])
def test_a_head_that_claims_many_pixels_is_no_warning_but_damage(tmp_path, height):
    content = bytearray(picture("BMP", side=16))
    content[22:26] = height.to_bytes(4, "little")  # of 16 pixels each
    file = tmp_path / "picture.bmp"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"picture\.bmp cannot be read"):
        PREPROCESS.load_image(file)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=60), st.text(alphabet='file,label\n"x./\t1', max_size=60)))
def test_any_bytes_as_a_table_are_refused_as_bad_data(tmp_path, content):
    from brickyard.data import load_data

    file = tmp_path / "table.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BrickyardError):
        load_data(file)
