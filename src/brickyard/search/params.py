"""Between brickyard's spaces and Optuna's: configs as parameters of trials, and back.

A `Choice` is one parameter with its sizes, an `Option` one with its names, and a `Subset` one of two values
for each brick, `name[3]`. So Optuna's dashboard and plots show what a reader of the network knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brickyard.core.config import Config
from brickyard.core.decision import Decision, Subset
from brickyard.core.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the distribution of each parameter of a space.

    Args:
        space: The space.
    """
    from optuna.distributions import CategoricalDistribution

    found: dict[str, BaseDistribution] = {}
    for decision in space:
        if isinstance(decision, Subset):
            bits = {name: CategoricalDistribution([False, True]) for name in _bits(decision)}
            found.update(bits)
        else:
            found[decision.name] = CategoricalDistribution(list(decision.values))  # type: ignore[attr-defined]
    return found


def params_of(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a config.

    Args:
        space: The space.
        config: A legal config.

    Raises:
        ConfigError: The config is not legal.
    """
    checked = space.check(config)
    params: dict[str, Any] = {}
    for decision in space:
        value = checked[decision.name]
        if isinstance(decision, Subset):
            params.update({name: index in value for index, name in enumerate(_bits(decision))})
        else:
            params[decision.name] = value
    return params


def config_of(space: Space, params: Mapping[str, Any]) -> Config:
    """Return the config of parameters; a `Subset` with too few bricks gets its first ones.

    Args:
        space: The space.
        params: One value for each parameter of `distributions`.
    """
    return Config({decision.name: _value(decision, params) for decision in space})


@dataclass(frozen=True)
class SameParams:
    """From parameters to those of a point that computes the same.

    Attributes:
        space: The space.
        canonical: From a config to one that computes the same.
    """

    space: Space
    canonical: Callable[[Config], Config]

    def __call__(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters; what is not given is that of the largest config."""
        whole = {**params_of(self.space, self.space.largest()), **params}
        return params_of(self.space, self.canonical(config_of(self.space, whole)))


def _bits(decision: Subset) -> list[str]:
    return [f"{decision.name}[{index}]" for index in range(decision.count)]


def _value(decision: Decision, params: Mapping[str, Any]) -> Any:
    if isinstance(decision, Subset):
        return decision.decode([float(params[name]) for name in _bits(decision)])
    return decision.check(params[decision.name])
