"""Modules with `set_active_subnet` and `get_active_subnet`, the interface of once-for-all (arXiv 1908.09791).

There a subnet is named by lists: `ks` and `e`, a kernel size and an expand ratio for each block, and `d`, a
depth for each stage. Any other keys do as well. Each entry of a list is one decision, `ks[3]`.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from brickyard.bricks.calibration import calibrate_
from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.errors import ConfigError
from brickyard.core.space import Space
from brickyard.search.adapters.base import numbers_of


class OnceForAll:
    """A module of that interface as a super-network.

    Args:
        module: A module with `set_active_subnet(**lists)` and `get_active_subnet()`. The last subnet that was
            asked for stays active in it; weights and statistics stay what they are.
        values: For each key of `set_active_subnet` a list, in which each entry is the ascending list of what
            that block or stage may have: `{"ks": [[3, 5, 7]] * 20, "d": [[2, 3, 4]] * 5}`.
        evaluate: Measures a subnet, a plain module in evaluation mode: gives numbers by name.
        calibration: Batches that normalisation statistics are estimated on, for each subnet anew; each is the
            input of the module or a tuple of its inputs. None to keep those that `get_active_subnet` gives.
        depth: Key whose entries say how many blocks of a stage are on, the first ones. Every longer list
            must then have one entry for each place of each stage; what it says of blocks that are off makes
            no different subnet.

    Raises:
        ConfigError: The module lacks the interface, a key is one that it would ignore, or lists do not fit.

    Example:
        >>> network = OnceForAll(module, values={"d": [[2, 3, 4]] * 5}, evaluate=measure)
        >>> result = run(network, objectives=["accuracy", "macs"])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        values: Mapping[str, Sequence[Sequence[float]]],
        evaluate: Callable[[nn.Module], Mapping[str, float]],
        calibration: Iterable[Tensor | tuple[Tensor, ...]] | None = None,
        depth: str | None = None,
    ) -> None:
        _check_module(module, values)
        self.module, self._evaluate, self._depth = module, evaluate, depth
        self.calibration = None if calibration is None else tuple(calibration)
        if self.calibration == ():
            raise ConfigError("calibration has no batches; give some, or None", path="calibration")
        self.space = Space(
            Choice(_name(key, place), allowed)
            for key, entries in values.items()
            for place, allowed in enumerate(entries)
        )
        self._lengths = {key: len(entries) for key, entries in values.items()}
        self._stages = {} if depth is None else self._find_stages(depth)

    def _find_stages(self, depth: str) -> dict[str, tuple[str, int]]:
        """Return for each decision of a block the one of its stage's depth, and its place in the stage."""
        if depth not in self._lengths:
            raise ConfigError(
                f"depth = {depth!r} is not a key; keys: {list(self._lengths)}", path="depth", value=depth
            )
        stages: dict[str, tuple[str, int]] = {}
        count = self._lengths[depth]
        deepest = {self.space[_name(depth, stage)].largest() for stage in range(count)}
        for key, length in self._lengths.items():
            if length <= count:
                continue
            if {length / count} != deepest:
                raise ConfigError(
                    f"{key!r} has {length} entries for {count} stages of up to {sorted(deepest)} blocks, so "
                    f"it is not known which are off; give each {length / count:g} at most, or depth=None",
                    path=key,
                )
            for place in range(length):
                stage, inside = divmod(place, length // count)
                stages[_name(key, place)] = (_name(depth, stage), inside)
        return stages

    def canonical(self, config: Config) -> Config:
        """Return the config that computes the same and has its largest values in blocks that are off."""
        off = [name for name, (stage, inside) in self._stages.items() if inside >= config[stage]]
        return config.replace({name: self.space[name].largest() for name in off})

    def lists(self, config: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return a config as what `set_active_subnet` takes.

        Raises:
            ConfigError: The config is not legal.
        """
        checked = self.space.check(config)
        return {
            key: [checked[_name(key, place)] for place in range(length)]
            for key, length in self._lengths.items()
        }

    def evaluate(self, config: Config) -> dict[str, float]:
        """Cut a subnet out and measure it.

        Raises:
            ConfigError: The config is not legal.
        """
        return numbers_of(self._evaluate(self.extract(config)), "evaluate")

    def extract(self, config: Config) -> nn.Module:
        """Cut a subnet out, with statistics of its own if there are batches to calibrate with.

        Args:
            config: A config of the space.

        Returns:
            A plain module in evaluation mode that shares nothing with the super-network.

        Raises:
            ConfigError: The config is not legal.
        """
        module: Any = self.module
        module.set_active_subnet(**self.lists(config))
        subnet: nn.Module = copy.deepcopy(module.get_active_subnet()).eval()
        if self.calibration is not None:
            calibrate_(subnet, self.calibration)
        return subnet


def _name(key: str, place: int) -> str:
    return f"{key}[{place}]"


def _check_module(module: nn.Module, values: Mapping[str, Sequence[Sequence[float]]]) -> None:
    missing = [
        n for n in ("set_active_subnet", "get_active_subnet") if not callable(getattr(module, n, None))
    ]
    if missing:
        raise ConfigError(
            f"{type(module).__name__} has no method {missing[0]}; modules of another interface are searched "
            "by brickyard.search.Foreign",
            path="module",
        )
    found = inspect.signature(module.set_active_subnet).parameters.values()  # type: ignore[arg-type]
    named = [part.name for part in found if part.kind in (part.POSITIONAL_OR_KEYWORD, part.KEYWORD_ONLY)]
    ignored = [key for key in values if key not in named]
    if not values or (named and ignored):
        raise ConfigError(
            f"set_active_subnet of {type(module).__name__} takes {named or 'any key'}, but values has "
            f"{list(values)}",
            path="values",
            value=list(values),
            allowed=named,
        )
    strange = [key for key, entries in values.items() if not entries or not _all_lists(entries)]
    if strange:
        raise ConfigError(
            f"values[{strange[0]!r}] = {values[strange[0]]!r}; give a list of allowed numbers for each block "
            "or stage, such as [[3, 5, 7]] * 20",
            path=strange[0],
        )


def _all_lists(entries: Sequence[Any]) -> bool:
    return all(
        isinstance(entry, list | tuple)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in entry)
        for entry in entries
    )
