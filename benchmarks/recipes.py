"""Recipes of the factories and supernets that the benchmarks measure.

The bundled factory is `geometry_settings(seed=0)`.
"""

from __future__ import annotations

from brickyard.factory.build import BuildSettings
from brickyard.factory.supernet_build import SupernetBuild
from brickyard.train.joint import TrainSettings
from brickyard.train.supernet import SupernetSettings


def geometry_settings(seed: int, *, assembler: str = "additive") -> BuildSettings:
    """Return the recipe for `geometry`: four properties, all pairs of words but a fifth; the defaults."""
    return BuildSettings(network="residual_cnn_small", assembler=assembler, train=TrainSettings(seed=seed))


def digits_settings(seed: int) -> BuildSettings:
    """Return the recipe for scikit-learn's digits."""
    return BuildSettings(
        network="residual_cnn_digits",
        backbone_steps=1500,
        augment="shift",
        train=TrainSettings(steps=300, lowest_limit=0.15, seed=seed),
    )


TUNING_STEPS, TUNING_RATE = 780, 2e-3  # of the ResNet-56 that is fine-tuned whole before anything else


def resnet56_settings(seed: int) -> BuildSettings:
    """Return the recipe for CIFAR-10 from the fine-tuned ResNet-56, modularized: five epochs.

    The peer that is trained on with everything on takes as many.
    """
    return BuildSettings(
        network="resnet56",
        backbone_steps=1560,
        backbone_rate=1e-3,
        augment="mirror_and_shift",
        ranking="fisher",
        norm_sets=(1.0, 0.6),
        train=TrainSettings(
            steps=390,
            batch_size=128,
            lowest_limit=0.25,
            whole_share=0.3,
            anneal=0.2,
            distill=1.0,
            precision="bf16",
            seed=seed,
        ),
    )


def cifar_settings(seed: int, *, backbone_weights: str | None) -> BuildSettings:
    """Return the recipe for CIFAR-10: a ResNet-20 of known weights, or fresh if None."""
    return BuildSettings(
        network="resnet20",
        backbone_steps=1500,
        backbone_rate=2e-3 if backbone_weights else 4e-3,
        backbone_weights=backbone_weights,
        augment="mirror_and_shift",
        train=TrainSettings(
            steps=300, batch_size=128, lowest_limit=0.2, anneal=0.3, distill=0.5, precision="bf16", seed=seed
        ),
    )


# Each takes 10 to 50 minutes on one core of a machine of 2026 (AVX-512).


def supernet_mobile(seed: int) -> SupernetBuild:
    """Return the recipe for the MobileNetV3-style supernet on Fashion-MNIST: 5.3 epochs.

    7,000 of the 10,000 test pictures are kept for searches; 3,000 are left to judge what those found.
    """
    return SupernetBuild(
        network="ofa_mobile_small",
        augment="mirror_and_shift",
        heldout_count=7000,
        train=SupernetSettings(steps=5000, batch_size=64, learning_rate=2e-3, seed=seed),
    )


def supernet_resnet(seed: int) -> SupernetBuild:
    """Return the recipe for the ResNet-style supernet on CIFAR-10: 5.8 epochs."""
    return SupernetBuild(
        network="ofa_resnet_small",
        augment="mirror_and_shift",
        train=SupernetSettings(steps=4500, batch_size=64, learning_rate=2e-3, seed=seed),
    )


def supernet_encoder(seed: int) -> SupernetBuild:
    """Return the recipe for the encoder supernet on CLINC150: 21 epochs; all of the test set is kept."""
    return SupernetBuild(
        network="text_encoder_tiny",
        vocab_size=1700,
        max_tokens=32,
        heldout_count=4500,
        train=SupernetSettings(steps=5000, batch_size=64, learning_rate=1e-3, seed=seed),
    )


def supernet_translation(seed: int) -> SupernetBuild:
    """Return the recipe for the translation supernet on Multi30k, English to German: 9.9 epochs."""
    return SupernetBuild(
        network="translation_small",
        vocab_size=4000,
        max_tokens=64,
        train=SupernetSettings(steps=4500, batch_size=64, learning_rate=2e-3, random_configs=2, seed=seed),
    )
