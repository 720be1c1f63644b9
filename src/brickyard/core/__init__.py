"""The core: decisions, spaces, configs, bricks, networks and the one walk that extracts them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from brickyard.core.config import Config
from brickyard.core.cut import Cut
from brickyard.core.decision import Choice, Decision, Option, Subset
from brickyard.core.space import Space

if TYPE_CHECKING:
    from brickyard.core.brick import Brick, Width
    from brickyard.core.network import Network

_TORCH = {"Brick": "brick", "Width": "brick", "Network": "network"}

__all__ = ["Brick", "Choice", "Config", "Cut", "Decision", "Network", "Option", "Space", "Subset", "Width"]


def __getattr__(name: str) -> Any:
    if name in _TORCH:
        return getattr(import_module(f"brickyard.core.{_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
