"""Device profiles: block times measured on a device, from which the latency of any subnet is predicted.

The bricks of a block are interchangeable in time, so a block needs one time for each number of bricks. The
sum over blocks is corrected on whole subnets, see `brickyard.devices.fit`; other subnets, held out, give the
error.
"""

from __future__ import annotations

import platform
import random
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, Protocol

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
from brickyard.devices.fit import fit
from brickyard.devices.measure import (
    disagreement,
    open_session,
    processor_name,
    quiet,
    round_robin,
    runtime_name,
)

Progress = Callable[[int, int, str], None]
Floats = npt.NDArray[np.float64]

_FIT, _HELD_OUT, _PASSES, _COUNTS = 48, 32, 40, 24


class Cuttable(Protocol):
    """What a profile needs of a network: the graphs of subnets and of single blocks."""

    @property
    def space(self) -> Space:
        """All decisions."""

    @property
    def sha256(self) -> str:
        """Hash that tells the network from others."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the subsets that form blocks."""

    def cut(self, config: Mapping[str, Any]) -> onnx.ModelProto:
        """Cut a subnet out."""

    def region_model(
        self, block: str, count: int, choices: Mapping[str, Any] | None = None
    ) -> onnx.ModelProto:
        """Return a block alone with some bricks on."""

    def kernel_of(self, block: str) -> Choice | None:
        """Return the choice of a block's kernel size."""

    def depth_of(self, block: str) -> tuple[str, int] | None:
        """Return the depth that can leave a block out, and the block's place."""


