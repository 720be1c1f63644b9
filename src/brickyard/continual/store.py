"""A folder of tasks that grows by one task at a time; what is written once is never written again.

    manifest.json, weights.safetensors    the pool when the folder was made, and all that no task changes
    tasks/0000/ tasks/0001/ ...           one folder for each task, in the order in which they were learned
        manifest.json                     name, classes, arm, hashes; the hash of the manifest before it
        masks.bin                         the masks of all layers, entropy-coded
        task.safetensors                  the weights that the task trained, its biases, normalisation, head

A task's folder appears whole, by a rename, or not at all, so a process that is killed at any moment leaves
all earlier tasks as they were. Which weights a task trained follows from the masks up to its own, so only
their values are kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from brickyard.continual.coding import decode_bits, encode_bits, entropy
from brickyard.continual.layers import MaskedLayer, TaskBrick
from brickyard.continual.network import TaskNetwork, TaskRecord
from brickyard.continual.store_manifest import (
    AGAIN,
    FORMAT_VERSION,
    MASKS,
    ROOT,
    TASK,
    TENSORS,
    WEIGHTS,
    read_root,
    read_task,
)
from brickyard.core.checkpoint import content_digest
from brickyard.core.errors import ArtifactError
from brickyard.core.files import (
    new_folder,
    numbered_folders,
    sha256,
    sweep,
    write_bytes,
    write_manifest,
)
from brickyard.core.weights import distinct_state

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


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What the folder holds of a task: masks, and which weights it trained, flat, by layer; and tensors."""

    record: TaskRecord
    masks: dict[str, Tensor]
    trains: dict[str, Tensor]
    tensors: dict[str, Tensor]


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
        root = read_root(self.path)
        self.structure: dict[str, Any] = root["structure"]
        self.notes: dict[str, Any] = root["notes"]
        self._matched: tuple[weakref.ref[TaskNetwork], str] | None = None
        self._records(check_files=False)

    @classmethod
    def create(
        cls,
        path: str | Path,
        network: TaskNetwork,
        *,
        notes: Mapping[str, Any] | None = None,
        beside: Callable[[Path], None] | None = None,
    ) -> TaskFolder:
        """Write a network with the tasks that it has learned to a new folder, which appears whole.

        Args:
            path: Where the folder shall be.
            network: The network; left as it is.
            notes: What else is worth keeping, JSON values.
            beside: Writes what else shall lie in the folder of each task, see `append`.

        Raises:
            ArtifactError: Something is there already.
        """
        with new_folder(Path(path)) as place:
            write_bytes(place / WEIGHTS, save(_common_state(network)))
            told = {"structure": _structure(network), "notes": dict(notes or {})}
            write_manifest(place, format_version=FORMAT_VERSION, kind=ROOT, fields=told)
            (place / "tasks").mkdir()
            made = cls(place)
            made._matches(network)
            made.append(network, beside=beside)
        made.path = Path(path)
        return made

    def place(self, number: int) -> Path:
        """Return the folder of a task, which need not be there."""
        return self.path / "tasks" / f"{number:04d}"

    def __len__(self) -> int:
        """Return the number of tasks that are whole.

        Raises:
            ArtifactError: One before another is missing.
        """
        return len(numbered_folders(self.path / "tasks"))

    def _records(self, *, check_files: bool) -> tuple[TaskRecord, ...]:
        """Read and check the manifests of all tasks, and that each follows on the one before."""
        records: dict[str, TaskRecord] = {}
        before = self.path / "manifest.json"
        for place in numbered_folders(self.path / "tasks"):
            record, previous = read_task(place, check_files=check_files)
            if previous != sha256(before):
                raise ArtifactError(
                    f"{place} does not follow on {before}: it was learned on another network or after other "
                    f"tasks; {AGAIN}"
                )
            if record.name in records:
                raise ArtifactError(f"{place} is a second task {record.name!r}; {AGAIN}")
            records[record.name] = record
            before = place / "manifest.json"
        return tuple(records.values())

    def records(self) -> tuple[TaskRecord, ...]:
        """Return what is known of the tasks, in the order in which they were learned.

        Raises:
            ArtifactError: A file is missing or altered.
        """
        return self._records(check_files=True)

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
            tensors = _load_tensors(self.place(number) / TENSORS)
            trained = sum(t.nbytes for name, t in tensors.items() if name.startswith("trained."))
            found.append(
                Stored(
                    record=record,
                    mask_bits=8 * (self.place(number) / MASKS).stat().st_size / weights,
                    entropy=held,
                    trained_bytes=trained,
                    own_bytes=sum(tensor.nbytes for tensor in tensors.values()) - trained,
                )
            )
        return tuple(found)

    def append(self, network: TaskNetwork, *, beside: Callable[[Path], None] | None = None) -> None:
        """Write the tasks that the network has learned and the folder lacks.

        All that the folder holds is compared with the network, once: not again while the network is the one
        that it was compared with, was loaded into, or was made of.

        Args:
            network: The network, whose first tasks are those of the folder; left as it is.
            beside: Writes what else shall lie in the folder of each of these tasks, which it is given.

        Raises:
            ArtifactError: The folder is of another network or has other tasks.
        """
        self._check_structure(network)
        records = self._records(check_files=False)
        if tuple(network.records[: len(records)]) != records:
            raise ArtifactError(
                f"{self.path} has the tasks {[record.name for record in records]}, the network "
                f"{[record.name for record in network.records]}; load the folder into a fresh network first"
            )
        if self._matched != (weakref.ref(network), self._tip()):
            self._compare(network)
            self._matches(network)
        for number in range(len(records), len(network.records)):
            self._write(network, number, beside)
            self._matches(network)

    def _tip(self) -> str:
        """Return the hash of the last manifest, which stands for all before it."""
        places = numbered_folders(self.path / "tasks")
        return sha256((places[-1] if places else self.path) / "manifest.json")

    def _matches(self, network: TaskNetwork) -> None:
        """Note that the network has what the folder holds."""
        self._matched = weakref.ref(network), self._tip()

    def _write(self, network: TaskNetwork, number: int, beside: Callable[[Path], None] | None = None) -> None:
        before = self.place(number - 1) if number else self.path
        record = network.records[number]
        place = self.place(number)
        with new_folder(place) as folder:
            layers = [network.layers[path] for path in self.structure["layers"]]
            masks = [layer.mask(number).reshape(-1).cpu().numpy() for layer in layers]
            write_bytes(folder / MASKS, encode_bits(masks))
            write_bytes(folder / TENSORS, save({**_trained(network, number), **_own_state(network, number)}))
            if beside is not None:
                beside(folder)
            told = {"task": record.to_json(), "previous": sha256(before / "manifest.json")}
            write_manifest(folder, format_version=FORMAT_VERSION, kind=TASK, fields=told)
        sweep(place)

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
        common, contents = self._contents()
        before = {name: tensor.clone() for name, tensor in _common_state(network).items()}
        values, value, added = network.tasks.values, network.tasks.value, list[TaskBrick]()
        try:
            _fill(network, common)
            with torch.random.fork_rng([]):  # heads are drawn before they are filled
                for number, content in enumerate(contents):
                    try:
                        _add_task(network, content, added)
                    except RuntimeError as error:
                        raise ArtifactError(
                            f"{self.place(number) / TENSORS} does not fit task {content.record.name!r}: "
                            f"{error}; {AGAIN}"
                        ) from None
        except BaseException:
            for part in reversed(added):
                part.drop_task()
            for layer in network.layers.values():
                layer.taken.zero_()
            network.records.clear()
            network.tasks.values, network.tasks.value = values, value
            _fill(network, before)
            raise
        self._matches(network)

    def _contents(self) -> tuple[dict[str, Tensor], list[_Content]]:
        """Read and check everything: what no task has of its own, as it was at first, and the tasks."""
        read_root(self.path)
        common = _load_tensors(self.path / WEIGHTS)
        if {name: list(tensor.shape) for name, tensor in common.items()} != self.structure["tensors"]:
            raise ArtifactError(f"{self.path / WEIGHTS} has other tensors than manifest.json tells; {AGAIN}")
        sizes: dict[str, list[int]] = self.structure["layers"]
        taken = {path: torch.zeros(count, dtype=torch.bool) for path, (count, _) in sizes.items()}
        contents = []
        for number, record in enumerate(self.records()):
            place = self.place(number)
            try:
                bits = decode_bits(
                    (place / MASKS).read_bytes(), [(count, keep) for count, keep in sizes.values()]
                )
            except ArtifactError as error:
                raise ArtifactError(f"{place / MASKS}: {error}") from None
            masks = {path: torch.from_numpy(mask) for path, mask in zip(sizes, bits, strict=True)}
            trains = {} if record.arm == "supsup" else dict(masks)
            if record.arm == "exssnet":
                trains = {path: mask & ~taken[path] for path, mask in masks.items()}
            tensors = _load_tensors(place / TENSORS)
            own = {
                name: list(tensor.shape) for name, tensor in tensors.items() if name.startswith("trained.")
            }
            if own != {f"trained.{path}": [int(places.sum())] for path, places in trains.items()}:
                raise ArtifactError(
                    f"{place / TENSORS} has not the weights that arm {record.arm} trains under these masks; "
                    f"{AGAIN}"
                )
            for path, mask in masks.items():
                taken[path] |= mask
            contents.append(_Content(record=record, masks=masks, trains=trains, tensors=tensors))
        return common, contents

    def _compare(self, network: TaskNetwork) -> None:
        """Refuse a network that differs from what the folder holds, but for tasks that the folder lacks."""
        common, contents = self._contents()

        def check(what: str, own: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
            for name in [*kept, *(name for name in own if name not in kept)]:
                if name not in kept or name not in own or not _same(own[name], kept[name]):
                    raise ArtifactError(
                        f"{self.path} is of another network: {what}, {name}, differs; load the folder into a "
                        "fresh network first, or make another folder of this one"
                    )

        for number, content in enumerate(contents):
            name = content.record.name
            masks = {path: layer.mask(number).reshape(-1) for path, layer in network.layers.items()}
            check(f"the mask of task {name!r}", masks, content.masks)
            kept = {name: t for name, t in content.tensors.items() if not name.startswith("trained.")}
            check(f"what task {name!r} has of its own", _own_state(network, number), kept)
        own = _common_state(network)
        for path, layer in network.layers.items():
            name = f"{path}.pool" if path else "pool"
            pool = common[name].reshape(-1).clone()
            for content in contents:
                if path in content.trains:
                    pool[content.trains[path]] = content.tensors[f"trained.{path}"].to(pool)
            for number in range(len(contents), len(network.records)):
                later = _trains(network, layer, number).reshape(-1).cpu()
                pool[later] = own[name].reshape(-1).cpu()[later].to(pool)
            common[name] = pool.reshape(layer.pool.shape)
        check("what all tasks share", own, common)

    def _check_structure(self, network: TaskNetwork) -> None:
        own = _structure(network)
        for key, wanted in self.structure.items():
            if own[key] != wanted:
                raise ArtifactError(
                    f"{self.path} is of another network, {key}: {_difference(wanted, own[key])}; make the "
                    "network by masked(...) of the same module with the same arguments"
                )


class FirstTask:
    """Where a folder of tasks shall be: it appears, whole, with the first task, and grows from then on.

    Args:
        path: Where the folder shall be.
        notes: As for `TaskFolder.create`.
    """

    def __init__(self, path: str | Path, *, notes: Mapping[str, Any] | None = None) -> None:
        self.path, self.notes = Path(path), notes
        self.folder: TaskFolder | None = None

    def append(self, network: TaskNetwork, *, beside: Callable[[Path], None] | None = None) -> None:
        """Write the tasks that the network has learned; see `TaskFolder.append`."""
        if self.folder is not None:
            self.folder.append(network, beside=beside)
        elif network.records:
            self.folder = TaskFolder.create(self.path, network, notes=self.notes, beside=beside)
            sweep(self.path)


def _load_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ArtifactError(f"{file} cannot be read as safetensors ({error}); {AGAIN}") from None


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


def _same(own: Tensor, kept: Tensor) -> bool:
    """Tell whether a tensor of a network holds the bits that a kept one would give it."""
    return own.shape == kept.shape and content_digest([own]) == content_digest([kept.to(own.dtype)])


def _fill(network: TaskNetwork, common: Mapping[str, Tensor]) -> None:
    """Give a network the tensors that belong to no task."""
    state = network.network.root.state_dict()
    for name, tensor in common.items():
        state[name].copy_(tensor)


def _trains(network: TaskNetwork, layer: MaskedLayer, number: int) -> Tensor:
    """Return which weights of a layer a learned task trained."""
    arm, mask = network.records[number].arm, layer.mask(number)
    if arm == "supsup":
        return torch.zeros_like(mask)
    for earlier in range(number if arm == "exssnet" else 0):
        mask &= ~layer.mask(earlier)
    return mask


def _trained(network: TaskNetwork, number: int) -> dict[str, Tensor]:
    """Return the weights that a task trained, in the order of the pool, by layer."""
    if network.records[number].arm == "supsup":
        return {}
    return {
        f"trained.{path}": layer.pool.detach()[_trains(network, layer, number)].cpu()
        for path, layer in network.layers.items()
    }


def _own_state(network: TaskNetwork, number: int) -> dict[str, Tensor]:
    return {
        f"own.{path}.{name}": tensor.contiguous().cpu()
        for path, part in network.parts.items()
        for name, tensor in part.task_state(number).items()
    }


def _add_task(network: TaskNetwork, content: _Content, added: list[TaskBrick]) -> None:
    """Give a network a task; parts that it was added to are noted.

    Raises:
        RuntimeError: The tensors do not fit.
    """
    record, tensors, number = content.record, content.tensors, len(network.records)
    head = network.head
    if isinstance(head, MaskedLayer) and record.num_classes > head.pool.shape[0]:
        raise RuntimeError(f"{record.num_classes} classes are more than the {head.pool.shape[0]} of the head")
    network.tasks.add(record.name)
    for path, part in network.parts.items():
        part.add_task(num_classes=record.num_classes)
        added.append(part)
        prefix = f"own.{path}."
        part.load_task_state(
            {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
        )
    known = {*_own_state(network, number), *(f"trained.{path}" for path in content.trains)}
    if surplus := sorted(set(tensors) - known):
        raise RuntimeError(f"no part of the network has {', '.join(surplus)}")
    for path, layer in network.layers.items():
        layer.set_mask(content.masks[path].reshape(layer.pool.shape).to(layer.pool.device))
        if path in content.trains:
            layer.load_weights(tensors[f"trained.{path}"], exclusive=record.arm == "exssnet")
        layer.close_task()
    network.network.eval().requires_grad_(False)
    network.records.append(record)
