"""Quality: labelled pictures of a task, recalls against a slow count, the config of a task."""

import numpy as np
import pytest

from brickyard.core.errors import TaskError
from brickyard.data.examples import Examples, some_of
from brickyard.factory.quality import (
    AnswerJudge,
    open_session,
    rate,
    recalls,
    scores_of,
    task_config,
    task_examples,
    task_labels,
)


def test_pictures_of_a_class_task_have_the_places_of_their_classes(digits):
    folder = digits.folder
    task = folder.vocabulary.parse("7, 3")
    images, labels = task_examples(
        task, folder.vocabulary, heldout=folder.heldout, geometry=None, count=50, seed=0
    )
    right = np.flatnonzero(np.isin(folder.heldout.classes, (3, 7)))
    wanted = some_of(right, 50, 0)
    assert len(wanted) == 50 < len(right)
    assert (images == folder.heldout.images[wanted]).all()
    assert labels.tolist() == [(3, 7).index(digit) for digit in folder.heldout.classes[wanted]]
    assert task_labels(task, folder.vocabulary) == ("3", "7")


def test_pictures_of_a_property_task_are_fresh_scenes_or_labelled_ones(factory, rng):
    folder = factory.folder
    task = folder.vocabulary.parse("red circle")
    options = {"heldout": None, "geometry": folder.geometry, "count": 40}
    images, labels = task_examples(task, folder.vocabulary, seed=1, **options)
    assert images.shape == (40, 32, 32, 3)
    assert labels.sum() == 20
    again, _ = task_examples(task, folder.vocabulary, seed=1, **options)
    other, _ = task_examples(task, folder.vocabulary, seed=2, **options)
    assert (images == again).all()
    assert (images != other).any()
    assert task_examples(folder.vocabulary.all(), folder.vocabulary, seed=1, **options) is None
    objects = np.stack([rng.integers(0, size, (9, 2)) for size in folder.vocabulary.sizes], axis=-1)
    kept = Examples(images[:9], objects.astype(np.int16))
    values = task.values(folder.vocabulary)
    expected = [
        any(all(thing[group] == value for group, value in values.items()) for thing in picture)
        for picture in objects
    ]
    for count in (6, 9):
        shown, held = task_examples(task, folder.vocabulary, heldout=kept, geometry=None, count=count, seed=0)
        places = [next(at for at in range(9) if (kept.images[at] == image).all()) for image in shown]
        assert len(set(places)) == count
        assert places == sorted(places)
        assert held.tolist() == [expected[place] for place in places]


def test_of_data_that_are_sorted_by_class_all_classes_count(digits):
    folder = digits.folder
    ordered = folder.heldout.subset(np.argsort(folder.heldout.classes, kind="stable"))
    count = len(ordered) // 2
    task = folder.vocabulary.all()
    _, labels = task_examples(task, folder.vocabulary, heldout=ordered, geometry=None, count=count, seed=0)
    assert len(labels) == count
    assert set(labels) == set(folder.heldout.classes)


def test_nothing_labelled_for_the_task_gives_nothing(digits):
    folder = digits.folder
    only = folder.heldout.subset(np.flatnonzero(folder.heldout.classes == 1))
    task = folder.vocabulary.parse("3, 7")
    assert task_examples(task, folder.vocabulary, heldout=only, geometry=None, count=9, seed=0) is None


def test_rates_are_those_of_a_slow_count(factory, digits, rng):
    scores, labels = (
        rng.standard_normal((300, 2)).astype(np.float32),
        (rng.random(300) < 0.2).astype(np.int64),
    )
    right: dict[int, list[bool]] = {0: [], 1: []}
    for row, label in zip(scores, labels, strict=True):
        right[int(label)].append(int(row[1] > row[0]) == label)
    expected = {label: sum(hits) / len(hits) for label, hits in right.items()}
    assert recalls(scores, labels) == pytest.approx(expected)
    words = factory.vocabulary
    value, named = rate(words.parse("red"), words, scores, labels)
    assert value == pytest.approx((expected[0] + expected[1]) / 2)
    assert named == pytest.approx({"absent": expected[0], "present": expected[1]})
    classes = digits.vocabulary
    value, named = rate(classes.parse("3, 7"), classes, scores, labels)
    assert value == pytest.approx(sum(right[0] + right[1]) / 300)
    assert set(named) == {"3", "7"}


def test_the_quality_of_a_model_is_what_its_scores_give(digits):
    folder = digits.folder
    task = folder.vocabulary.parse("0, 1, 2")
    config = task_config(
        folder.blueprint, folder.assembly, task, folder.vocabulary, np.ones(len(folder.assembly.costs), bool)
    )
    session = open_session(folder.blueprint.cut(config))
    judge = AnswerJudge(folder.vocabulary, folder.preprocess, folder.heldout, None)
    sample = judge.draw(task, count=30, seed=0)
    found = judge.rate(session, task, sample)
    scores = scores_of(session, folder.preprocess.apply(sample.images))
    assert scores.shape == (30, 3)
    assert found.value == pytest.approx((scores.argmax(1) == sample.truth).mean())
    assert (judge.metric(task), found.ap) == ("accuracy", None)
    assert set(found.by_label) == set(judge.labels(task)) == {"0", "1", "2"}


def test_the_task_decides_the_head(factory, digits):
    for made, text, name, indices in (
        (factory, "circle red", "head.words", None),
        (digits, "7, 3", "classes", (3, 7)),
    ):
        folder = made.folder
        task = folder.vocabulary.parse(text)
        mask = np.zeros(len(folder.assembly.costs), dtype=bool)
        config = task_config(folder.blueprint, folder.assembly, task, folder.vocabulary, mask)
        expected = indices or tuple(sorted(folder.vocabulary.index(word) for word in task.words))
        assert config[name] == expected
        assert all(config[subset.name] == () for subset in folder.assembly.subsets)
    with pytest.raises(TaskError, match=r"name one property or more, of .*red.*circle|of .*circle.*red"):
        task_config(
            factory.folder.blueprint,
            factory.folder.assembly,
            factory.vocabulary.all(),
            factory.vocabulary,
            mask,
        )


def test_the_curve_holds_every_tested_task_at_every_limit(factory, digits):
    for made, above in ((factory, [0.25, 1.0]), (digits, [0.5, 1.0])):
        record = made.folder.quality
        trained = made.folder.network["provenance"]["settings"]["train"]["lowest_limit"]
        limits = [trained, *above] if trained < above[0] else above
        assert record["limits"] == limits
        for row in record["tasks"].values():
            assert len(row["quality"]) == len(row["macs_share"]) == len(limits)
            assert all(0 <= value <= 1 for value in row["quality"])
            # The head keeps only the words of the task, so the shares lie a little below the limits.
            assert all(share <= limit + 1e-3 for share, limit in zip(row["macs_share"], limits, strict=True))
    known = {row["known"] for row in factory.folder.quality["tasks"].values()}
    assert known == {True, False}
    assert digits.vocabulary.all().text in digits.folder.quality["tasks"]
