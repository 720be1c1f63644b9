"""Many requests in one process: each is known by its content, and identical ones are made once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from brickyard.core.errors import ArtifactError, BrickyardError, BudgetError, InfeasibleError
from brickyard.core.files import read_json

if TYPE_CHECKING:
    from brickyard.devices.profile import DeviceProfile
    from brickyard.factory.factory import Factory

Answer = dict[str, Any]
KEYS = ("task", "budget", "device", "format", "seed", "name")
_NAME_DIGITS = 16


def request_key(
    *,
    factory_sha256: str,
    task: str,
    limits: Mapping[str, float],
    device: DeviceProfile | None,
    form: str,
    threads: int,
    seed: int,
    decode: Mapping[str, Any] | None = None,
) -> str:
    """Return the hash of everything that decides a model.

    Args:
        factory_sha256: Hash of the factory's manifest, which holds the hashes of all its files.
        task: Canonical text of the task.
        limits: Ceilings in base units, so that 25 % and the number of MACs it stands for are the same.
        device: Profile that the request refers to; None where no device plays a part.
        form: Format of the model's file.
        threads: Threads that the file is measured with.
        seed: Seed of the request.
        decode: For detectors, how and where maps become boxes.

    Returns:
        64 hexadecimal digits.
    """
    record = {
        "factory": factory_sha256,
        "task": task,
        "limits": {name: float(value) for name, value in limits.items()},
        "device": None if device is None else hashlib.sha256(device.model_dump_json().encode()).hexdigest(),
        "format": form,
        "threads": threads,
        "seed": seed,
        **({} if decode is None else {"decode": dict(decode)}),
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
        if file.parent.name.startswith("."):
            continue  # what a run left that was killed while it wrote
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
    jobs: int,
    progress: Callable[[int, int, str], None],
) -> Iterator[Answer]:
    """Make a model for each request; see `Factory.make_all`."""
    _check(requests, jobs)
    made: dict[str, Path | Future[Answer]] = dict(made_models(out))
    waiting: deque[tuple[str, Callable[[], Answer]]] = deque()
    done = 0

    def next_answer() -> Answer:
        nonlocal done
        task, wait = waiting.popleft()
        try:
            answer, done = wait(), done + 1
        except BrokenProcessPool:
            raise BrickyardError(
                f"a process that made models was ended from outside, or found no memory; {done} of "
                f"{len(requests)} requests are answered. Give the same command again to go on, with fewer "
                "jobs if memory is short"
            ) from None
        progress(done, len(requests), task)
        return answer

    with _Workers(factory, jobs=jobs, threads=threads) as workers:
        for request in requests:
            started = _start(factory, request, made, workers, out=out)
            waiting.append((request.get("task") or "all", started))
            if len(waiting) == workers.ahead:
                yield next_answer()
        while waiting:
            yield next_answer()


def _check(requests: Sequence[Mapping[str, Any]], jobs: int) -> None:
    if jobs < 1:
        raise BudgetError(f"jobs = {jobs} is not allowed; allowed: 1 or more")
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


def _start(
    factory: Factory,
    request: Mapping[str, Any],
    made: dict[str, Path | Future[Answer]],
    workers: _Workers,
    *,
    out: Path,
) -> Callable[[], Answer]:
    """Begin with a request unless a model that answers it is there or under way; return what waits for it."""
    given = {key: value for key, value in request.items() if key != "name" and value is not None}
    try:
        key = factory.request_key(**given, threads=workers.threads)
        if key not in made:
            target = out / (request.get("name") or key[:_NAME_DIGITS])
            if (target / "request.json").is_file():
                raise ArtifactError(
                    f"{target} holds the model of another request; choose another folder or name"
                )
            made[key] = workers.submit({**given, "out": target})
    except BrickyardError as error:
        answer = failure(error, task=given.get("task"), budget=given.get("budget"))
        return lambda: answer
    found = made[key]
    if isinstance(found, Path):
        return lambda: read_json(found / "report.json")

    def wait() -> Answer:
        answer = found.result()
        if answer["feasible"] and made[key] is found:  # what was answered needs to stay on disk alone
            made[key] = Path(answer["files"]["report"]).parent
        return answer

    return wait


class _Workers:
    """Answers requests in processes of their own, or in this one if one is wanted.

    Args:
        factory: The factory.
        jobs: Number of requests that are answered at the same time.
        threads: Threads that files are measured with.
    """

    def __init__(self, factory: Factory, *, jobs: int, threads: int) -> None:
        self.factory, self.threads = factory, threads
        self.ahead = 1 if jobs == 1 else 2 * jobs
        self.pool = None
        if jobs > 1:
            start = (str(factory.folder.path), threads)
            self.pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=start)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def submit(self, given: Mapping[str, Any]) -> Future[Answer]:
        """Answer a request now, or as soon as a worker is free."""
        future: Future[Answer] = Future()
        if self.pool is None:
            future.set_result(_answer(self.factory, given, self.threads))
            return future
        try:
            return self.pool.submit(_answer_there, given)
        except BrokenProcessPool as error:  # who waits for the answer is told
            future.set_exception(error)
            return future


def _answer(factory: Factory, given: Mapping[str, Any], threads: int) -> Answer:
    try:
        return factory.make(**given, threads=threads).model_dump(mode="json")
    except BrickyardError as error:
        return failure(error, task=given.get("task"), budget=given.get("budget"))


_here: dict[str, Any] = {}  # of a worker: its factory and threads


def _begin(folder: str, threads: int) -> None:
    from brickyard.factory.factory import Factory

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for the answers is asked to stop
    Thread(target=_end_with_parent, daemon=True).start()
    _here.update(factory=Factory.load(folder), threads=threads)


def _end_with_parent() -> None:
    """End this worker when the process that waits for its answers is killed: nobody else would end it."""
    parent = parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _answer_there(given: Mapping[str, Any]) -> Answer:
    return _answer(_here["factory"], given, _here["threads"])


def failure(error: BrickyardError, *, task: Any, budget: Any) -> Answer:
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
