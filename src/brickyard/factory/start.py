"""The network that a build starts from, and whether it fits the data; needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from brickyard.core.errors import MissingExtraError, TrainError
from brickyard.core.network import Network
from brickyard.core.norm_sets import NormSets
from brickyard.core.space import CLASSES, block_subsets
from brickyard.data.source import DataSource
from brickyard.export.blueprint import Blueprint
from brickyard.export.whole import check_norms_fold
from brickyard.factory.precision import can_rate
from brickyard.networks import build
from brickyard.networks.detection import DETECTORS, OUTPUTS
from brickyard.train.augment import AUGMENTATIONS, BOX_AUGMENTATIONS

if TYPE_CHECKING:
    from brickyard.factory.build import BuildSettings


def start_network(source: DataSource, settings: BuildSettings, own: Network | None) -> Network:
    """Build the network of a build, or check the user's own.

    Args:
        source: The data.
        settings: The build.
        own: Network of the user's own; None for the registered one that the settings name.

    Returns:
        The network, which fits the data.

    Raises:
        TrainError: Network, weights, augmentation and data do not fit.
        MissingExtraError: A detector's quality cannot be measured when it is trained.
    """
    network = _network(source, settings) if own is None else _own_network(own, source)
    _check_job(network, source, settings)
    return network


def brick_costs(blueprint: Blueprint) -> tuple[npt.NDArray[np.float32], float]:
    """Return the share of all MACs of each brick, and the share that is always on."""
    whole = blueprint.count(blueprint.space.largest()).macs
    parts = [blueprint.macs_per_group(subset.name) for subset in block_subsets(blueprint.space)]
    costs = np.concatenate(parts).astype(np.float64) / whole
    return costs.astype(np.float32), float(1 - costs.sum())


def add_norm_sets(
    network: Network, edges: tuple[float, ...], costs: npt.NDArray[np.float32], fixed_cost: float
) -> None:
    """Let subnets of different size normalise by numbers of their own.

    Args:
        network: The network, changed.
        edges: Descending shares of all MACs between the sets.
        costs: Share of each brick, `[bricks]`.
        fixed_cost: Share that is always on.

    Raises:
        ConfigError: The edges do not descend, or do not lie in (0, 1].
        ExportError: The network normalises where that cannot be folded into a convolution.
    """
    check_norms_fold(network)
    subsets = block_subsets(network.space)
    parts = np.split(costs, np.cumsum([subset.count for subset in subsets])[:-1])
    shares = {subset.name: tuple(part.tolist()) for subset, part in zip(subsets, parts, strict=True)}
    network.add_norm_sets(NormSets(edges, shares, fixed_cost))


def _network(source: DataSource, settings: BuildSettings) -> Network:
    kind = "presence" if source.vocabulary.kind == "properties" else "classes"
    height, width = source.preprocess.shape[1:]
    square = height == width
    if not square and settings.network not in DETECTORS:
        raise TrainError(
            f"pictures are {height} x {width}; this network needs square ones, set a size. Others fit "
            + ", ".join(DETECTORS)
        )
    network = build(
        settings.network,
        num_outputs=len(source.vocabulary.words),
        head_kind=kind,
        in_channels=source.preprocess.channels,
        image_size=height if square else [height, width],
    )
    if settings.backbone_weights is not None:
        state = load_file(settings.backbone_weights)
        expected = network.root.state_dict()
        state = (
            {key: state.get(key, value) for key, value in expected.items()}
            if set(state) <= set(expected)
            else state
        )
        try:
            network.root.load_state_dict(state)
        except RuntimeError as error:
            raise TrainError(
                f"{settings.backbone_weights} does not fit {settings.network}: {error}"
            ) from None
    return network


def _check_job(network: Network, source: DataSource, settings: BuildSettings) -> None:
    """Check that data, network and augmentation are for the same job: to classify, or to detect."""
    detects = network.outputs == OUTPUTS
    table: Mapping[str, object] = BOX_AUGMENTATIONS if detects else AUGMENTATIONS
    if settings.augment not in table:
        raise TrainError(
            f"augment = {settings.augment!r} does not fit this network, which "
            f"{'detects' if detects else 'classifies'}; allowed: {', '.join(table)}"
        )
    if detects and not can_rate():
        raise MissingExtraError("pycocotools", extra="detection")
    if detects and source.train.boxes is None:
        raise TrainError(
            f"{settings.network} is a detector, and {source.name} has no boxes; load the data for "
            "detection, or choose a network that classifies"
        )
    if not detects and source.vocabulary.kind == "classes" and source.train.boxes is not None:
        raise TrainError(f"{source.name} has boxes of classes; choose a detector: {', '.join(DETECTORS)}")


def _own_network(network: Network, source: DataSource) -> Network:
    """Check that a network of the user's own takes the data's pictures and scores their classes."""
    if network.input_shape != source.preprocess.shape:
        raise TrainError(
            f"the network takes pictures of shape {network.input_shape}, the data have "
            f"{source.preprocess.shape}; load the data with the network's size"
        )
    words = len(source.vocabulary.words)
    scored = network.space[CLASSES].width if CLASSES in network.space else None
    if source.vocabulary.kind != "classes" or scored != words:
        raise TrainError(
            f"the data have {words} {source.vocabulary.kind}, the network "
            + ("scores no classes" if scored is None else f"scores {scored} classes")
            + "; a network of your own needs one output for each class, in the order of the data"
        )
    return network
