"""A file that lets the learning of a task go on after it was stopped, to the same bits.

One safetensors file, written whole or not at all; what the tensors are of stands in it as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from brickyard.continual.examples import Examples, count, take
from brickyard.continual.network import TaskNetwork
from brickyard.core.errors import TrainError
from brickyard.core.files import write_bytes

FORMAT_VERSION = 1
_PROBED = 32  # examples whose content tells data apart


class Checkpoint:
    """Where the learning of one task stands.

    Args:
        path: The file, which need not exist.
        identity: What decides the learning, JSON values.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(path), dict(identity)

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Keep a state in place of the one before.

        Args:
            tensors: Tensors by name.
            record: Further JSON values.
        """
        told = {"format_version": FORMAT_VERSION, "identity": self.identity, "record": dict(record)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        write_bytes(self.path, save(content, metadata={"state": json.dumps(told)}))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what `save` kept; None if there is none.

        Raises:
            TrainError: The file is of another learning, or is no such file.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as stream:
                told = json.loads((stream.metadata() or {})["state"])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise TrainError(f"{self.path} is no checkpoint of a task ({error}); remove it") from None
        if told.get("format_version") != FORMAT_VERSION:
            raise TrainError(f"{self.path} was written by another version; remove it and learn again")
        kept = told["identity"]
        if kept != self.identity:
            both = {**self.identity, **kept}
            name = next(key for key in both if kept.get(key) != self.identity.get(key))
            raise TrainError(
                f"{self.path} is of another run, {name}: it has {kept.get(name)}, this run "
                f"{self.identity.get(name)}; give the same arguments to go on, or remove it to begin anew"
            )
        return tensors, told["record"]

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def identity_of(network: TaskNetwork, name: str, examples: Examples, num_classes: int) -> dict[str, Any]:
    """Return what decides the learning of a task beside the settings.

    Args:
        network: The network before the task.
        name: Name of the task.
        examples: Its examples; their number and the first and last ones stand for all.
        num_classes: Number of classes.
    """
    number = count(examples)
    places = sorted({*range(min(number, _PROBED)), *range(max(0, number - _PROBED), number)})
    pools = (layer.pool for layer in network.layers.values())
    return {
        "task": name,
        "num_classes": num_classes,
        "examples": number,
        "content": _digest(iter(take(examples, places))),
        "earlier tasks": [record.name for record in network.records],
        "weights": _digest(pools),
    }


def _digest(tensors: Iterator[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
