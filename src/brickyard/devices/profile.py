"""Device profiles: block times measured on a device, from which the latency of any subnet is predicted.

The bricks of a block are interchangeable in time, so a block needs one time for each number of bricks. The
sum over blocks is corrected on whole subnets, see `brickyard.devices.fit`; other subnets, held out, give the
error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from pydantic import BaseModel, ConfigDict, ValidationError

from brickyard.core.config import Config
from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import DeviceError
from brickyard.core.files import write_bytes
from brickyard.core.space import Space
from brickyard.devices.energy_model import EnergyModel
from brickyard.devices.measure import round_robin, this_device_name
from brickyard.devices.record import profile_record
from brickyard.devices.runtimes.base import Runtime, check_threads
from brickyard.devices.runtimes.ort import ORT

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
            nothing. This and the next entries are None for a device that is a table.
        held_out_mape: Mean absolute error on held-out subnets, share of the measured time.
        held_out_worst: Largest of these errors.
        noise: How far two halves of the runs on whole subnets are apart, relative, a mean.
        slowdown: How much slower the machine was at the end of the measurement than at its start, a share.
        clock_step_ns: Smallest step of the machine's clock.
        affine_mape: Mean absolute error with common coefficients.
        fitted: Subnets that the correction was fitted on.
        held_out: Subnets that the error was measured on.
        seed: Seed of those subnets.
        created: Time, ISO 8601, UTC.
        energy: Energy of one picture; None where nothing is known of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    format_version: Literal[1] = 1
    name: str
    machine: str
    processor: str
    runtime: str
    threads: int
    precision: Literal["fp32", "int8"] = "fp32"
    blueprint_sha256: str
    blocks: dict[str, BlockTimes]
    affine: tuple[float, float, float]
    fixed_ms: float
    median_ratio: float
    residual_std_ms: float | None
    held_out_mape: float | None
    held_out_worst: float | None
    noise: float | None
    slowdown: float = 0.0
    clock_step_ns: int = 1
    affine_mape: float | None
    fitted: int
    held_out: int
    seed: int
    created: str
    energy: EnergyModel | None = None

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

    def predict_energy(self, config: Mapping[str, Any]) -> float | None:
        """Predict the energy of one picture, millijoules, idle power included; None where it is unknown."""
        return None if self.energy is None else self.energy.predict(self, config)

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
            if any(part["loc"] == ("kind",) for part in error.errors()):
                raise DeviceError(
                    f"{path} tells times of whole subnets of a network, for `brickyard search`; here times "
                    "of a factory's blocks are needed, as `brickyard profile` of the factory gives them"
                ) from None
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            raise DeviceError(
                f"{path} is not a device profile of version 1 ({where}: {first['msg']}); make it with "
                "`brickyard profile`"
            ) from None


def profile(
    network: Cuttable,
    *,
    threads: int,
    seed: int,
    runtime: Runtime = ORT,
    twin: Callable[[Mapping[str, Any]], Any] | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> DeviceProfile:
    """Measure a network's blocks and whole subnets on this machine.

    Args:
        network: The exported network.
        threads: Threads of the runtime.
        seed: Seed of the subnets.
        runtime: What runs the models.
        twin: Builds the plain torch twin of a config; needed by runtimes that run modules.
        name: Name of the device; made from processor, runtime, precision and threads if None.
        progress: Called with steps done, steps in all, and a short text.

    Returns:
        The profile.

    Raises:
        DeviceError: `threads` is below 1, or the runtime cannot run the network.
        MissingExtraError: The runtime is not installed.
    """
    check_threads(threads)
    name = name or this_device_name(threads, runtime)
    report = progress or (lambda done, total, text: None)
    plan = plan_of(network, seed=seed)
    models = list(models_of(network, plan))
    sessions = []
    configs = [None] * (len(models) - len(plan["subnets"])) + plan["subnets"]
    for number, (model, config) in enumerate(zip(models, configs, strict=True)):
        report(number, 2 * len(models), "opening blocks and subnets")
        content = runtime.prepared(model.SerializeToString())
        whole = None if twin is None or config is None else partial(twin, network.space.check(config))
        sessions.append(runtime.open(content, threads=threads, twin=whole))
    bursts = round_robin(
        sessions,
        most_passes=_PASSES,
        report=lambda done, most: report(
            len(models) + len(models) * done // most, 2 * len(models), "timing until halves agree"
        ),
    )
    report(2 * len(models), 2 * len(models), "done")
    record = profile_record(
        plan,
        bursts,
        name=name,
        runtime=runtime.full_name(),
        precision=runtime.precision,
        threads=threads,
    )
    return DeviceProfile.model_validate(record)


def plan_of(network: Cuttable, *, seed: int) -> dict[str, Any]:
    """Decide what is timed: JSON values that `profile_record` reads.

    Args:
        network: The exported network.
        seed: Seed of the subnets.

    Returns:
        The network's hash, the blocks with the numbers of bricks and kernels at which each is timed, and the
        whole subnets with what each has of every block; those after the first `fit` are held out.
    """
    blocks: dict[str, Any] = {}
    for block in network.blocks:
        kernels, counts = _grid(network, block)
        kernel, depth = network.kernel_of(block), network.depth_of(block)
        blocks[block] = {
            "counts": [0, *counts],
            "kernel": None if kernel is None else kernel.name,
            "kernels": list(kernels),
            "depth": None if depth is None else list(depth),
        }
    configs = draw_subnets(network, _FIT + _HELD_OUT, seed=seed)
    return {
        "blueprint_sha256": network.sha256,
        "seed": seed,
        "fit": _FIT,
        "blocks": blocks,
        "subnets": [dict(config) for config in configs],
    }


def models_of(network: Cuttable, plan: Mapping[str, Any]) -> Iterator[onnx.ModelProto]:
    """Cut the models of a plan: each block alone at each kernel and number of bricks, then the subnets."""
    for block, grid in plan["blocks"].items():
        for size, count in product(grid["kernels"], grid["counts"][1:]):
            yield network.region_model(
                block, count, None if grid["kernel"] is None else {grid["kernel"]: size}
            )
    for config in plan["subnets"]:
        yield network.cut(network.space.check(config))


def _grid(network: Cuttable, block: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the kernel sizes and the numbers of bricks at which a block is timed."""
    subset, kernel = network.space[block], network.kernel_of(block)
    assert isinstance(subset, Subset)
    kernels = (0,) if kernel is None else tuple(int(value) for value in kernel.values)
    points = min(subset.count, max(2, _COUNTS // len(kernels)))
    return kernels, tuple(np.linspace(1, subset.count, points).round().astype(int).tolist())


def draw_subnets(network: Cuttable, count: int, *, seed: int) -> list[Config]:
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
