"""What a search needs of a super-network: a space, an evaluation, and a way to cut a subnet out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from brickyard.core.config import Config
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space


class SuperNetwork(Protocol):
    """Anything of which subnets can be named, measured and cut out; `brickyard.search.run` takes it whole.

    One that also has a method `canonical(config)`, which gives a config that computes the same, has configs
    that agree there evaluated once.
    """

    @property
    def space(self) -> Space:
        """The configs."""

    def evaluate(self, config: Config, /) -> Mapping[str, float]:
        """Measure a config.

        Args:
            config: A config of the space.

        Returns:
            Numbers by name.
        """

    def extract(self, config: Config, /) -> Any:
        """Cut a config out.

        Args:
            config: A config of the space.

        Returns:
            Something that works without the super-network.
        """


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A super-network made of functions.

    Attributes:
        space: The configs.
        evaluate: From a config to numbers by name.
        extract: From a config to something that works without the super-network.
        canonical: From a config to one that computes the same; None where every config is its own.

    Example:
        >>> network = Foreign(space=space, evaluate=measure, extract=cut)
        >>> result = run(network, objectives=["accuracy", "macs"])
        >>> model = network.extract(result.front[0].config)
    """

    space: Space
    evaluate: Callable[[Config], Mapping[str, float]]
    extract: Callable[[Config], Any]
    canonical: Callable[[Config], Config] | None = None


def numbers_of(given: Any, by: str) -> dict[str, float]:
    """Return what a user's evaluation gave, as numbers by name.

    Args:
        given: What it returned.
        by: Name of the argument that it came as, for the error.

    Raises:
        ConfigError: It is no mapping.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{by} returned {given!r}; return numbers by name, such as {{'accuracy': 0.9}}",
            path=by,
            value=given,
        )
    return dict(given)
