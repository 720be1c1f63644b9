"""Configs that compute the same are one: decisions that play no part take their largest value."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from brickyard.core.config import Config
from brickyard.core.space import Space
from brickyard.export.blueprint import Blueprint


class Canonical:
    """Finds the canonical config of a network that has a blueprint.

    Args:
        blueprint: The exported network.
        space: The decisions that are looked at, of those of the blueprint.
    """

    def __init__(self, blueprint: Blueprint, space: Space) -> None:
        self.blueprint, self.space = blueprint, space

    def __call__(self, chosen: Mapping[str, Any]) -> Config:
        """Return the config that computes the same with all decisions that play no part at their largest.

        Args:
            chosen: A config of `space`. Those of blocks that a depth leaves out play no part, nor those of a
                branch in which no brick is on.
        """
        gone = [
            f"{stage.prefix}.{block}."
            for stage in self.blueprint.stages
            for block in range(chosen[stage.decision], stage.count)
        ]
        empty = [
            (left.decision, f"{left.prefix}.")
            for left in self.blueprint.leftovers
            if left.decision in chosen and not chosen[left.decision]
        ]
        idle = {}
        for decision in self.space:
            prefixes = (*gone, *(prefix for name, prefix in empty if name != decision.name))
            tensors = self._tensors.get(decision.name)
            if tensors and all(tensor.startswith(prefixes) for tensor in tensors):
                idle[decision.name] = decision.largest()
        return Config({**chosen, **idle})

    @cached_property
    def _tensors(self) -> dict[str, list[str]]:
        """The initializers that each decision cuts."""
        found: dict[str, list[str]] = {}
        for tensor, cuts in self.blueprint.cuts.items():
            for cut in cuts:
                found.setdefault(cut.decision, []).append(tensor)
        return found
