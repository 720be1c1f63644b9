"""The plain torch twin of a made model, and the modular network of a factory; needs torch."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from brickyard.bricks.norm import fold_norms_
from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_json, read_manifest
from brickyard.core.network import Network
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
    record = read_json(folder / "network.json")
    network = build(record["builder"], **record["arguments"])
    _load(network.root, folder / "model.safetensors")
    return network.eval()


def load_model(folder: str | Path) -> nn.Module:
    """Load the plain torch twin of a made model.

    Args:
        folder: The model folder; its hashes are verified.

    Returns:
        A module without bricks, in evaluation mode, that computes what `model.onnx` computes.

    Raises:
        ArtifactError: The folder is no model folder, or is altered.
    """
    path = Path(folder)
    read_manifest(path, format_version=FORMAT_VERSION, kind="model")
    record = read_json(path / "config.json")
    network = build(record["builder"], **record["arguments"]).eval()
    fold_norms_(network.root)
    twin = network.extract(record["config"])
    _load(twin, path / "model.safetensors")
    return twin.eval()


def _load(module: nn.Module, weights: Path) -> None:
    try:
        module.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise ArtifactError(f"{weights} does not fit the network beside it: {error}") from None
