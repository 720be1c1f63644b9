"""From a modular network to graph files: the whole network exported once, then cut without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brickyard.export.blueprint import Blueprint
from brickyard.export.counts import Counts

if TYPE_CHECKING:
    from brickyard.export.whole import export_blueprint, export_plain

__all__ = ["Blueprint", "Counts", "export_blueprint", "export_plain"]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is asked for."""
    if name in {"export_blueprint", "export_plain"}:
        from brickyard.export import whole

        return getattr(whole, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
