"""Whether limits are kept: latency measured anew, predicted latency, sizes counted from the files."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import onnx
from _factories import Kept
from _record import Ledger, say

from brickyard.core.errors import InfeasibleError
from brickyard.core.files import read_json
from brickyard.core.task import Task
from brickyard.devices.measure import measure_session
from brickyard.devices.profile import DeviceProfile
from brickyard.devices.runtimes import RUNTIMES, Session
from brickyard.devices.runtimes.base import Port
from brickyard.devices.runtimes.torch_eager import ModuleSession
from brickyard.factory import Factory
from brickyard.factory.formats import FORMATS
from brickyard.factory.records import Report
from brickyard.factory.twin import load_model

_TOLERATED = 1.10


def limits(
    ledger: Ledger,
    entry: Kept,
    *,
    requests: int,
    threads: int,
    runtime: str = "ort",
    section: str = "limits",
    group: str = "",
) -> DeviceProfile:
    """Make models for random feasible latency limits and measure their files again afterwards.

    Args:
        ledger: Takes the rows.
        entry: A factory.
        requests: Number of requests.
        threads: Threads of the runtime.
        runtime: Runtime of the device; files are measured again with it. That of torch runs the twin of the
            folder.
        section: Section of the rows.
        group: Group of the rows.

    Returns:
        The device's profile.
    """
    factory = entry.with_network() if runtime == "torch" else entry.factory
    profile = factory.profile(runtime=runtime, threads=threads, seed=entry.seed)
    common = {"seed": entry.seed, "group": group, "precision": profile.precision}

    def add(method: str, metric: str, value: float, *, count: int = requests) -> None:
        ledger.add(section, method, metric, value, count=count, **common)

    add(
        "predicted latency of held-out subnets",
        "mean absolute error, share",
        profile.held_out_mape,
        count=profile.held_out,
    )
    add("noise of the profile", "share", profile.noise, count=profile.held_out)
    rng = np.random.default_rng(31 + entry.seed)
    whole = factory.maker(profile).whole_ms()
    wrong: list[str] = []
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        least = _least_ms(factory, profile)
        made: list[tuple[Path, float]] = []
        for number in range(requests):
            task, limit = _random_task(entry, rng), float(rng.uniform(1.1 * least, whole))
            out = Path(name) / str(number)
            try:
                report = factory.make(task=task, budget={"latency_ms": limit}, device=profile, out=out)
            except InfeasibleError as error:
                failed += 1
                say(f"{section} {group}: {task.text} within {limit:.4f} ms was refused: {error}")
                continue
            made.append((out, limit))
            wrong += _recount(report, out)
        rounds = [
            [measured_again(folder, factory, runtime=runtime, threads=threads) for folder, _ in made]
            for _ in range(3)
        ]
    asked = [limit for _, limit in made]
    met = np.median(rounds, axis=0).tolist()
    quietest = sum(min(times) <= limit for times, limit in zip(zip(*rounds, strict=True), asked, strict=True))
    share = sum(time <= limit for time, limit in zip(met, asked, strict=True)) / requests
    used = [time / limit for time, limit in zip(met, asked, strict=True)]
    add("latency requests met, file measured again", "share", share)
    add("the same, the quietest of three rounds", "share", quietest / requests)
    add("latency requests refused though feasible", "share", failed / requests)
    add("latency requests exceeded by more than 10 %", "number", sum(part > _TOLERATED for part in used))
    add("largest measured / requested latency", "ratio", max(used, default=float("nan")))
    add("measured / requested latency, median", "ratio", float(np.median(used)))
    add("file size, MACs or parameters that differ from the file", "number", len(wrong))
    for text in wrong:
        say(f"{section} {group}: {text}")
    return profile


def measured_again(
    folder: Path, factory: Factory, *, runtime: str, threads: int, seconds: float = 0.2
) -> float:
    """Open the model of a folder anew with a runtime and measure it; median, milliseconds.

    Args:
        folder: The model folder.
        factory: The factory that made it, with its network where the runtime is torch.
        runtime: Name of the runtime.
        threads: Its threads.
        seconds: How long to time.
    """
    session = _open(folder, factory, runtime=runtime, threads=threads)
    return measure_session(session, threads=threads, runtime=RUNTIMES[runtime], seconds=seconds).p50


def _open(folder: Path, factory: Factory, *, runtime: str, threads: int) -> Session:
    if runtime == "torch":
        network = None if factory.folder.network["builder"] else factory.own_network
        twin = load_model(folder, network=copy.deepcopy(network))
        entry = Port("image", (1, *factory.folder.preprocess.shape))
        outputs = [Port(name) for name in factory.folder.blueprint.outputs]
        return ModuleSession(twin, entry, outputs)
    form = FORMATS[read_json(folder / "request.json")["format"]]
    content = (folder / form.files[0]).read_bytes()
    return RUNTIMES[runtime].open(content, threads=threads)


def _least_ms(factory: Factory, profile: DeviceProfile) -> float:
    """Return the measured latency of the smallest subnet in the device's runtime."""
    maker = factory.maker(profile)
    smallest = maker.blueprint.space.smallest()
    files = maker.production.files(smallest)
    session = maker.production.timed(smallest, files, maker.production.open(files))
    return measure_session(session, threads=profile.threads, seconds=0.2).p50


def _random_task(entry: Kept, rng: np.random.Generator) -> Task:
    """Draw a task of one to three properties, or of two to five classes."""
    vocabulary = entry.vocabulary
    if vocabulary.kind == "classes":
        size = int(rng.integers(2, min(5, len(vocabulary.words)) + 1))
        return vocabulary.task(rng.choice(vocabulary.words, size, replace=False).tolist())
    groups = list(vocabulary.groups.values())
    chosen = rng.choice(len(groups), int(rng.integers(1, min(3, len(groups)) + 1)), replace=False)
    return vocabulary.task([str(rng.choice(groups[place])) for place in sorted(chosen)])


def _recount(report: Report, folder: Path) -> list[str]:
    """Count a file again, node by node, and say what differs from its report; of other formats, its size."""
    files = [folder / name for name in FORMATS[report.format].files]
    found = {"file_bytes": sum(path.stat().st_size for path in files)}
    if report.format == "onnx":
        found.update(_counted(files[0]))
    return [
        f"{report.task}: {name} of the report is {getattr(report, name)}, of the file {value}"
        for name, value in found.items()
        if value != getattr(report, name)
    ]


def _counted(path: Path) -> dict[str, int]:
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
    return {"macs": macs, "parameters": sum(int(np.prod(shape)) for shape in weights.values())}
