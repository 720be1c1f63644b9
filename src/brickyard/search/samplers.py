"""Samplers by name, and what they are built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.samplers import BaseSampler, BruteForceSampler, NSGAIISampler, RandomSampler

from brickyard.core.registry import Registry
from brickyard.search.model import Features
from brickyard.search.sampler import Constraints, LinasSampler, Same
from brickyard.search.transfer import Lesson


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """What a sampler is built from.

    Attributes:
        seed: Seed of its draws.
        constraints: Gives the excesses of a finished trial; None without limits.
        encodings: Encodings that predictors may see; None for those of every space.
        reference: Worst values that count, one for each objective; None, for one or in place of all, to
            follow from the evaluations.
        startup: Evaluations before predictors are asked.
        batch_size: Points from one fit.
        warm_start: What an earlier study measured; `linas` learns from it.
        narrow: Whether `linas` narrows the domains, see `brickyard.search.narrow`.
        canonical: From parameters to those of a point that computes the same, for `linas`.
    """

    seed: int = 0
    constraints: Constraints | None = None
    encodings: Features | None = None
    reference: Sequence[float | None] | None = None
    startup: int = 15
    batch_size: int = 5
    warm_start: Lesson | None = None
    narrow: bool = False
    canonical: Same | None = None


SAMPLERS: Registry[Callable[[SamplerSettings], BaseSampler]] = Registry("samplers")
"""What builds a sampler, by name."""


@SAMPLERS.add("linas")
def _linas(settings: SamplerSettings) -> BaseSampler:
    return LinasSampler(
        startup=settings.startup,
        batch_size=settings.batch_size,
        encodings=settings.encodings,
        reference=settings.reference,
        constraints_func=settings.constraints,
        seed=settings.seed,
        warm_start=settings.warm_start,
        narrow=settings.narrow,
        canonical=settings.canonical,
    )


@SAMPLERS.add("nsga2")
def _nsga2(settings: SamplerSettings) -> BaseSampler:
    return NSGAIISampler(seed=settings.seed, constraints_func=settings.constraints)


@SAMPLERS.add("random")
def _random(settings: SamplerSettings) -> BaseSampler:
    return RandomSampler(seed=settings.seed)


@SAMPLERS.add("exhaustive")
def _exhaustive(settings: SamplerSettings) -> BaseSampler:
    return BruteForceSampler(seed=settings.seed)
