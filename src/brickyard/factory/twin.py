"""The plain torch twin of a made model, and the modular network of a factory; needs torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from brickyard.bricks.norm import fold_norms_
from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_json, read_manifest
from brickyard.core.network import Network
from brickyard.core.norm_sets import NormSets
from brickyard.core.weights import load_distinct_state_
from brickyard.factory.folder import FORMAT_VERSION
from brickyard.networks import build


def load_network(folder: Path) -> Network:
    """Build the modular network of a factory folder with its trained weights.

    Args:
        folder: The factory folder.

    Returns:
        The network in evaluation mode, everything on.

    Raises:
        ArtifactError: The weights do not fit the network.
    """
    return _filled(_build(read_json(folder / "network.json"), folder), folder)


def load_model(folder: str | Path, *, network: Network | None = None) -> nn.Module:
    """Load the plain torch twin of a made model.

    Args:
        folder: The model folder; its hashes are verified.
        network: The factory's network, where it is the user's own and not a registered one;
            `brickyard.modularize` makes it again. Its weights do not matter; it is put in evaluation mode.

    Returns:
        A module without bricks, in evaluation mode, that computes what `model.onnx` computes.

    Raises:
        ArtifactError: The folder is no model folder, or is altered.
    """
    path = Path(folder)
    read_manifest(path, format_version=FORMAT_VERSION, kind="model")
    record = read_json(path / "config.json")
    network = (network or _build(record, path)).eval()
    twin = network.extract(record["config"])
    fold_norms_(twin, network.norm_pairs)
    _load(twin, path / "model.safetensors")
    return twin.eval()


class Twins:
    """Builds the plain torch twins of a factory's subnets.

    Args:
        folder: The factory folder.
        network: Its network, left as it is, where it is the user's own and not a registered one.

    Raises:
        ArtifactError: The network is the user's own and was not given, or the weights do not fit it.
    """

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        if network is None:
            self._network = load_network(folder)
        else:
            self._network = _filled(copy.deepcopy(network), folder)

    def __call__(self, config: Mapping[str, Any]) -> nn.Module:
        """Build the twin of a config, in evaluation mode, with the factory's weights."""
        twin = self._network.extract(config).eval()
        fold_norms_(twin, self._network.norm_pairs)
        return twin


def _build(record: dict[str, Any], folder: Path) -> Network:
    if not record["builder"]:
        raise ArtifactError(
            f"the network behind {folder} is no registered one; its code is not in the folder. Make it again "
            "with brickyard.modularize and hand it in as `network`; model.onnx needs none of this"
        )
    return build(record["builder"], **record["arguments"])


def _filled(network: Network, folder: Path) -> Network:
    """Give a network the norm sets and the weights of a factory folder."""
    sets = read_json(folder / "network.json").get("norm_sets")
    if sets is not None and network.norm_sets is None:
        network.add_norm_sets(NormSets.from_json(sets))
    _load(network.root, folder / "model.safetensors")
    return network.eval()


def _load(module: nn.Module, weights: Path) -> None:
    try:
        load_distinct_state_(module, load_file(weights))
    except RuntimeError as error:
        raise ArtifactError(f"{weights} does not fit the network beside it: {error}") from None
