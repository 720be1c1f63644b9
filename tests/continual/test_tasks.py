"""The decision grows by tasks and refuses what it does not know."""

import pytest

from brickyard.continual import Tasks
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space


def test_tasks_are_added_and_dropped():
    tasks = Tasks()
    tasks.add("first")
    tasks.add("second")
    assert (tasks.value, tasks.number, tasks.size) == ("second", 1, 2)
    assert Space([tasks]).contains({"task": "first"})
    tasks.drop()
    assert (tasks.value, tasks.values) == ("first", ("first",))


@pytest.mark.parametrize("name", ["first", ""])
def test_a_name_that_is_taken_or_empty_is_refused(name):
    tasks = Tasks()
    tasks.add("first")
    with pytest.raises(ConfigError, match="choose another name"):
        tasks.add(name)
    assert tasks.values == ("first",)


def test_without_tasks_there_is_nothing_to_use():
    with pytest.raises(ConfigError, match="known: none, learn one first"):
        _ = Tasks().number
    with pytest.raises(ConfigError, match="learn one first"):
        Tasks().largest()
    tasks = Tasks()
    tasks.add("first")
    with pytest.raises(ConfigError, match="'other' is not among the tasks; known: first"):
        tasks.number_of("other")
