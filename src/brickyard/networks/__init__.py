"""Families of modular networks, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brickyard.core.network import Network
from brickyard.core.registry import Registry

Builder = Callable[..., Network]
NETWORKS: Registry[Builder] = Registry("networks")


def build(name: str, **arguments: Any) -> Network:
    """Build a registered network with fresh weights.

    Args:
        name: Name in the registry.
        **arguments: Arguments of the builder; JSON values, so that a network folder can keep them.

    Returns:
        The network; it knows its builder and arguments.

    Raises:
        ConfigError: Unknown name or arguments.
    """
    from brickyard.core.errors import ConfigError

    builder = NETWORKS[name]
    try:
        network = builder(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"arguments {sorted(arguments)} do not fit network {name!r}: {error}", path=name
        ) from None
    network.builder, network.arguments = name, dict(arguments)
    return network


from brickyard.networks import detection, encoder, translation, vision  # noqa: E402, F401  (registers their builders)

__all__ = ["NETWORKS", "Builder", "build"]
