"""Whether limits are kept: latency measured anew, predicted latency, sizes counted from the files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from _factories import Kept
from _record import Ledger, say

from brickyard.core.errors import InfeasibleError
from brickyard.core.task import Task
from brickyard.devices.measure import measure_file
from brickyard.factory.quality import open_session
from brickyard.factory.records import Report

_TOLERATED = 1.10


def limits(ledger: Ledger, entry: Kept, *, requests: int, threads: int) -> None:
    """Make models for random feasible latency limits and measure their files again afterwards.

    Args:
        ledger: Takes the rows.
        entry: A geometry factory.
        requests: Number of requests.
        threads: Threads of the runtime.
    """
    factory = entry.factory
    profile = factory.profile(threads=threads, seed=entry.seed)
    seed = {"seed": entry.seed}
    more = {**seed, "count": profile.held_out}
    ledger.add(
        "limits",
        "predicted latency of held-out subnets",
        "mean absolute error, share",
        profile.held_out_mape,
        **more,
    )
    rng = np.random.default_rng(31 + entry.seed)
    blueprint = factory.folder.blueprint
    whole = factory.maker(profile).whole_ms()
    least = _measured(blueprint.cut(blueprint.space.smallest()).SerializeToString(), threads)
    wrong: list[str] = []
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        made: list[tuple[Path, float]] = []
        for number in range(requests):
            task, limit = _random_task(entry, rng), float(rng.uniform(1.1 * least, whole))
            out = Path(name) / str(number)
            try:
                report = factory.make(task=task, budget={"latency_ms": limit}, device=profile, out=out)
            except InfeasibleError as error:
                failed += 1
                say(f"limits: {task.text} within {limit:.4f} ms was refused: {error}")
                continue
            made.append((out / "model.onnx", limit))
            wrong += _recount(report, out / "model.onnx")
        rounds = [
            [measure_file(path, threads=threads, seconds=0.2).p50 for path, _ in made] for _ in range(3)
        ]
    asked = [limit for _, limit in made]
    met = np.median(rounds, axis=0).tolist()
    quietest = sum(min(times) <= limit for times, limit in zip(zip(*rounds, strict=True), asked, strict=True))
    share = sum(time <= limit for time, limit in zip(met, asked, strict=True)) / requests
    worst = max((time / limit for time, limit in zip(met, asked, strict=True)), default=float("nan"))
    over = sum(time > _TOLERATED * limit for time, limit in zip(met, asked, strict=True))
    count = {**seed, "count": requests}
    ledger.add("limits", "latency requests met, file measured again", "share", share, **count)
    ledger.add("limits", "the same, the quietest of three rounds", "share", quietest / requests, **count)
    ledger.add("limits", "latency requests refused though feasible", "share", failed / requests, **count)
    ledger.add("limits", "latency requests exceeded by more than 10 %", "number", over, **count)
    ledger.add("limits", "largest measured / requested latency", "ratio", worst, **count)
    used = [time / limit for time, limit in zip(met, asked, strict=True)]
    ledger.add("limits", "measured / requested latency, median", "ratio", float(np.median(used)), **count)
    ledger.add(
        "limits", "file size, MACs or parameters that differ from the file", "number", len(wrong), **count
    )
    for text in wrong:
        say(f"limits: {text}")


def _measured(content: bytes, threads: int) -> float:
    from brickyard.devices.measure import measure_session

    return measure_session(open_session(content, threads=threads), threads=threads, seconds=0.2).p50


def _random_task(entry: Kept, rng: np.random.Generator) -> Task:
    """Draw a task of one to three properties."""
    vocabulary = entry.vocabulary
    groups = list(vocabulary.groups.values())
    chosen = rng.choice(len(groups), int(rng.integers(1, min(3, len(groups)) + 1)), replace=False)
    return vocabulary.task([str(rng.choice(groups[place])) for place in sorted(chosen)])


def _recount(report: Report, path: Path) -> list[str]:
    """Count a file again, node by node, and say what differs from its report."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = {
        info.name: [size.dim_value for size in info.type.tensor_type.shape.dim]
        for info in [*model.graph.value_info, *model.graph.output]
    }
    macs = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            output = shapes[node.output[0]]
            positions = output[2:] if node.op_type == "Conv" else output[:-1]
            macs += int(np.prod(weights[node.input[1]])) * int(np.prod(positions))
    found = {
        "macs": macs,
        "parameters": sum(int(np.prod(shape)) for shape in weights.values()),
        "file_bytes": path.stat().st_size,
    }
    return [
        f"{report.task}: {name} of the report is {getattr(report, name)}, of the file {value}"
        for name, value in found.items()
        if value != getattr(report, name)
    ]
