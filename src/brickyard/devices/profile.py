"""Device profiles: block times measured on a device, from which the latency of any subnet is predicted.

The groups of a block are interchangeable in time, so a block needs one time for each number of groups. The sum over blocks
is corrected on whole subnets: each block pays the overhead of a session when it is timed alone, and pays less inside a
network. One non-negative factor for each block and a constant are fitted; other subnets, held out, give the error.
"""

from __future__ import annotations

import platform
import random
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from pydantic import BaseModel, ConfigDict, ValidationError

from brickyard.core.config import Config
from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import DeviceError
from brickyard.core.files import write_bytes
from brickyard.core.space import Space
from brickyard.devices.measure import open_session, processor_name, random_inputs, run_times

Progress = Callable[[int, int, str], None]
Floats = npt.NDArray[np.float64]

_FIT, _HELD_OUT, _PASSES, _COUNTS = 40, 32, 12, 24


class Cuttable(Protocol):
    """What a profile needs of a network: the graphs of subnets and of single blocks."""

    @property
    def space(self) -> Space: ...

    @property
    def sha256(self) -> str: ...

    @property
    def blocks(self) -> tuple[str, ...]: ...

    def cut(self, config: Mapping[str, Any]) -> onnx.ModelProto: ...

    def region_model(self, name: str, count: int, choices: Mapping[str, Any] | None = None) -> onnx.ModelProto: ...

    def kernel_of(self, name: str) -> Choice | None: ...

    def depth_of(self, name: str) -> tuple[str, int] | None: ...


