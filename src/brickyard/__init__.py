"""Makes small neural networks out of big modular ones: to a task and a budget, in seconds, without training.

``Factory.load("geometry").make(task="red circle", budget=Budget(...))`` is the whole of it. Names are
imported when first used, so that ``import brickyard`` is quick and the main path never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brickyard import modularize as modularize
    from brickyard.core import errors as errors
    from brickyard.core.brick import Brick as Brick
    from brickyard.core.config import Config as Config
    from brickyard.core.decision import Choice as Choice
    from brickyard.core.decision import Option as Option
    from brickyard.core.decision import Subset as Subset
    from brickyard.core.network import Network as Network
    from brickyard.core.space import Space as Space
    from brickyard.core.task import Task as Task
    from brickyard.core.task import Vocabulary as Vocabulary
    from brickyard.factory import Budget as Budget
    from brickyard.factory import Factory as Factory

_MODULES = {"errors": "brickyard.core.errors", "modularize": "brickyard.modularize"}
_HOME = {
    "Factory": "brickyard.factory",
    "Budget": "brickyard.factory",
    "Task": "brickyard.core.task",
    "Vocabulary": "brickyard.core.task",
    "Network": "brickyard.core.network",
    "Brick": "brickyard.core.brick",
    "Space": "brickyard.core.space",
    "Config": "brickyard.core.config",
    "Choice": "brickyard.core.decision",
    "Subset": "brickyard.core.decision",
    "Option": "brickyard.core.decision",
}

__all__ = [
    "Brick",
    "Budget",
    "Choice",
    "Config",
    "Factory",
    "Network",
    "Option",
    "Space",
    "Subset",
    "Task",
    "Vocabulary",
    "__version__",
    "errors",
    "modularize",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used.

    Raises:
        AttributeError: the package has no such public name.
    """
    if name == "__version__":
        return import_module("importlib.metadata").version("brickyard")
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOME:
        raise AttributeError(f"module 'brickyard' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
