"""What an earlier study is about, so that a search that starts from it goes on from the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brickyard.core.errors import ConfigError

if TYPE_CHECKING:
    from brickyard.search import WarmStart


def lesson_sha256(warm_start: WarmStart, about: Mapping[str, Any]) -> str:
    """Check that a search can learn from an earlier one, and return a hash of what that one is about.

    Args:
        warm_start: The earlier study.
        about: Arguments of `brickyard.search.Search` that tell this one.

    Raises:
        ConfigError: It is this search itself, is not there, of another space, or tells of no objective.
    """
    from brickyard.search import Search

    places = [str(part).removeprefix("sqlite:///") for part in (warm_start.storage, about["storage"])]
    places = [place if "://" in place else str(Path(place).resolve()) for place in places]
    if places[0] == places[1] and warm_start.name == about["name"]:
        raise ConfigError(
            f"warm start: study {warm_start.name!r} is this very search; name an earlier one, or leave it "
            "out to go on",
            path="warm_start",
            value=warm_start.name,
        )
    try:
        Search(**{**about, "storage": None}, sampler="random", warm_start=warm_start)
        study = Search.stored(warm_start.storage, warm_start.name, about["space"]).study
    except ConfigError as error:
        raise ConfigError(
            f"warm start: {error}", path="warm_start", value=error.value, allowed=error.allowed
        ) from None
    return hashlib.sha256(repr(sorted(study.user_attrs.items())).encode()).hexdigest()
