"""The kinds of error that brickyard raises at bad input.

Every message says what came, what is allowed and what to do. All of them are `ValueError`s, so that callers
who do not care about the kind can catch one class.
"""

from __future__ import annotations

from typing import Any


class BrickyardError(ValueError):
    """Base of every error raised for something that a user can mend."""


class ConfigError(BrickyardError):
    """A configuration, or one of its values, does not belong to the space.

    Args:
        message: The full sentence for the user.
        path: Name of the decision at fault.
        value: What came.
        allowed: What the decision accepts.
    """

    def __init__(self, message: str, *, path: str = "", value: Any = None, allowed: Any = None) -> None:
        super().__init__(message)
        self.path = path
        self.value = value
        self.allowed = allowed


class TaskError(BrickyardError):
    """A task cannot be understood, or the factory does not know its words."""


class BudgetError(BrickyardError):
    """A budget is malformed or names a quantity that cannot be limited."""


class InfeasibleError(BudgetError):
    """No sub-network of the factory meets the budget.

    Args:
        message: The full sentence for the user.
        limit: Name of the limit that binds.
        requested: The requested value of that limit.
        smallest: The smallest value that can be achieved for it.

    Attributes:
        nearest: The nearest feasible request and its costs, where it was looked for.
    """

    def __init__(self, message: str, *, limit: str, requested: float, smallest: float) -> None:
        super().__init__(message)
        self.limit = limit
        self.requested = requested
        self.smallest = smallest
        self.nearest: dict[str, Any] | None = None


class DeviceError(BrickyardError):
    """A device profile is malformed or does not fit the factory."""


class ExtractError(BrickyardError):
    """A sub-network cannot be cut out."""


class DataError(BrickyardError):
    """A data set is malformed or missing."""


class ArtifactError(BrickyardError):
    """A folder or file of brickyard is missing, altered or of an unknown version."""


class ExportError(BrickyardError):
    """An exported file does not compute what the network computes."""


class TrainError(BrickyardError):
    """A training run cannot be started or resumed as asked."""


class SearchError(BrickyardError):
    """A search ended before it had what it was asked for."""


class ModularizeError(BrickyardError):
    """A dense network cannot be turned into a modular one."""


class MissingExtraError(BrickyardError, ImportError):
    """A library of an optional extra is not installed.

    Args:
        library: The importable name that was missing.
        extra: The extra of brickyard that installs it.
    """

    def __init__(self, library: str, *, extra: str) -> None:
        super().__init__(
            f"{library} is not installed; it is needed here. Run: pip install 'brickyard[{extra}]'"
        )
        self.library = library
        self.extra = extra
