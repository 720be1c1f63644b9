"""Examples answer questions about their objects; files hold no pickles; preprocessing is exact and strict."""

import numpy as np
import pytest
from PIL import Image

from brickyard.core.errors import DataError
from brickyard.data import Examples, Preprocess

PREPROCESS = Preprocess(4, 6, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture
def examples(rng):
    objects = np.array([[[0, 1], [1, 0]], [[0, 0], [-1, -1]], [[1, 1], [0, 1]], [[1, 0], [-1, -1]]], np.int16)
    images = rng.integers(0, 256, (4, 4, 6, 3), np.uint8)
    return Examples(images, objects, rng.random((4, 2, 4), np.float32))


def test_holds_needs_all_values_on_one_object(examples):
    assert examples.holds({0: 0, 1: 0}).tolist() == [False, True, False, False]
    assert examples.holds({0: 1}).tolist() == [True, False, True, True]
    assert examples.holds({}).all()


def test_near_miss_shares_all_but_one(examples):
    assert examples.near_miss({0: 0, 1: 0}).tolist() == [True, False, True, True]
    assert examples.near_miss({0: 0, 1: 1}).tolist() == [False, True, False, False]


def test_unknown_group_is_refused(examples):
    with pytest.raises(DataError, match=r"groups \[2\]; these examples have 0 to 1"):
        examples.holds({2: 0})


def test_file_round_trip_without_pickles(examples, tmp_path):
    path = tmp_path / "examples.npz"
    examples.save(path)
    again = Examples.load(path)
    for name in ("images", "objects", "boxes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(examples, name))
    half = examples.subset([2, 0])
    half.save(path)
    assert len(Examples.load(path)) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "examples.npz"
    with pytest.raises(DataError, match="does not exist"):
        Examples.load(path)
    np.savez(path, images=np.array([{"a": 1}], object), objects=np.zeros(1))
    with pytest.raises(DataError, match="is not a file of examples"):
        Examples.load(path)
    path.write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="is not a file of examples"):
        Examples.load(path)
    np.savez(path, pictures=np.zeros(1))
    with pytest.raises(DataError, match=r"holds \['pictures'\]; expected images"):
        Examples.load(path)


def test_wrong_arrays_are_refused(examples):
    with pytest.raises(DataError, match="images are float32"):
        Examples(examples.images.astype(np.float32), examples.objects)
    with pytest.raises(DataError, match=r"expected int16 \[4, M, G\]"):
        Examples(examples.images, examples.objects[:3])
    with pytest.raises(DataError, match="boxes are"):
        Examples(examples.images, examples.objects, np.zeros((4, 3, 4), np.float32))
    with pytest.raises(DataError, match="holds classes"):
        _ = examples.classes


def test_normalisation_by_hand(examples):
    ready = PREPROCESS.apply(examples.images)
    assert ready.dtype == np.float32
    assert ready.flags.c_contiguous
    assert ready.shape == (4, *PREPROCESS.shape)
    byhand = (examples.images / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    np.testing.assert_allclose(ready, byhand.transpose(0, 3, 1, 2), atol=1e-5)
    with pytest.raises(DataError, match="expected uint8"):
        PREPROCESS.apply(examples.images[:, :3])


def test_preprocess_survives_json():
    assert Preprocess.from_json(PREPROCESS.to_json()) == PREPROCESS
    assert hash(Preprocess.from_json(PREPROCESS.to_json())) == hash(PREPROCESS)
    with pytest.raises(DataError, match="exactly"):
        Preprocess.from_json('{"height": 3}')


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"channels": 2},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (0.0,)},
        {"resize": "cubic"},
        {"crop": "no"},
    ],
)
def test_refused_preprocessing(change):
    values = {"height": 4, "width": 6, "channels": 3, "mean": (0, 0, 0), "std": (1, 1, 1)} | change
    with pytest.raises(DataError):
        Preprocess(**values)


def test_images_are_fitted(tmp_path):
    path = tmp_path / "half.png"
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = (255, 0, 0)
    Image.fromarray(pixels).save(path)
    center = Preprocess(4, 4, 3, (0, 0, 0), (1, 1, 1), crop="center").load_image(path)
    assert center.shape == (4, 4, 3)
    assert center[:, 1:3, 0].min() == 255
    squashed = Preprocess(4, 4, 1, (0,), (1,), resize="nearest").load_image(path)
    assert squashed.shape == (4, 4, 1)
    assert squashed[0, 0] == 0
    same = Preprocess(8, 24, 3, (0, 0, 0), (1, 1, 1)).load_image(path)
    np.testing.assert_array_equal(same, pixels)


def test_unreadable_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        PREPROCESS.load_image(tmp_path / "gone.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        PREPROCESS.load_image(tmp_path / "broken.png")
