"""Data: examples in memory, procedural scenes, digits, and image data sets of the user."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brickyard.data.examples import Examples as Examples
    from brickyard.data.examples import Preprocess as Preprocess
    from brickyard.data.geometry import GeometrySpec as GeometrySpec
    from brickyard.data.geometry import scenes as scenes
    from brickyard.data.geometry import task_scenes as task_scenes
    from brickyard.data.source import DataSource as DataSource
    from brickyard.data.source import load_data as load_data

_HOME = {
    "Examples": "examples",
    "Preprocess": "examples",
    "GeometrySpec": "geometry",
    "scenes": "geometry",
    "task_scenes": "geometry",
    "DataSource": "source",
    "load_data": "source",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"brickyard.data.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
