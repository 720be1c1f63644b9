"""Manifests of a folder of tasks: what is in them, and that nothing else is."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from brickyard.continual.network import Arm, TaskRecord
from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_manifest

FORMAT_VERSION = 1
ROOT, TASK = "task network", "task"
"""Kinds of the manifests of a folder and of a task in it."""
WEIGHTS, MASKS, TENSORS = "weights.safetensors", "masks.bin", "task.safetensors"
"""Files of a folder, and of a task in it."""
AGAIN = "copy the whole folder again"
"""What to do about damage."""


def _read(folder: Path, *, kind: str, names: tuple[str, ...], files: tuple[str, ...], **how: Any) -> Any:
    """Read a manifest that has these fields and no others, and the hashes of these files."""
    manifest = read_manifest(folder, format_version=FORMAT_VERSION, kind=kind, **how)
    found = {*manifest} - {"kind", "format_version", "sha256"}
    if found != set(names):
        raise ArtifactError(
            f"{folder}/manifest.json has the fields {', '.join(sorted(found)) or 'none'}; expected "
            f"{', '.join(names)}; {AGAIN}"
        )
    lost = next((name for name in files if name not in manifest["sha256"]), None)
    if lost is not None:
        raise ArtifactError(f"{folder}/manifest.json has no hash of {lost}; {AGAIN}")
    return manifest


def read_root(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of a folder of tasks.

    Args:
        folder: The folder.

    Raises:
        ArtifactError: It is no such folder, or the manifest or the file of weights is damaged.
    """
    root: dict[str, Any] = _read(folder, kind=ROOT, names=("structure", "notes"), files=(WEIGHTS,))
    told, notes = root["structure"], root["notes"]
    if not (
        isinstance(notes, dict)
        and isinstance(told, dict)
        and set(told) == {"head", "layers", "tensors"}
        and isinstance(told["layers"], dict)
        and all(
            isinstance(sizes, list)
            and [type(size) for size in sizes] == [int, int]
            and 1 <= sizes[1] <= sizes[0]
            for sizes in told["layers"].values()
        )
    ):
        raise ArtifactError(
            f"the structure or the notes in {folder}/manifest.json are damaged; expected head, tensors and "
            f"layers with two numbers each, and notes by name; {AGAIN}"
        )
    return root


def read_task(folder: Path, *, check_files: bool) -> tuple[TaskRecord, Any]:
    """Read and check the manifest of a task.

    Args:
        folder: The task's folder.
        check_files: Whether its files are compared with their hashes.

    Returns:
        What is known of the task, and the hash of the manifest before it.

    Raises:
        ArtifactError: The manifest is damaged, or a file is missing or altered.
    """
    manifest = _read(
        folder, kind=TASK, names=("task", "previous"), files=(MASKS, TENSORS), check_files=check_files
    )
    told, wanted = manifest["task"], [field.name for field in fields(TaskRecord)]
    if not isinstance(told, dict) or set(told) != set(wanted):
        raise ArtifactError(
            f"{folder}/manifest.json tells of the task {told!r}; expected {', '.join(wanted)}; {AGAIN}"
        )
    allowed = {
        "name": isinstance(told["name"], str) and told["name"] != "",
        "num_classes": type(told["num_classes"]) is int and told["num_classes"] >= 1,
        "arm": told["arm"] in get_args(Arm),
        "free_share": type(told["free_share"]) in (int, float) and 0 <= told["free_share"] <= 1,
    }
    for name, fits in allowed.items():
        if not fits:
            raise ArtifactError(f"{folder}/manifest.json tells {name} = {told[name]!r} of the task; {AGAIN}")
    return TaskRecord(**told), manifest["previous"]
