"""Names of learned tasks: how they are found and read."""

import json
import shutil

import pytest

from brickyard.core.errors import ArtifactError, TaskError
from brickyard.factory import Factory
from brickyard.factory.learned import learned_folders, split_name


def test_tasks_are_found_in_their_order(pico, taught):
    assert learned_folders(pico) == {}
    folders = learned_folders(taught)
    assert list(folders) == ["Stripes", "again"]
    assert all((folder / "manifest.json").is_file() for folder in folders.values())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "tells no name of a task; copy"),
        ({}, "tells no name of a task; copy"),
        ({"task": 3}, "tells no name of a task; copy"),
        ({"task": {"name": ["x"]}}, "tells no name of a task; copy"),
        ({"task": {"name": "STRIPES"}}, "0001 is a second task 'STRIPES'; copy"),
    ],
)
def test_names_that_are_damaged_are_told(record, message, taught, tmp_path):
    factory = shutil.copytree(taught, tmp_path / "mine")
    (factory / "learned" / "tasks" / "0001" / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=message):
        learned_folders(factory)


def test_a_learned_task_without_its_words_is_told(taught, tmp_path):
    factory = shutil.copytree(taught, tmp_path / "mine")
    shutil.rmtree(factory / "learned" / "tasks" / "0000" / "factory")
    with pytest.raises(ArtifactError, match=r"vocabulary\.json is missing; copy the whole folder"):
        Factory.load(factory).parse("stripes: upright")


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