class BlockTimes(BaseModel):
    """Times of one block alone.

    Attributes:
        counts: Numbers of groups that were timed, ascending, from 0.
        kernel: Name of the decision of its kernel size, None if that is fixed.
        kernels: Kernel sizes that were timed; one entry, 0, if it is fixed.
        depth: Name of the depth that can bypass the block and the block's place, None if none can.
        ms: Time `[kernels][counts]`, milliseconds, 20th percentile.
        spread: Median less 20th percentile of each, milliseconds.
        factor: What its time inside a network is, as a share of its time alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    counts: tuple[int, ...]
    kernel: str | None
    kernels: tuple[int, ...]
    depth: tuple[str, int] | None
    ms: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[float, ...], ...]
    factor: float

    def alone(self, config: Mapping[str, Any], name: str) -> float:
        """Return the time of the block alone, interpolated between the counts that were timed."""
        if self.depth is not None and config[self.depth[0]] <= self.depth[1]:
            return 0.0
        row = 0 if self.kernel is None else self.kernels.index(config[self.kernel])
        return float(np.interp(len(config[name]), self.counts, self.ms[row]))


class DeviceProfile(BaseModel):
    """What is known of a device for one network.

    Attributes:
        format_version: Version of this record.
        name: Name of the device.
        machine: Architecture and system.
        processor: Name of the processor.
        runtime: Runtime and version.
        threads: Threads of the runtime.
        precision: Numbers the runtime computes with.
        blueprint_sha256: The network's graph.
        blocks: Times by block.
        affine: Factor and constant in milliseconds of the plain sum of block times, fitted on whole subnets.
        fixed_ms: What is always paid: stem, shortcuts, head, session.
        residual_std_ms: Standard deviation of the error on held-out subnets; smaller differences mean nothing.
        held_out_mape: Mean absolute error on held-out subnets, share of the measured time.
        affine_mape: The same with the affine correction alone.
        fitted: Subnets that the correction was fitted on.
        held_out: Subnets that the error was measured on.
        seed: Seed of those subnets.
        created: Time, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    format_version: int = 1
    name: str
    machine: str
    processor: str
    runtime: str
    threads: int
    precision: str = "fp32"
    blueprint_sha256: str
    blocks: dict[str, BlockTimes]
    affine: tuple[float, float]
    fixed_ms: float
    residual_std_ms: float
    held_out_mape: float
    affine_mape: float
    fitted: int
    held_out: int
    seed: int
    created: str

    def predict(self, config: Mapping[str, Any]) -> float:
        """Predict the latency of a subnet in milliseconds.

        Args:
            config: One legal value for each decision.
        """
        return self.fixed_ms + sum(block.factor * block.alone(config, name) for name, block in self.blocks.items())

    def save(self, path: Path) -> None:
        """Write the profile as JSON, whole or not at all."""
        write_bytes(path, self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> DeviceProfile:
        """Read a profile.

        Raises:
            DeviceError: The file is missing or not a profile of this version.
        """
        if not path.is_file():
            raise DeviceError(f"{path} is not a file; expected a device profile, made by `brickyard profile`")
        try:
            profile = cls.model_validate_json(path.read_text())
        except (ValidationError, UnicodeDecodeError) as error:
            raise DeviceError(f"{path} is not a device profile: {error}; make it with `brickyard profile`") from None
        if profile.format_version != 1:
            raise DeviceError(f"{path} has format version {profile.format_version}; this brickyard reads 1")
        return profile


def this_device_name(threads: int) -> str:
    """Name this machine with a number of threads, in letters that suit a file name."""
    words = re.sub(r"[^a-z0-9]+", "-", processor_name().lower()).strip("-")
    return f"{words or platform.machine()}-ort{onnxruntime.__version__}-fp32-{threads}t"


def profile(
    network: Cuttable, *, threads: int, seed: int, name: str | None = None, progress: Progress | None = None
) -> DeviceProfile:
    """Measure a network's blocks and whole subnets on this machine.

    Args:
        network: The exported network.
        threads: Threads of the runtime.
        seed: Seed of the subnets.
        name: Name of the device; made from the processor if None.
        progress: Called with steps done, steps in all, and a short text.

    Returns:
        The profile.

    Raises:
        DeviceError: `threads` is below 1.
    """
    if threads < 1:
        raise DeviceError(f"threads = {threads} must be at least 1")
    report = progress or (lambda done, total, text: None)
    steps = len(network.blocks) + _PASSES
    tables: dict[str, BlockTimes] = {}
    for number, block in enumerate(network.blocks):
        report(number, steps, f"block {block}")
        tables[block] = _time_block(network, block, threads=threads)
    configs = _subnets(network, _FIT + _HELD_OUT, seed=seed)
    times = _time_subnets(network, configs, threads=threads, report=lambda n: report(len(tables) + n, steps, "subnets"))
    alone = np.array([[table.alone(config, block) for block, table in tables.items()] for config in configs])
    fit, test = slice(0, _FIT), slice(_FIT, None)
    slope, constant = _affine(alone[fit].sum(1), times[fit])
    affine_error = np.abs(slope * alone[test].sum(1) + constant - times[test]) / times[test]
    factors, fixed = _factors(alone[fit], times[fit], slope)
    errors = alone[test] @ factors + fixed - times[test]
    report(steps, steps, "done")
    return DeviceProfile(
        name=name or this_device_name(threads),
        machine=f"{platform.machine()} {platform.system()}",
        processor=processor_name(),
        runtime=f"onnxruntime {onnxruntime.__version__}",
        threads=threads,
        blueprint_sha256=network.sha256,
        blocks={
            block: table.model_copy(update={"factor": float(factor)})
            for (block, table), factor in zip(tables.items(), factors, strict=True)
        },
        affine=(slope, constant),
        fixed_ms=fixed,
        residual_std_ms=float(errors.std()),
        held_out_mape=float((np.abs(errors) / times[test]).mean()),
        affine_mape=float(affine_error.mean()),
        fitted=_FIT,
        held_out=_HELD_OUT,
        seed=seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _time_block(network: Cuttable, block: str, *, threads: int) -> BlockTimes:
    decision = network.space[block]
    assert isinstance(decision, Subset)
    counts = sorted({0, *(int(round(count)) for count in np.linspace(1, decision.count, min(decision.count, _COUNTS)))})
    kernel = network.kernel_of(block)
    kernels = (0,) if kernel is None else tuple(int(value) for value in kernel.values)
    sessions = {
        (size, count): open_session(
            network.region_model(block, count, None if kernel is None else {kernel.name: size}).SerializeToString(),
            threads=threads,
        )
        for size in kernels
        for count in counts[1:]
    }
    times = _round_robin(list(sessions.values()), passes=4, seconds=0.008)
    low = dict(zip(sessions, (float(np.percentile(row, 20)) for row in times), strict=True))
    middle = dict(zip(sessions, (float(np.median(row)) for row in times), strict=True))
    return BlockTimes(
        counts=tuple(counts),
        kernel=None if kernel is None else kernel.name,
        kernels=kernels,
        depth=network.depth_of(block),
        ms=tuple((0.0, *(low[size, count] for count in counts[1:])) for size in kernels),
        spread=tuple((0.0, *(middle[size, count] - low[size, count] for count in counts[1:])) for size in kernels),
        factor=1.0,
    )


def _round_robin(
    sessions: Sequence[onnxruntime.InferenceSession],
    *,
    passes: int,
    seconds: float,
    report: Callable[[int], None] = lambda done: None,
) -> list[list[float]]:
    """Time sessions in turns, so that a drift of the machine hits all of them alike."""
    inputs = [random_inputs(session) for session in sessions]
    once = [float(np.median(run_times(session, given, 3))) for session, given in zip(sessions, inputs, strict=True)]
    times: list[list[float]] = [[] for _ in sessions]
    for number in range(passes):
        report(number)
        for place, (session, given) in enumerate(zip(sessions, inputs, strict=True)):
            runs = int(min(200, max(4, seconds * 1e3 / max(once[place], 1e-3))))
            times[place] += run_times(session, given, runs + 1)[1:]
    return times


def _time_subnets(
    network: Cuttable, configs: Sequence[Config], *, threads: int, report: Callable[[int], None]
) -> Floats:
    sessions = [open_session(network.cut(config).SerializeToString(), threads=threads) for config in configs]
    times = _round_robin(sessions, passes=_PASSES, seconds=0.005, report=report)
    return np.array([np.percentile(row, 50) for row in times])


def _subnets(network: Cuttable, count: int, *, seed: int) -> list[Config]:
    """Draw subnets of all sizes: a share of its own for the subnet, then each block near it."""
    rng = random.Random(seed)
    space = network.space
    configs = [space.largest(), space.smallest()]
    while len(configs) < count:
        share = rng.random()
        values: dict[str, Any] = dict(space.sample(rng))
        for block in network.blocks:
            decision = space[block]
            assert isinstance(decision, Subset)
            wanted = round(decision.count * min(1.0, max(0.0, share + rng.uniform(-0.3, 0.3))))
            chosen = rng.sample(range(decision.count), max(decision.minimum, wanted))
            values[block] = tuple(sorted(chosen))
        configs.append(Config(values))
    rng.shuffle(configs)
    return configs


def _weights(times: Floats) -> Floats:
    return 1 / times


def _affine(sums: Floats, times: Floats) -> tuple[float, float]:
    weights = _weights(times)
    design = np.stack([sums, np.ones_like(sums)], 1) * weights[:, None]
    slope, constant = np.linalg.lstsq(design, times * weights, rcond=None)[0]
    return float(slope), float(constant)


def _factors(alone: Floats, times: Floats, slope: float) -> tuple[Floats, float]:
    """Fit one factor for each block and a constant by relative least squares, drawn towards the common slope."""
    weights = _weights(times)
    blocks = alone.shape[1]
    design = np.concatenate([alone, np.ones((len(alone), 1))], 1) * weights[:, None]
    pull = 0.05 * np.sqrt((design[:, :blocks] ** 2).sum(0)).mean()
    prior = np.concatenate([np.eye(blocks) * pull, np.zeros((blocks, 1))], 1)
    target = np.concatenate([times * weights, np.full(blocks, slope * pull)])
    solution = np.linalg.lstsq(np.concatenate([design, prior]), target, rcond=None)[0]
    return solution[:blocks].clip(min=0), float(solution[blocks])
