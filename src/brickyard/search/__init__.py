"""Search: the best sub-networks of any space in few evaluations.

    from brickyard.search import Search, run

A space, what an evaluation measures of a config, and the objectives; see docs/search.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brickyard.core.errors import MissingExtraError

if TYPE_CHECKING:
    from brickyard.search.adapters.base import Foreign, SuperNetwork
    from brickyard.search.entry import run
    from brickyard.search.front import Result
    from brickyard.search.objective import Limit, Objective
    from brickyard.search.sampler import LinasSampler
    from brickyard.search.samplers import SAMPLERS, SamplerSettings
    from brickyard.search.study import Found, Search
    from brickyard.search.transfer import WarmStart

_PLACES = {
    "Foreign": "adapters.base",
    "SuperNetwork": "adapters.base",
    "run": "entry",
    "Result": "front",
    "Objective": "objective",
    "Limit": "objective",
    "LinasSampler": "sampler",
    "SAMPLERS": "samplers",
    "Found": "study",
    "SamplerSettings": "samplers",
    "Search": "study",
    "WarmStart": "transfer",
}

__all__ = [
    "SAMPLERS",
    "Foreign",
    "Found",
    "Limit",
    "LinasSampler",
    "Objective",
    "Result",
    "SamplerSettings",
    "Search",
    "SuperNetwork",
    "WarmStart",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the package itself needs no library of the extra."""
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("optuna", "pymoo", "scipy", "sklearn", "sqlalchemy"):
            raise MissingExtraError(error.name, extra="search") from None
        raise
