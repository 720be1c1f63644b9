"""Every kind of data resolves from one text, offline, with errors that name what is wrong."""

import builtins
import socket

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from brickyard.core.errors import DataError, MissingExtraError
from brickyard.data import GeometrySpec, load_data

datasets = pytest.importorskip("datasets")
COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 200, 20)}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Refuses the network and fails a test that tried it, even if the error was caught on the way."""
    calls = []

    def refuse(*arguments, **keywords):
        calls.append(arguments)
        raise OSError("no network here")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    assert not calls


def draw(path, color, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array(COLORS[color]) + rng.integers(-20, 20, (10, 12, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path, rng):
    for color in ("red", "blue"):
        for number in range(10):
            draw(tmp_path / "set" / color / f"{number}.png", color, rng)
    return tmp_path / "set"


@pytest.fixture
def table(tmp_path, rng):
    rows = ["file,color,finish,kind"]
    for number in range(24):
        color, finish = list(COLORS)[number % 3], ("matt", "shiny")[number // 3 % 2]
        draw(tmp_path / f"pictures/{number}.png", color, rng)
        rows.append(f"pictures/{number}.png,{color},{finish},k{number % 3}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def colors_of(examples):
    means = examples.images.reshape(len(examples), -1, 3).mean(axis=1)
    return np.linalg.norm(means[:, None] - np.array(list(COLORS.values())), axis=2).argmin(axis=1)


def test_class_folders(folder):
    source = load_data(folder, heldout_share=0.2)
    assert source.vocabulary.words == ("blue", "red")
    assert (len(source.train), len(source.heldout)) == (16, 4)
    assert np.bincount(source.heldout.classes).tolist() == [2, 2]
    assert source.preprocess.shape == (3, 10, 12)
    ready = source.preprocess.apply(source.train.images)
    np.testing.assert_allclose(ready.mean(axis=(0, 2, 3)), 0, atol=0.01)
    np.testing.assert_allclose(ready.std(axis=(0, 2, 3)), 1, atol=0.01)
    names = np.array(["red", "blue"])[colors_of(source.train)]
    assert [source.vocabulary.words[index] for index in source.train.classes] == names.tolist()
    again = load_data(folder, heldout_share=0.2)
    np.testing.assert_array_equal(again.heldout.images, source.heldout.images)
    assert source.spec["kind"] == "images"
    assert source.geometry is None


def test_given_splits_are_kept(tmp_path, rng):
    for split, count in (("train", 4), ("test", 2)):
        for color in ("red", "blue"):
            for number in range(count):
                draw(tmp_path / "set" / split / color / f"{number}.png", color, rng)
    source = load_data(tmp_path / "set", size=16)
    assert (len(source.train), len(source.heldout)) == (8, 4)
    assert source.preprocess.shape == (3, 16, 16)


def test_table_of_attributes(table):
    source = load_data(table, attributes=["color", "finish"])
    assert dict(source.vocabulary.groups) == {"color": ("blue", "green", "red"), "finish": ("matt", "shiny")}
    values = source.vocabulary.parse("shiny red").values(source.vocabulary)
    assert source.train.objects.shape[1:] == (1, 2)
    assert source.train.holds(values).sum() + source.heldout.holds(values).sum() == 4
    np.testing.assert_array_equal(source.train.objects[:, 0, 0] == 2, colors_of(source.train) == 0)
    assert source.heldout.objects[:, 0].tolist() != []


def test_table_of_classes(table):
    source = load_data(table, label="kind", image="file")
    assert source.vocabulary.words == ("k0", "k1", "k2")


def test_parquet_with_bytes_and_words_of_two_columns(tmp_path, folder):
    files = sorted(folder.rglob("*.png"))
    records = {
        "img": [file.read_bytes() for file in files],
        "round": [number % 2 for number in range(20)],
        "big": [number // 10 for number in range(20)],
    }
    path = tmp_path / "table.parquet"
    datasets.Dataset.from_dict(records).to_parquet(path)
    source = load_data(path, attributes=["round", "big"])
    assert source.vocabulary.words == ("round=0", "round=1", "big=0", "big=1")
    assert source.vocabulary.parse("big=1 round=0").values(source.vocabulary) == {0: 0, 1: 1}
    typed = datasets.Dataset.from_dict({"image": [str(file) for file in files], "label": records["big"]})
    typed.cast_column("image", datasets.Image()).to_parquet(path)
    assert load_data(path).vocabulary.words == ("0", "1")


def test_grey_images_stay_grey(tmp_path):
    for name, shade in (("dark", 10), ("light", 240)):
        for number in range(3):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (100, 100), shade).save(tmp_path / "set" / name / f"{number}.png")
    assert load_data(tmp_path / "set").preprocess.shape == (1, 64, 64)


def test_broken_folders(folder, tmp_path):
    with pytest.raises(DataError, match=r"nowhere' does not exist; give a folder"):
        load_data(tmp_path / "nowhere")
    (folder / "green").mkdir()
    with pytest.raises(DataError, match=r"class folder .*green is empty"):
        load_data(folder)
    (folder / "green" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"green/a\.png cannot be read"):
        load_data(folder)
    for file in (folder / "green").iterdir():
        file.unlink()
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_data(tmp_path / "void")


def test_one_class_is_refused(tmp_path, rng):
    for number in range(3):
        draw(tmp_path / "set" / "red" / f"{number}.png", "red", rng)
    with pytest.raises(DataError, match="images in one folder only, 'red'"):
        load_data(tmp_path / "set")
    (tmp_path / "one.csv").write_text("file,label\na.png,red\nb.png,red\n")
    with pytest.raises(DataError, match="column 'label' has only the value 'red'; at least two"):
        load_data(tmp_path / "one.csv")


def test_broken_tables(table, tmp_path):
    with pytest.raises(
        DataError, match=r"column 'colour' does not exist; nearest: color\. Columns: file, color"
    ):
        load_data(table, attributes=["colour"])
    with pytest.raises(DataError, match="looks like the class; name it with the option `label`"):
        load_data(table)
    with pytest.raises(DataError, match="name a column twice"):
        load_data(table, attributes=["color", "color"])
    with pytest.raises(DataError, match="image size is 4; allowed: 8 to 1024"):
        load_data(table, label="kind", size=4)
    with pytest.raises(DataError, match=r"held-out share is 1\.5"):
        load_data(table, label="kind", heldout_share=1.5)
    text = table.read_text()
    table.write_text(text.replace("pictures/3.png", "pictures/gone.png"))
    with pytest.raises(DataError, match=r"pictures/gone\.png does not exist \(row 3\)"):
        load_data(table, label="kind")
    table.write_text(text.replace("blue,matt", ",matt"))
    with pytest.raises(DataError, match=r"row 1 has no value in column 'color'"):
        load_data(table, attributes=["color"])
    odd = tmp_path / "table.xyz"
    odd.write_text("")
    with pytest.raises(DataError, match=r"ends in '\.xyz'"):
        load_data(odd)
    with pytest.raises(DataError, match=r"'table\.csv' does not exist"):
        load_data("table.csv")


def test_hub_data_out_of_reach(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="neither a local path nor a hub data set in reach"):
        load_data("someone/something")


def test_geometry_options():
    source = load_data(
        "geometry:size=36,max_objects=2,noise=0.5,shapes=circle+ring,train=20,heldout=10", seed=3
    )
    assert source.geometry == GeometrySpec(size=36, max_objects=2, noise=0.5, shapes=("circle", "ring"))
    assert (len(source.train), len(source.heldout)) == (20, 10)
    assert source.preprocess.shape == (3, 36, 36)
    assert source.vocabulary == source.geometry.vocabulary
    assert load_data("geometry:train=1,heldout=1", size=40).preprocess.shape == (3, 40, 40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("geometry:colour=red", "'colour=red' is no option of geometry"),
        ("geometry:size", "'size' is no option of geometry; write name=value"),
        ("geometry:size=big", "size=big is not a number"),
        ("geometry:train=1,train=2", "'train' is given twice"),
        ("geometry:train=0", "0 images were asked for"),
    ],
)
def test_refused_geometry(text, message):
    with pytest.raises(DataError, match=message):
        load_data(text)


def test_options_that_do_not_apply():
    with pytest.raises(DataError, match="geometry takes no option 'attributes'"):
        load_data("geometry", attributes=["color"])
    with pytest.raises(DataError, match="digits takes no option 'size'"):
        load_data("digits", size=32)


def test_digits():
    pytest.importorskip("sklearn")
    source = load_data("digits", heldout_share=0.2)
    assert source.vocabulary.words == tuple("0123456789")
    assert source.train.images.shape[1:] == (16, 16, 1)
    assert len(source.train) + len(source.heldout) == 1797
    assert np.bincount(source.heldout.classes).min() >= 34
    again = load_data("digits", heldout_share=0.2)
    np.testing.assert_array_equal(again.train.images, source.train.images)


def test_missing_libraries_name_the_install_command(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.split(".")[0] in ("datasets", "sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"scikit-learn is not installed.*brickyard\[train\]"):
        load_data("digits")
    with pytest.raises(MissingExtraError, match=r"datasets is not installed"):
        load_data("someone/something")
