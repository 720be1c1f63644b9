"""Scenes are a function of their seed, labels are right, hard negatives share all but one property."""

import hashlib

import numpy as np
import pytest

from brickyard.core.errors import DataError
from brickyard.data import GeometrySpec, scenes, task_scenes
from brickyard.data._scene import COLORS

SPEC = GeometrySpec()


def test_a_seed_gives_the_same_scenes():
    first, again, other = (scenes(SPEC, 300, seed) for seed in (5, 5, 6))
    for name in ("images", "objects", "boxes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.images != other.images).any()
    assert (
        hashlib.sha256(first.objects.tobytes()).hexdigest()
        == hashlib.sha256(again.objects.tobytes()).hexdigest()
    )
    task = SPEC.vocabulary.parse("red circle").values(SPEC.vocabulary)
    np.testing.assert_array_equal(
        task_scenes(SPEC, task, 40, 1)[0].images, task_scenes(SPEC, task, 40, 1)[0].images
    )


@pytest.mark.parametrize("size", [32, 48, 96])
def test_shapes_types_and_boxes(size):
    spec = GeometrySpec(size=size)
    examples = scenes(spec, 64, 0)
    assert examples.images.shape == (64, size, size, 3)
    assert examples.objects.shape == (64, 5, 4)
    assert examples.images.flags.c_contiguous
    there = examples.objects[..., 0] >= 0
    assert (there.sum(axis=1) >= 1).all()
    x0, y0, x1, y1 = np.moveaxis(examples.boxes[there], -1, 0)
    assert min(x0.min(), y0.min()) >= 0
    assert max(x1.max(), y1.max()) <= size
    assert min((x1 - x0).min(), (y1 - y0).min()) >= 2 * size / 32
    assert max((x1 - x0).max(), (y1 - y0).max()) <= 17 * size / 32
    assert not examples.boxes[~there].any()
    assert spec.preprocess.apply(examples.images).shape == (64, 3, size, size)


def test_all_words_occur_and_counts_are_in_range():
    examples = scenes(GeometrySpec(min_objects=2, max_objects=3), 600, 0)
    there = examples.objects[..., 0] >= 0
    assert set(there.sum(axis=1)) <= {1, 2, 3}
    for group, size in enumerate(SPEC.vocabulary.sizes):
        shares = np.bincount(examples.objects[there][:, group], minlength=size) / there.sum()
        np.testing.assert_allclose(shares, 1 / size, atol=0.06)


def test_plain_objects_show_their_colour():
    spec = GeometrySpec(max_objects=1, textures=("plain",), shapes=("square", "circle"), sizes=("large",))
    examples = scenes(spec, 200, 0)
    middle = ((examples.boxes[:, 0, :2] + examples.boxes[:, 0, 2:]) / 2).astype(int)
    pixels = examples.images[np.arange(200), middle[:, 1], middle[:, 0]] / 255
    palette = np.array(list(COLORS.values()))
    nearest = np.linalg.norm(pixels[:, None] - palette, axis=2).argmin(axis=1)
    assert (nearest == examples.objects[:, 0, 2]).mean() > 0.98


def test_objects_do_not_hide_each_other():
    examples = scenes(SPEC, 500, 3)
    for image in range(0, 500, 5):
        boxes = examples.boxes[image][examples.objects[image, :, 0] >= 0]
        for index, (x0, y0, x1, y1) in enumerate(boxes):
            covered = np.zeros((32, 32), bool)
            for a0, b0, a1, b1 in np.delete(boxes, index, axis=0).astype(int):
                covered[b0:b1, a0:a1] = True
            own = covered[int(y0) : int(y1), int(x0) : int(x1)]
            assert own.mean() <= 0.55


@pytest.mark.parametrize("text", ["red circle", "large striped", "small plain cyan bar", "ring"])
def test_task_scenes_are_balanced_and_right(text):
    values = SPEC.vocabulary.parse(text).values(SPEC.vocabulary)
    examples, labels = task_scenes(SPEC, values, 601, 7)
    assert labels.sum() == 300
    np.testing.assert_array_equal(examples.holds(values), labels)
    hard = examples.near_miss(values)
    assert not (hard & labels).any()
    assert hard[~labels].mean() >= 0.8
    assert 0.4 < labels[:300].mean() < 0.6
    if len(values) == 2:  # each property is missed about as often as the other
        first, second = ({group: value} for group, value in values.items())
        lone = examples.subset(hard)
        assert lone.holds(first).mean() > 0.4
        assert lone.holds(second).mean() > 0.4


def test_number_of_objects_does_not_tell_the_label():
    values = SPEC.vocabulary.parse("red circle").values(SPEC.vocabulary)
    examples, labels = task_scenes(SPEC, values, 2000, 0)
    counts = (examples.objects[..., 0] >= 0).sum(axis=1)
    assert abs(counts[labels].mean() - counts[~labels].mean()) < 0.15


def test_a_word_group_of_one_is_never_missed():
    spec = GeometrySpec(sizes=("large",), shapes=("circle", "ring"))
    values = spec.vocabulary.parse("large ring").values(spec.vocabulary)
    examples, labels = task_scenes(spec, values, 100, 0)
    np.testing.assert_array_equal(examples.holds(values), labels)
    with pytest.raises(DataError, match="every object of this geometry satisfies the task"):
        task_scenes(spec, {0: 0}, 10, 0)


@pytest.mark.parametrize("values", [{}, {4: 0}, {2: 6}, {2: -1}])
def test_refused_values(values):
    with pytest.raises(DataError, match="task values are"):
        task_scenes(SPEC, values, 10, 0)


def test_refused_count():
    with pytest.raises(DataError, match="0 images were asked for"):
        scenes(SPEC, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 28},
        {"size": 34},
        {"size": 100},
        {"min_objects": 0},
        {"min_objects": 3, "max_objects": 2},
        {"max_objects": 6},
        {"noise": 1.5},
        {"colors": ("red", "red")},
        {"shapes": ()},
        {"textures": ("dotted",)},
    ],
)
def test_refused_specs(change):
    with pytest.raises(DataError, match="allowed"):
        GeometrySpec(**change)


def test_spec_survives_json():
    spec = GeometrySpec(size=64, shapes=("ring", "bar"), noise=0.5)
    assert GeometrySpec.from_json(spec.to_json()) == spec
    with pytest.raises(DataError, match="geometry has no option 'colour'"):
        GeometrySpec.from_json({"colour": "red"})
