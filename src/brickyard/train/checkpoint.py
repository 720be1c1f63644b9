"""Checkpoints of a training run, as safetensors, from which a killed run goes on bit-exactly.

No state of a random generator is kept: every step draws from generators seeded by (seed, step).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from brickyard.core.errors import TrainError
from brickyard.core.files import write_bytes
from brickyard.core.weights import distinct_state, load_distinct_state_


def save_checkpoint(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: dict[str, Any],
) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: The file.
        modules: Modules whose state dicts are kept, by name.
        optimizer: Its state is kept in the order of its parameters.
        step: Steps done.
        settings: Settings of the run; a checkpoint resumes only a run with equal ones.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors.update({f"module.{name}.{key}": value for key, value in distinct_state(module).items()})
    for index, entries in optimizer.state_dict()["state"].items():
        tensors.update(
            {
                f"optimizer.{index}.{key}": torch.as_tensor(value).contiguous()
                for key, value in entries.items()
            }
        )
    metadata = {"step": str(step), "settings": json.dumps(settings, sort_keys=True)}
    write_bytes(path, save(tensors, metadata))


def load_checkpoint(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
) -> int:
    """Restore what `save_checkpoint` wrote.

    Args:
        path: The file.
        modules: Modules to fill, by the same names.
        optimizer: Optimizer over the same parameters in the same order.
        settings: Settings of this run.

    Returns:
        The number of steps done.

    Raises:
        TrainError: The checkpoint is damaged, or of a run with other settings.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        kept, step = json.loads(metadata["settings"]), int(metadata["step"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainError(f"{path} is damaged ({error}); remove it to start anew") from None
    wanted = json.loads(json.dumps(settings))
    if kept != wanted:
        differing = sorted(key for key in {*kept, *wanted} if kept.get(key) != wanted.get(key))
        raise TrainError(
            f"{path} is a checkpoint of a run with other settings ({', '.join(differing)} differ); repeat "
            "the former settings, or remove the folder to start anew"
        )
    for name, module in modules.items():
        prefix = f"module.{name}."
        load_distinct_state_(
            module, {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    full = optimizer.state_dict()
    full["state"] = state
    optimizer.load_state_dict(full)
    return step


def resumed_steps(
    one_step: Callable[[int], Sequence[float]],
    *,
    path: Path | None,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    steps: int,
    checkpoint_every: int,
    record_every: int,
) -> Iterator[tuple[int, list[float], float]]:
    """Take steps from where a checkpoint left off, and write the next ones.

    Args:
        one_step: Takes the step of a number, counted from 0, and returns figures of it.
        path: The checkpoint; None for none.
        modules: What is trained, by name.
        optimizer: Its optimizer.
        settings: What decides the run, JSON values; a checkpoint with other ones is refused.
        steps: Steps in all.
        checkpoint_every: Steps per checkpoint; there is one at the end, too.
        record_every: Steps per record.

    Yields:
        Steps done, means of the figures since the last record, and the seconds that these steps took.

    Raises:
        TrainError: The checkpoint is damaged, or belongs to other settings.
    """
    step = 0
    if path is not None and path.is_file():
        step = load_checkpoint(path, modules=modules, optimizer=optimizer, settings=settings)
    rows: list[Sequence[float]] = []
    started = time.perf_counter()
    while step < steps:
        rows.append(one_step(step))
        step += 1
        if path is not None and (step == steps or step % checkpoint_every == 0):
            save_checkpoint(path, modules=modules, optimizer=optimizer, step=step, settings=settings)
        if step == steps or step % record_every == 0:
            now = time.perf_counter()
            yield step, np.mean(rows, axis=0).tolist(), now - started
            rows, started = [], now
