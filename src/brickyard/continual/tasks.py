"""The decision that masks read: which task a network does now."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from brickyard.core.decision import Decision, Option
from brickyard.core.errors import ConfigError


class Tasks(Option):
    """Which task's masks are in use: an option whose values grow with every task that is learned.

    Args:
        name: Name of the decision.

    Attributes:
        mixture: Weight of each task's mask `[tasks]` where all masks are in use at once (to infer the task);
            None otherwise.
    """

    def __init__(self, name: str = "task") -> None:
        Decision.__init__(self, name)
        self.values: tuple[Any, ...] = ()
        self.mixture: Tensor | None = None

    @property
    def number(self) -> int:
        """Place of the task in use among the values.

        Raises:
            ConfigError: No task was learned yet.
        """
        return self.number_of(self.value)

    def number_of(self, task: Any) -> int:
        """Return the place of a task.

        Raises:
            ConfigError: There is no such task.
        """
        try:
            return self.values.index(task)
        except ValueError:
            known = ", ".join(self.values) or "none, learn one first"
            raise ConfigError(
                f"{self.name} {task!r} is not among the tasks; known: {known}",
                path=self.name,
                value=task,
                allowed=list(self.values),
            ) from None

    def add(self, task: str) -> None:
        """Add a task and use it.

        Raises:
            ConfigError: There is such a task already, or the name is empty.
        """
        if not task or task in self.values:
            raise ConfigError(
                f"{self.name} {task!r} is {'there already' if task else 'no name'}; choose another name",
                path=self.name,
                value=task,
            )
        self.values = (*self.values, task)
        self.value = task

    def drop(self) -> None:
        """Take the last task away again; the one before it is in use then."""
        self.values = self.values[:-1]
        self.value = self.values[-1] if self.values else None

    def largest(self) -> str:
        """Return the first task."""
        return str(self.values[self.number_of(self.values[0] if self.values else None)])

    def smallest(self) -> str:
        """Return the first task."""
        return self.largest()
