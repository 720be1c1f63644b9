"""A folder of tasks that grows by one task at a time; what is written once is never written again.

    manifest.json, weights.safetensors    the pool before the first task, and all that no task changes
    tasks/0000/ tasks/0001/ ...           one folder for each task, in the order in which they were learned
        manifest.json                     name, classes, arm, hashes; the hash of the manifest before it
        masks.bin                         the masks of all layers, entropy-coded
        task.safetensors                  the weights that the task trained, its biases, normalisation, head

A task's folder appears whole, by a rename, or not at all, so a process that is killed at any moment leaves
all earlier tasks as they were. Which weights a task trained follows from the masks up to its own, so only
their values are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from brickyard.continual.coding import decode_bits, encode_bits, entropy
from brickyard.continual.network import TaskNetwork, TaskRecord
from brickyard.core.errors import ArtifactError
from brickyard.core.files import new_folder, read_json, read_manifest, sha256, write_bytes, write_manifest
from brickyard.core.weights import distinct_state

FORMAT_VERSION = 1
_ROOT, _TASK = "task network", "task"
_COMMON = ("pool", "fresh_bias", "fresh")  # what the leaves that read the task have in common for all tasks


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a task takes in the folder.

    Attributes:
        record: What is known of the task.
        mask_bits: Bits of the file of masks for each weight of the pool.
        entropy: Bits for each weight that masks of this density hold, H(k).
        trained_bytes: Bytes of the weights that the task trained.
        own_bytes: Bytes of its biases, normalisation and own head.
    """

    record: TaskRecord
    mask_bits: float
    entropy: float
    trained_bytes: int
    own_bytes: int


