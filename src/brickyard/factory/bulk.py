"""Many requests in one process: each is known by its content, and identical ones are made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brickyard.core.errors import ArtifactError, BrickyardError, BudgetError, InfeasibleError
from brickyard.core.files import read_json

if TYPE_CHECKING:
    from brickyard.devices.profile import DeviceProfile
    from brickyard.factory.factory import Factory

KEYS = ("task", "budget", "device", "seed", "name")
_NAME_DIGITS = 16


def request_key(
    *,
    factory_sha256: str,
    task: str,
    limits: Mapping[str, float],
    device: DeviceProfile | None,
    threads: int,
    seed: int,
) -> str:
    """Return the hash of everything that decides a model.

    Args:
        factory_sha256: Hash of the factory's manifest, which holds the hashes of all its files.
        task: Canonical text of the task.
        limits: Ceilings in base units, so that 25 % and the number of MACs it stands for are the same.
        device: Profile that the request refers to; None where no device plays a part.
        threads: Threads that the file is measured with.
        seed: Seed of the request.

    Returns:
        64 hexadecimal digits.
    """
    record = {
        "factory": factory_sha256,
        "task": task,
        "limits": {name: float(value) for name, value in limits.items()},
        "device": None if device is None else hashlib.sha256(device.model_dump_json().encode()).hexdigest(),
        "threads": threads,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def made_models(out: Path) -> dict[str, Path]:
    """Find the models in a folder of model folders.

    Args:
        out: Their parent; need not exist.

    Returns:
        Folder of each model by the key of its request.
    """
    found = {}
    for file in sorted(out.glob("*/request.json")):
        key = read_json(file).get("key")
        if key is not None and (file.parent / "manifest.json").is_file():
            found[str(key)] = file.parent
    return found


def make_all(
    factory: Factory,
    requests: Sequence[Mapping[str, Any]],
    *,
    out: Path,
    threads: int,
    progress: Callable[[int, int, str], None],
) -> Iterator[dict[str, Any]]:
    """Make a model for each request; see `Factory.make_all`."""
    for number, request in enumerate(requests):
        if not set(request) <= set(KEYS):
            raise BudgetError(
                f"request {number} has unknown keys {sorted(set(request) - set(KEYS))}; known: {sorted(KEYS)}"
            )
        folder = str(request.get("name") or "")
        if Path(folder).name != folder or folder == "..":
            raise BudgetError(
                f"request {number} has name = {folder!r}; give the plain name of a folder inside `out`"
            )
    made = made_models(out)
    for number, request in enumerate(requests):
        given = {key: value for key, value in request.items() if key != "name" and value is not None}
        name = request.get("name")
        try:
            key = factory.request_key(**given, threads=threads)
            if key in made:
                answer = read_json(made[key] / "report.json")
            else:
                target = out / (name or key[:_NAME_DIGITS])
                if (target / "request.json").is_file():
                    raise ArtifactError(
                        f"{target} holds the model of another request; choose another folder or name"
                    )
                answer = factory.make(**given, out=target, threads=threads).model_dump(mode="json")
                made[key] = target
        except BrickyardError as error:
            answer = failure(error, task=given.get("task"), budget=given.get("budget"))
        yield answer
        progress(number + 1, len(requests), given.get("task") or "all")


def failure(error: BrickyardError, *, task: Any, budget: Any) -> dict[str, Any]:
    """Return the JSON answer to a request that could not be met.

    Args:
        error: Why.
        task: The request's task.
        budget: The request's budget.
    """
    answer = {
        "feasible": False,
        "task": task,
        "budget": budget,
        "kind": type(error).__name__,
        "error": str(error),
    }
    if isinstance(error, InfeasibleError):
        answer |= {"binding_limit": error.limit, "requested": error.requested, "smallest": error.smallest}
        answer["nearest"] = error.nearest
    return answer
