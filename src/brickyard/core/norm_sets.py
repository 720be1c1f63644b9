"""Sets of normalisation: subnets of different size normalise by numbers of their own.

A convolution that lost channels gives numbers of another mean and spread, so one batch normalisation for all
sizes serves each of them badly; switchable batch normalisation (arXiv 1812.08928, section 3.3) keeps one for
each size. Here sizes are continuous, so a set serves a range of shares of all MACs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ConfigError

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class NormSets:
    """Which set of normalisation a subnet uses.

    Attributes:
        edges: Descending shares in (0, 1]; set `i` serves shares from `edges[i]` up to the edge before, one
            more set those below the last edge. With a first edge of 1, the first set is that of the network
            with everything on alone.
        shares: Share of all MACs of each brick, by the name of its `Subset`.
        fixed: Share that is always on.

    Example:
        >>> NormSets((1.0, 0.5), {"width": (0.25, 0.25)}, 0.5).of({"width": (0,)})
        1
    """

    edges: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    fixed: float

    def __post_init__(self) -> None:
        """Check the edges.

        Raises:
            ConfigError: They do not descend, or do not lie in (0, 1].
        """
        inside = all(0 < edge <= 1 for edge in self.edges)
        if not self.edges or not inside or sorted(set(self.edges), reverse=True) != list(self.edges):
            raise ConfigError(
                f"edges of the norm sets are {list(self.edges)}; allowed: one or more descending shares in "
                "(0, 1]",
                path="norm_sets",
            )

    @property
    def count(self) -> int:
        """Number of sets."""
        return len(self.edges) + 1

    def share(self, config: Mapping[str, Any]) -> float:
        """Return the share of all MACs of a config's bricks and of what is always on."""
        return self.fixed + sum(
            sum(shares[brick] for brick in config[name]) for name, shares in self.shares.items()
        )

    def of(self, config: Mapping[str, Any]) -> int:
        """Return the number of the set that a config uses."""
        share = self.share(config)
        return sum(share < edge - _TOLERANCE for edge in self.edges)

    def split(self, limits: npt.NDArray[np.float32]) -> tuple[int, ...]:
        """Return how many samples of a batch belong to each set.

        Args:
            limits: Share of each sample, descending, `[batch]`.

        Returns:
            Numbers of samples, one for each set.
        """
        assert bool((np.diff(limits) <= 0).all())
        ends = [0, *(int((limits >= edge - _TOLERANCE).sum()) for edge in self.edges), len(limits)]
        return tuple(np.diff(ends).tolist())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON record."""
        shares = {name: list(values) for name, values in self.shares.items()}
        return {"edges": list(self.edges), "shares": shares, "fixed": self.fixed}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> NormSets:
        """Build it from its JSON record."""
        shares: dict[str, Sequence[float]] = record["shares"]
        return cls(
            tuple(record["edges"]),
            {name: tuple(values) for name, values in shares.items()},
            float(record["fixed"]),
        )
