"""Runtimes on one machine as separate devices: predictions, limits that are kept, and what 8 bits cost."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from _factories import Kept, fresh_scenes
from _limits import limits, measured_again
from _record import Ledger, say

from brickyard.core.task import Task
from brickyard.devices.runtimes import RUNTIMES
from brickyard.factory.formats import FORMATS
from brickyard.factory.quality import rate, scores_of, task_examples

DEVICES = (("ort", 1), ("ort", 2), ("ort-int8", 1), ("openvino", 1), ("torch", 1))
SECTION = "runtimes"


def runtimes(
    ledger: Ledger,
    entry: Kept,
    *,
    requests: int,
    devices: tuple[tuple[str, int], ...] = DEVICES,
    subsets: int = 8,
    pictures: int = 5000,
) -> None:
    """Profile each runtime, make models for random latency requests on it and measure them again in it.

    Rows are grouped by runtime and threads. See `int8` for what follows.

    Args:
        ledger: Takes the rows.
        entry: The factory.
        requests: Latency requests on each.
        devices: Names of runtimes, and their threads.
        subsets: Tasks of which models are made in both precisions.
        pictures: Most pictures that their accuracy is measured on.
    """
    for runtime, threads in devices:
        library, group = RUNTIMES[runtime].library, f"{runtime} {threads}t"
        if find_spec(library) is None:
            say(f"{SECTION}: {group} is left out; {library} is not installed")
            continue
        say(f"{SECTION}: {group}")
        limits(
            ledger,
            entry,
            requests=requests,
            threads=threads,
            runtime=runtime,
            section=SECTION,
            group=group,
        )
    int8(ledger, entry, subsets=subsets, pictures=pictures)


def int8(
    ledger: Ledger, entry: Kept, *, subsets: int, pictures: int, limit: str = "50%", threads: int = 1
) -> None:
    """Make the same models in 32-bit numbers and in 8-bit integers, and compare accuracy, time and size.

    Args:
        ledger: Takes the rows: loss in points (of balanced accuracy for properties), latency and size of the
            32-bit file over that of the 8-bit one.
        entry: The factory.
        subsets: Number of tasks.
        pictures: Most pictures of a task.
        limit: Share of the MACs.
        threads: Threads of the runtime.
    """
    factory = entry.factory
    for task in _tasks(entry, subsets):
        images, labels = _pictures(entry, task, pictures)
        inputs = entry.preprocess.apply(images)
        more = {"task": task.text, "limit": limit, "seed": entry.seed, "precision": "int8"}
        quality, size, folders = {}, {}, {}
        with tempfile.TemporaryDirectory() as name:
            for form, runtime in (("onnx", "ort"), ("onnx-int8", "ort-int8")):
                out = Path(name) / form
                report = factory.make(
                    task=task, budget={"max_macs": limit}, format=form, threads=threads, out=out
                )
                content = (out / FORMATS[form].files[0]).read_bytes()
                scores = scores_of(RUNTIMES[runtime].open(content, threads=threads), inputs)
                quality[form] = rate(task, entry.vocabulary, scores, labels)[0]
                size[form], folders[form] = report.file_bytes, (out, runtime)
            turns = [
                [
                    measured_again(out, factory, runtime=runtime, threads=threads)
                    for out, runtime in folders.values()
                ]
                for _ in range(3)
            ]
        full, eight = np.min(turns, axis=0)
        loss = 100 * (quality["onnx"] - quality["onnx-int8"])
        ledger.add(SECTION, "int8", "loss, points", loss, count=len(labels), **more)
        ledger.add(SECTION, "int8", "speed-up against fp32", full / eight, count=len(turns), **more)
        ledger.add(
            SECTION, "int8", "file size, fp32 / int8", size["onnx"] / size["onnx-int8"], count=1, **more
        )


def _tasks(entry: Kept, count: int) -> list[Task]:
    """Return subsets of classes; of a factory of properties, combinations that were trained."""
    if entry.vocabulary.kind == "classes":
        from _classes import subsets

        return [task for task, _ in subsets(entry, count)]
    return entry.pairs()[0][:count]


def _pictures(entry: Kept, task: Task, most: int) -> tuple[np.ndarray, np.ndarray]:
    if entry.vocabulary.kind != "classes":
        return fresh_scenes(entry, task, count=min(most, 2000))
    heldout = entry.data.heldout
    drawn = task_examples(task, entry.vocabulary, heldout=heldout, geometry=None, count=most, seed=0)
    assert drawn is not None
    return drawn