class TaskFolder:
    """A folder that holds a network's pool and its tasks.

    Args:
        path: The folder, which exists; see `create`.

    Attributes:
        structure: What networks must agree on with the folder.
        notes: What whoever made it wanted kept, JSON values.

    Raises:
        ArtifactError: It is no such folder, or a file is missing or altered.

    Example:
        >>> folder = TaskFolder.create("tasks", network)
        >>> Learner(network, settings=settings, folder=folder).learn("first", examples, num_classes=10)
        >>> again = masked(module, input_shape=(784,))
        >>> TaskFolder("tasks").load_(again)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        root = self._root()
        self.structure: dict[str, Any] = root["structure"]
        self.notes: dict[str, Any] = root.get("notes", {})

    @classmethod
    def create(
        cls, path: str | Path, network: TaskNetwork, *, notes: Mapping[str, Any] | None = None
    ) -> TaskFolder:
        """Write a network with the tasks that it has learned to a new folder.

        Args:
            path: Where the folder shall be.
            network: The network; left as it is.
            notes: What else is worth keeping, JSON values.

        Raises:
            ArtifactError: Something is there already.
        """
        with new_folder(Path(path)) as folder:
            save_file(_common_state(network), folder / "weights.safetensors")
            fields = {"structure": _structure(network), "notes": dict(notes or {})}
            write_manifest(folder, format_version=FORMAT_VERSION, kind=_ROOT, fields=fields)
            (folder / "tasks").mkdir()
        made = cls(path)
        made.append(network)
        return made

    def _root(self) -> dict[str, Any]:
        return read_manifest(self.path, format_version=FORMAT_VERSION, kind=_ROOT)

    def place(self, number: int) -> Path:
        """Return the folder of a task, which need not be there."""
        return self.path / "tasks" / f"{number:04d}"

    def __len__(self) -> int:
        """Return the number of tasks that are whole."""
        number = 0
        while self.place(number).is_dir():
            number += 1
        return number

    def _manifests(self) -> list[dict[str, Any]]:
        """Read the manifests of all tasks and check every file, and that each follows on the one before."""
        manifests, before = [], self.path / "manifest.json"
        for number in range(len(self)):
            place = self.place(number)
            manifest = read_manifest(place, format_version=FORMAT_VERSION, kind=_TASK)
            if manifest["previous"] != sha256(before):
                raise ArtifactError(
                    f"{place} does not follow on {before}: it was learned on another network or after other "
                    "tasks; copy the whole folder again"
                )
            manifests.append(manifest)
            before = place / "manifest.json"
        return manifests

    def records(self) -> tuple[TaskRecord, ...]:
        """Return what is known of the tasks, in the order in which they were learned.

        Raises:
            ArtifactError: A file is missing or altered.
        """
        return tuple(TaskRecord(**manifest["task"]) for manifest in self._manifests())

    def stored(self) -> tuple[Stored, ...]:
        """Return what each task takes.

        Raises:
            ArtifactError: A file is missing or altered.
        """
        sizes: dict[str, list[int]] = self.structure["layers"]  # weights, weights that a mask keeps
        weights = sum(count for count, _ in sizes.values())
        held = sum(count * entropy(keep / count) for count, keep in sizes.values()) / weights
        found = []
        for number, record in enumerate(self.records()):
            tensors = load_file(self.place(number) / "task.safetensors")
            trained = sum(t.nbytes for name, t in tensors.items() if name.startswith("trained."))
            found.append(
                Stored(
                    record=record,
                    mask_bits=8 * (self.place(number) / "masks.bin").stat().st_size / weights,
                    entropy=held,
                    trained_bytes=trained,
                    own_bytes=sum(tensor.nbytes for tensor in tensors.values()) - trained,
                )
            )
        return tuple(found)

    def append(self, network: TaskNetwork, *, beside: Callable[[Path], None] | None = None) -> None:
        """Write the tasks that the network has learned and the folder lacks.

        Args:
            network: The network, whose first tasks are those of the folder; left as it is.
            beside: Writes what else shall lie in the folder of each of these tasks, which it is given.

        Raises:
            ArtifactError: The folder is of another network or has other tasks.
        """
        self._check_structure(network)
        manifests = [read_json(self.place(number) / "manifest.json") for number in range(len(self))]
        records = tuple(TaskRecord(**manifest["task"]) for manifest in manifests)
        if tuple(network.records[: len(records)]) != records:
            raise ArtifactError(
                f"{self.path} has the tasks {[record.name for record in records]}, the network "
                f"{[record.name for record in network.records]}; load the folder into a fresh network first"
            )
        for number in range(len(records), len(network.records)):
            self._write(network, number, beside)

    def _write(self, network: TaskNetwork, number: int, beside: Callable[[Path], None] | None = None) -> None:
        before = self.place(number - 1) if number else self.path
        record = network.records[number]
        place = self.place(number)
        with new_folder(place) as folder:
            masks = [layer.mask(number).reshape(-1).cpu().numpy() for layer in network.layers.values()]
            write_bytes(folder / "masks.bin", encode_bits(masks))
            tensors = {**_trained(network, number), **_own_state(network, number)}
            save_file(tensors, folder / "task.safetensors")
            if beside is not None:
                beside(folder)
            fields = {"task": record.to_json(), "previous": sha256(before / "manifest.json")}
            write_manifest(folder, format_version=FORMAT_VERSION, kind=_TASK, fields=fields)
        for left in place.parent.glob(f".{place.name}.*"):  # of a process that was killed; of no use any more
            shutil.rmtree(left, ignore_errors=True)

    def load_(self, network: TaskNetwork) -> None:
        """Fill a network without tasks with the pool and the tasks of the folder.

        Args:
            network: Made by `masked` of the same module with the same arguments; changed.

        Raises:
            ArtifactError: The network is another one or has tasks, or a file is missing or altered; then
                nothing is changed.
        """
        self._check_structure(network)
        if network.records:
            raise ArtifactError(
                f"the network has {len(network.records)} tasks; load {self.path} into a fresh one"
            )
        self._root()
        contents = [self._read(number, manifest) for number, manifest in enumerate(self._manifests())]
        state = network.network.root.state_dict()
        for name, tensor in load_file(self.path / "weights.safetensors").items():
            state[name].copy_(tensor)
        with torch.random.fork_rng([]):  # heads are drawn before they are filled
            for record, masks, tensors in contents:
                _add_task(network, record, masks, tensors)

    def _read(
        self, number: int, manifest: Mapping[str, Any]
    ) -> tuple[TaskRecord, list[np.ndarray[Any, Any]], dict[str, Tensor]]:
        place = self.place(number)
        sizes = [(count, keep) for count, keep in self.structure["layers"].values()]
        masks = decode_bits((place / "masks.bin").read_bytes(), sizes)
        return TaskRecord(**manifest["task"]), masks, load_file(place / "task.safetensors")

    def _check_structure(self, network: TaskNetwork) -> None:
        own = _structure(network)
        for key, wanted in self.structure.items():
            if own[key] != wanted:
                raise ArtifactError(
                    f"{self.path} is of another network, {key}: {_difference(wanted, own[key])}; make the "
                    "network by masked(...) of the same module with the same arguments"
                )


def _difference(kept: Any, own: Any) -> str:
    """Say where two records differ, at one place if they are mappings."""
    if isinstance(kept, dict):
        name = min(name for name in {*kept, *own} if kept.get(name) != own.get(name))
        kept, own = f"{name} {kept.get(name)}", f"{name} {own.get(name)}"
    return f"the folder has {kept}, the network {own}"


def _structure(network: TaskNetwork) -> dict[str, Any]:
    """Return what two networks must agree on so that masks and weights of one fit the other."""
    layers = {path: [layer.pool.numel(), layer.keep] for path, layer in network.layers.items()}
    tensors = {name: list(tensor.shape) for name, tensor in _common_state(network).items()}
    return {"head": network.head_path, "layers": layers, "tensors": tensors}


def _common_state(network: TaskNetwork) -> dict[str, Tensor]:
    """Return the tensors that belong to no task, by name in the root's state dict."""
    state = distinct_state(network.network.root)
    for path in network.parts:
        prefix = f"{path}." if path else ""
        for name in [name for name in state if name.startswith(prefix)]:
            if name[len(prefix) :].split(".")[0] not in _COMMON:
                del state[name]
    return state


