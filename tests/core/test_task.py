"""Tasks are read from text strictly, keep the order of the vocabulary, and survive JSON."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brickyard.core.errors import TaskError
from brickyard.core.task import Task, Vocabulary

THINGS = Vocabulary(
    "properties",
    {"size": ("small", "large"), "color": ("red", "green", "blue"), "shape": ("circle", "ring")},
)
DIGITS = Vocabulary("classes", {"class": tuple("0123456789")})
ANIMALS = Vocabulary(
    "classes", {"class": ("cat", "dog", "Guinea pig", "salt and pepper moth", "great white, shark")}
)


@pytest.mark.parametrize(
    "text", ["red circle", "Circle & RED", "circle, red", "  circle and red ", "red\ncircle"]
)
def test_property_texts_of_one_task(text):
    task = THINGS.parse(text)
    assert task == Task("properties", ("red", "circle"))
    assert task.text == str(task) == "red circle"
    assert task.values(THINGS) == {1: 0, 2: 0}
    np.testing.assert_array_equal(task.vector(THINGS), np.array([0, 0, 1, 0, 0, 1, 0], np.float32))


@pytest.mark.parametrize("text", ["7, 3", "3 7", "3 & 7", "3 and 7", "7\n3"])
def test_class_texts_of_one_task(text):
    task = DIGITS.parse(text)
    assert task.text == "3, 7"
    assert task.class_indices(DIGITS) == (3, 7)
    assert task.vector(DIGITS).sum() == 2


def test_class_names_with_spaces_separators_and_commas():
    task = ANIMALS.parse("great white, shark and guinea pig, salt and pepper moth and dog")
    assert task.words == ("dog", "Guinea pig", "salt and pepper moth", "great white, shark")
    assert ANIMALS.parse(task.text) == task


@given(st.lists(st.sampled_from(ANIMALS.words), min_size=1, unique=True))
def test_canonical_text_of_classes_parses_back(words):
    task = ANIMALS.task(words)
    assert ANIMALS.parse(task.text) == task == ANIMALS.task(reversed(words))


def test_canonical_text_of_all_combinations_parses_back():
    tasks = THINGS.combinations("color", "shape")
    assert len(set(tasks)) == 6
    assert all(THINGS.parse(task.text) == task for task in tasks)
    with pytest.raises(TaskError, match=r"'colour' is not a group .*'size', 'color', 'shape'"):
        THINGS.combinations("colour")


@pytest.mark.parametrize("text", [None, "all", " ALL "])
def test_generic_task(text):
    assert DIGITS.parse(text).class_indices(DIGITS) == tuple(range(10))
    generic = THINGS.parse(text)
    assert generic.values(THINGS) == {}
    assert generic.text == "all"
    assert generic.vector(THINGS).tolist() == [1.0] * 7


@pytest.mark.parametrize(
    ("vocabulary", "text", "message"),
    [
        (
            THINGS,
            "gren circle",
            r"'gren' in the task 'gren circle' is not a known word; nearest: green.*color: red, green",
        ),
        (
            THINGS,
            "red xyzzy",
            r"'xyzzy' in the task .* is not a known word. Known words: size: small, large;",
        ),
        (THINGS, "red blue ring", "'red' and 'blue' are both a color; an object has only one"),
        (THINGS, "red red", "'red' occurs more than once"),
        (THINGS, "", "the task names no word"),
        (THINGS, " , & and ", "the task names no word"),
        (DIGITS, "3, 3", "'3' occurs more than once"),
        (DIGITS, "3, 12", "'12' in the task '3, 12' is not a known word"),
        (ANIMALS, "dog, ginea pig and cat", "'ginea pig' in the task .*; nearest: Guinea pig"),
    ],
)
def test_refused_texts(vocabulary, text, message):
    with pytest.raises(TaskError, match=message):
        vocabulary.parse(text)


def test_long_listings_are_cut():
    many = Vocabulary("classes", {"class": tuple(f"c{number}" for number in range(200))})
    with pytest.raises(TaskError, match="c23 and 176 more"):
        many.parse("zzz")


@pytest.mark.parametrize(
    ("kind", "groups", "message"),
    [
        ("things", {"a": ("b",)}, "vocabulary kind 'things' is unknown; allowed"),
        ("classes", {"label": ("a", "b")}, "exactly one, named 'class'"),
        ("properties", {}, "lack words"),
        ("properties", {"color": ()}, "lack words"),
        ("properties", {"color": ("red", "")}, "word '' of the vocabulary is empty"),
        (
            "properties",
            {"color": ("red", "and")},
            "word 'and' of the vocabulary is empty or only a separator",
        ),
        ("properties", {"car": ("red",), "roof": ("Red",)}, "word 'Red' occurs twice"),
    ],
)
def test_refused_vocabularies(kind, groups, message):
    with pytest.raises(TaskError, match=message):
        Vocabulary(kind, groups)


@pytest.mark.parametrize("vocabulary", [THINGS, DIGITS, ANIMALS])
def test_vocabulary_round_trips(vocabulary):
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert list(again.groups) == list(vocabulary.groups)
    assert copy.deepcopy(vocabulary) == vocabulary


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"kind": "classes"}', '{"kind": "classes", "groups": {}, "more": 1}']
)
def test_refused_vocabulary_files(text):
    with pytest.raises(TaskError, match="vocabulary"):
        Vocabulary.from_json(text)


def test_vocabulary_cannot_change():
    with pytest.raises(TypeError):
        THINGS.groups["size"] = ("tiny",)
    assert THINGS.sizes == (2, 3, 2)
    assert THINGS.index("BLUE") == 4
    assert THINGS.locate(4) == (1, 2)


def test_task_of_another_vocabulary_is_refused():
    with pytest.raises(TaskError, match="'3' is not a known word"):
        DIGITS.parse("3").vector(Vocabulary("classes", {"class": ("cat", "dog")}))
    with pytest.raises(TaskError, match="kind 'classes'; this needs one of kind 'properties'"):
        DIGITS.parse("3").values(DIGITS)
    with pytest.raises(TaskError, match="kind 'properties'; this needs one of kind 'classes'"):
        THINGS.parse("red").class_indices(THINGS)
