"""A file that lets long work go on after it was stopped.

One safetensors file, written whole or not at all; what the tensors are of stands in it as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from brickyard.core.errors import BrickyardError, TrainError
from brickyard.core.files import write_bytes

FORMAT_VERSION = 1


class Checkpoint:
    """Where some work stands.

    Args:
        path: The file, which need not exist.
        identity: What decides the work, JSON values.
        work: What it is, for messages.
        error: What is raised when the file does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any],
        *,
        work: str,
        error: type[BrickyardError] = TrainError,
    ) -> None:
        self.path, self.work, self.error = Path(path), work, error
        self.identity = json.loads(json.dumps(dict(identity)))

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
            BrickyardError: The file is of other work, or is no such file; `error` says of what kind.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as stream:
                told = json.loads((stream.metadata() or {})["state"])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise self.error(f"{self.path} is no checkpoint of {self.work} ({error}); remove it") from None
        if told.get("format_version") != FORMAT_VERSION:
            raise self.error(f"{self.path} was written by another version; remove it and begin anew")
        kept = told["identity"]
        if kept != self.identity:
            both = {**self.identity, **kept}
            name = next(key for key in both if kept.get(key) != self.identity.get(key))
            raise self.error(
                f"{self.path} is of another run, {name}: it has {kept.get(name)}, this run "
                f"{self.identity.get(name)}; give the same arguments to go on, or remove it to begin anew"
            )
        return tensors, told["record"]

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def content_digest(tensors: Iterable[Tensor]) -> str:
    """Hash the numbers of tensors, for an identity."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