def _trained(network: TaskNetwork, number: int) -> dict[str, Tensor]:
    """Return the weights that a task trained, in the order of the pool, by layer."""
    arm = network.records[number].arm
    if arm == "supsup":
        return {}
    found = {}
    for path, layer in network.layers.items():
        mask = layer.mask(number)
        for earlier in range(number if arm == "exssnet" else 0):
            mask &= ~layer.mask(earlier)
        found[f"trained.{path}"] = layer.pool.detach()[mask].cpu()
    return found


def _own_state(network: TaskNetwork, number: int) -> dict[str, Tensor]:
    return {
        f"own.{path}.{name}": tensor.contiguous().cpu()
        for path, part in network.parts.items()
        for name, tensor in part.task_state(number).items()
    }


def _add_task(
    network: TaskNetwork,
    record: TaskRecord,
    masks: list[np.ndarray[Any, Any]],
    tensors: Mapping[str, Tensor],
) -> None:
    network.tasks.add(record.name)
    for path, part in network.parts.items():
        part.add_task(num_classes=record.num_classes)
        prefix = f"own.{path}."
        part.load_task_state(
            {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        )
    for mask, (path, layer) in zip(masks, network.layers.items(), strict=True):
        layer.set_mask(torch.from_numpy(mask).reshape(layer.pool.shape).to(layer.pool.device))
        if record.arm != "supsup":
            layer.load_weights(tensors[f"trained.{path}"], exclusive=record.arm == "exssnet")
        layer.close_task()
    network.network.eval().requires_grad_(False)
    network.records.append(record)