class BlockTimes(BaseModel):
    """Times of one block alone.

    Attributes:
        counts: Numbers of bricks that were timed, ascending, from 0.
        kernel: Name of the decision of its kernel size, None if that is fixed.
        kernels: Kernel sizes that were timed; one entry, 0, if it is fixed.
        depth: Name of the depth that can leave the block out and the block's place, None if none can.
        ms_p20: Time `[kernels][counts]`, milliseconds, 20th percentile of the quietest burst.
        spread_ms: Median less 20th percentile of each, over all bursts.
        factor: What its time inside a network is, as a share of its time alone.
        offset_ms: What it costs less inside a network while any brick is on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    counts: tuple[int, ...]
    kernel: str | None
    kernels: tuple[int, ...]
    depth: tuple[str, int] | None
    ms_p20: tuple[tuple[float, ...], ...]
    spread_ms: tuple[tuple[float, ...], ...]
    factor: float = 1.0
    offset_ms: float = 0.0

    def alone(self, config: Mapping[str, Any], name: str) -> float:
        """Return the time of the block alone, interpolated between the counts that were timed."""
        if self.depth is not None and config[self.depth[0]] <= self.depth[1]:
            return 0.0
        row = 0 if self.kernel is None else self.kernels.index(config[self.kernel])
        return float(np.interp(len(config[name]), self.counts, self.ms_p20[row]))

    def inside(self, kernel: int = 0) -> list[float]:
        """Return what the block adds inside a network, milliseconds, for 0, 1, ... bricks.

        Args:
            kernel: Its kernel size, 0 if that is fixed.
        """
        bricks = np.arange(self.counts[-1] + 1)
        alone = np.interp(bricks, self.counts, self.ms_p20[self.kernels.index(kernel)])
        return list((self.factor * alone - self.offset_ms * (bricks > 0)).tolist())


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
        blueprint_sha256: The network's structure.
        blocks: Times by block.
        affine: Factor of the sum of block times, milliseconds less for each block that is on, and constant:
            the correction with common coefficients, fitted on whole subnets.
        fixed_ms: What is always paid: stem, shortcuts, head, session.
        median_ratio: Median of runs over their 20th percentile; predictions are medians.
        residual_std_ms: Standard deviation of the error on held-out subnets; smaller differences mean
            nothing.
        held_out_mape: Mean absolute error on held-out subnets, share of the measured time.
        held_out_worst: Largest of these errors.
        noise: How far two halves of the runs on whole subnets are apart, relative, a mean.
        affine_mape: Mean absolute error with common coefficients.
        fitted: Subnets that the correction was fitted on.
        held_out: Subnets that the error was measured on.
        seed: Seed of those subnets.
        created: Time, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    format_version: Literal[1] = 1
    name: str
    machine: str
    processor: str
    runtime: str
    threads: int
    precision: Literal["fp32"] = "fp32"
    blueprint_sha256: str
    blocks: dict[str, BlockTimes]
    affine: tuple[float, float, float]
    fixed_ms: float
    median_ratio: float
    residual_std_ms: float
    held_out_mape: float
    held_out_worst: float
    noise: float
    affine_mape: float
    fitted: int
    held_out: int
    seed: int
    created: str

    @cached_property
    def _tables(self) -> list[tuple[str, str | None, tuple[str, int] | None, dict[int, list[float]]]]:
        return [
            (name, block.kernel, block.depth, {kernel: block.inside(kernel) for kernel in block.kernels})
            for name, block in self.blocks.items()
        ]

    def predict(self, config: Mapping[str, Any]) -> float:
        """Predict the median latency of a subnet on the device while nothing else runs, milliseconds.

        Args:
            config: One legal value for each decision.
        """
        total = self.fixed_ms
        for name, kernel, depth, rows in self._tables:
            if depth is None or config[depth[0]] > depth[1]:
                total += rows[0 if kernel is None else config[kernel]][len(config[name])]
        return total

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON, whole or not at all."""
        write_bytes(Path(path), self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> DeviceProfile:
        """Read a profile.

        Raises:
            DeviceError: The file is missing or not a profile of this version.
        """
        if not Path(path).is_file():
            raise DeviceError(f"{path} is not a file; expected a device profile, made by `brickyard profile`")
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            raise DeviceError(
                f"{path} is not a device profile of version 1 ({where}: {first['msg']}); make it with "
                "`brickyard profile`"
            ) from None


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
        raise DeviceError(f"threads = {threads} is not allowed; allowed: 1 or more")
    report = progress or (lambda done, total, text: None)
    grids = {block: _grid(network, block) for block in network.blocks}
    configs = _subnets(network, _FIT + _HELD_OUT, seed=seed)
    models = [model for block in network.blocks for model in _alone(network, block, grids[block])]
    models += [network.cut(config) for config in configs]
    sessions = []
    for number, model in enumerate(models):
        report(number, 2 * len(models), "opening blocks and subnets")
        sessions.append(open_session(model.SerializeToString(), threads=threads))
    bursts = round_robin(
        sessions,
        most_passes=_PASSES,
        report=lambda done, most: report(
            len(models) + len(models) * done // most, 2 * len(models), "timing until halves agree"
        ),
    )
    parts = iter(bursts)
    tables = {block: _table(network, block, grid, parts) for block, grid in grids.items()}
    bursts = list(parts)
    low = np.array([quiet(rows, 20) for rows in bursts])
    ratio = float(np.median([quiet(rows, 50) for rows in bursts] / low))
    times = low * ratio
    alone = np.array([[table.alone(config, block) for block, table in tables.items()] for config in configs])
    fitted = fit(alone[:_FIT], times[:_FIT])
    measured = times[_FIT:]
    errors = fitted.predict(alone[_FIT:]) - measured
    common = fitted.common(alone[_FIT:]) - measured
    report(2 * len(models), 2 * len(models), "done")
    return DeviceProfile(
        name=name or this_device_name(threads),
        machine=f"{platform.machine()} {platform.system()}",
        processor=processor_name(),
        runtime=runtime_name(),
        threads=threads,
        blueprint_sha256=network.sha256,
        blocks={
            block: table.model_copy(update={"factor": float(factor), "offset_ms": float(offset)})
            for (block, table), factor, offset in zip(
                tables.items(), fitted.factors, fitted.offsets, strict=True
            )
        },
        affine=(fitted.slope, fitted.offset, fitted.common_constant),
        fixed_ms=fitted.constant,
        median_ratio=ratio,
        residual_std_ms=float(errors.std()),
        held_out_mape=float((np.abs(errors) / measured).mean()),
        held_out_worst=float((np.abs(errors) / measured).max()),
        noise=disagreement(bursts),
        affine_mape=float((np.abs(common) / measured).mean()),
        fitted=_FIT,
        held_out=_HELD_OUT,
        seed=seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _grid(network: Cuttable, block: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the kernel sizes and the numbers of bricks at which a block is timed."""
    subset, kernel = network.space[block], network.kernel_of(block)
    assert isinstance(subset, Subset)
    kernels = (0,) if kernel is None else tuple(int(value) for value in kernel.values)
    points = min(subset.count, max(2, _COUNTS // len(kernels)))
    return kernels, tuple(np.linspace(1, subset.count, points).round().astype(int).tolist())


def _alone(
    network: Cuttable, block: str, grid: tuple[tuple[int, ...], tuple[int, ...]]
) -> Iterator[onnx.ModelProto]:
    kernel = network.kernel_of(block)
    for size, count in product(*grid):
        yield network.region_model(block, count, None if kernel is None else {kernel.name: size})


def _table(
    network: Cuttable, block: str, grid: tuple[tuple[int, ...], tuple[int, ...]], bursts: Iterator[Floats]
) -> BlockTimes:
    kernels, counts = grid
    kernel = network.kernel_of(block)
    timed = list(islice(bursts, len(kernels) * len(counts)))
    low = np.array([quiet(rows, 20) for rows in timed]).reshape(len(kernels), -1)
    spread = np.array([np.median(rows) - np.percentile(rows, 20) for rows in timed]).reshape(low.shape)
    return BlockTimes(
        counts=(0, *counts),
        kernel=None if kernel is None else kernel.name,
        kernels=kernels,
        depth=network.depth_of(block),
        ms_p20=tuple((0.0, *row) for row in low.round(6).tolist()),
        spread_ms=tuple((0.0, *row) for row in spread.round(6).tolist()),
    )


def _subnets(network: Cuttable, count: int, *, seed: int) -> list[Config]:
    """Draw subnets of all sizes, the smallest and the largest first.

    A subnet has a share of bricks of its own, and each block is near it; in every second one some blocks are
    at their minimum, which is empty for most.
    """
    rng = random.Random(seed)
    space = network.space
    configs = [space.smallest(), space.largest()]
    while len(configs) < count:
        share, sparse = rng.random(), len(configs) % 2 == 0
        values: dict[str, Any] = dict(space.sample(rng))
        for block in network.blocks:
            subset = space[block]
            assert isinstance(subset, Subset)
            wanted = round(subset.count * min(1.0, max(0.0, share + rng.uniform(-0.3, 0.3))))
            least = sparse and rng.random() < 0.3
            chosen = rng.sample(range(subset.count), subset.minimum if least else max(subset.minimum, wanted))
            values[block] = tuple(sorted(chosen))
        configs.append(space.check(values))
    return configs
