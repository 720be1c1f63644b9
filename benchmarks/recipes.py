"""Recipes of the factories that the benchmarks measure; the bundled one is `geometry_settings(seed=0)`."""

from __future__ import annotations

from brickyard.factory.build import BuildSettings
from brickyard.train.joint import TrainSettings


def geometry_settings(seed: int, *, assembler: str = "additive") -> BuildSettings:
    """Return the recipe for `geometry`: four properties, all pairs of words but a fifth."""
    return BuildSettings(
        network="residual_cnn_small",
        assembler=assembler,
        backbone_steps=3000,
        backbone_rate=4e-3,
        unseen_share=0.2,
        train=TrainSettings(
            steps=1200,
            batch_size=64,
            learning_rate=8e-4,
            assembler_rate=5e-4,
            lowest_limit=0.15,
            anneal=0.2,
            seed=seed,
        ),
    )


def digits_settings(seed: int) -> BuildSettings:
    """Return the recipe for scikit-learn's digits."""
    return BuildSettings(
        network="residual_cnn_digits",
        backbone_steps=600,
        backbone_rate=4e-3,
        augment="shift",
        train=TrainSettings(
            steps=600,
            batch_size=64,
            learning_rate=5e-4,
            assembler_rate=2e-4,
            lowest_limit=0.15,
            anneal=0.3,
            seed=seed,
        ),
    )


def cifar_settings(seed: int, *, backbone_weights: str | None) -> BuildSettings:
    """Return the recipe for CIFAR-10: a ResNet-20 of known weights, or fresh if None."""
    return BuildSettings(
        network="resnet20",
        backbone_steps=800,
        backbone_rate=2e-3 if backbone_weights else 4e-3,
        backbone_weights=backbone_weights,
        augment="mirror_and_shift",
        train=TrainSettings(
            steps=500,
            batch_size=128,
            learning_rate=5e-4,
            assembler_rate=2e-4,
            lowest_limit=0.2,
            anneal=0.3,
            distill=0.5,
            seed=seed,
        ),
    )
