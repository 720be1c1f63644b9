"""Names of learned tasks: how they are found and read."""

import pytest

from brickyard.core.errors import TaskError
from brickyard.factory import Factory
from brickyard.factory.learned import learned_folders, split_name


def test_tasks_are_found_in_their_order(pico, taught):
    assert learned_folders(pico) == {}
    folders = learned_folders(taught)
    assert list(folders) == ["Stripes", "again"]
    assert all((folder / "manifest.json").is_file() for folder in folders.values())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("big cats", ("Big cats", None)),
        ("  BIG   CATS : lion, tiger", ("Big cats", " lion, tiger")),
        ("cats", None),
        ("lion", None),
        ("big cats and dogs", None),
    ],
)
def test_a_name_may_have_words_behind_it(text, found, tmp_path):
    assert split_name(text, {"Big cats": tmp_path}) == found


def test_a_task_is_read_in_the_words_that_it_belongs_to(taught):
    factory = Factory.load(taught)
    owner, task = factory.parse("red circle")
    assert (owner, task.text) == (factory, "red circle")
    owner, task = factory.parse("stripes: upright & across")
    assert (owner, task.text) == (factory.learned["Stripes"], "across, upright")
    assert factory.parse("again")[1].text == "across, plain grey, upright"


def test_what_is_not_understood_names_the_learned_tasks(taught):
    factory = Factory.load(taught)
    with pytest.raises(TaskError, match=r"'purple' in the task.*Tasks learned later: Stripes, again"):
        factory.parse("purple")
    with pytest.raises(TaskError, match="'dotted' in the task"):
        factory.parse("stripes: dotted")
