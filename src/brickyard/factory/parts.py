"""Writes what every factory folder holds, but for its manifest and the record of its training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_numpy
from safetensors.torch import save as save_torch

from brickyard.assemble.assembly import Assembly
from brickyard.core.files import write_bytes, write_json
from brickyard.core.network import Network
from brickyard.data.source import DataSource
from brickyard.export.blueprint import Blueprint
from brickyard.factory.folder import FORMAT_VERSION

_CALIBRATION, _HELDOUT = 128, 1000  # pictures that are kept


def write_parts(
    folder: Path,
    *,
    source: DataSource,
    network: Network,
    assembly: Assembly,
    blueprint: Blueprint,
    curve: Mapping[str, Any],
    provenance: Mapping[str, Any],
    seed: int,
) -> None:
    """Write network, assembler, words, preprocessing, quality and pictures of a factory.

    Args:
        folder: Where to; it exists.
        source: The data, of which 128 pictures for calibration and up to 1,000 held-out ones are kept.
        network: The network.
        assembly: Its assembler.
        blueprint: Its exported graph.
        curve: Quality at each limit, as `brickyard.factory.quality.measure_curve` gives it.
        provenance: Where it all comes from, JSON values.
        seed: Seed of the choice of pictures.
    """
    write_json(
        folder / "network.json",
        {
            "format_version": FORMAT_VERSION,
            "builder": network.builder,
            "arguments": network.arguments,
            **({} if network.norm_sets is None else {"norm_sets": network.norm_sets.to_json()}),
            "space": hashlib.sha256(json.dumps(network.space.to_json()).encode()).hexdigest(),
            "provenance": dict(provenance),
        },
    )
    state = {key: value.contiguous() for key, value in network.root.state_dict().items()}
    write_bytes(folder / "model.safetensors", save_torch(state))
    write_bytes(folder / "assembler.safetensors", save_numpy(dict(assembly.weights)))
    write_json(
        folder / "assembler.json",
        {
            "kind": assembly.kind,
            "fixed_cost": assembly.fixed_cost,
            "costs": [float(cost) for cost in assembly.costs],
        },
    )
    write_bytes(folder / "vocabulary.json", source.vocabulary.to_json().encode())
    write_bytes(folder / "preprocess.json", source.preprocess.to_json().encode())
    write_json(folder / "quality.json", curve)
    rng = np.random.default_rng(seed)
    pick = rng.permutation(len(source.heldout))
    source.train.subset(rng.permutation(len(source.train))[:_CALIBRATION]).save(folder / "calibration.npz")
    if source.geometry is None:
        source.heldout.subset(np.sort(pick[:_HELDOUT])).save(folder / "heldout.npz")
    blueprint.save(folder)
