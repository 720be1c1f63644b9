"""What becomes of the times that a plan asked for: the record of a device profile, with numpy alone.

This file and those it imports also run inside a kit, on machines that have no brickyard.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from brickyard.devices.fit import fit
from brickyard.devices.measure import (
    clock_step_ns,
    disagreement,
    medians,
    processor_name,
    quiet,
    slowdown,
)

Floats = npt.NDArray[np.float64]

BY_SUBNETS: Final = "subnets"
"""Kind of the plans and records that are about whole subnets alone."""


def profile_record(
    plan: Mapping[str, Any],
    bursts: Sequence[Floats],
    *,
    name: str,
    runtime: str,
    precision: str,
    threads: int,
) -> dict[str, Any]:
    """Make the record of a profile; see `brickyard.devices.profile.DeviceProfile` for its entries.

    Args:
        plan: What was timed, as `plan_of` gives it.
        bursts: Milliseconds `[passes, runs]` of each model, in the order of `models_of`.
        name: Name of the device.
        runtime: Library and version.
        precision: Numbers that it computes with.
        threads: Threads of the runtime.

    Returns:
        JSON values.
    """
    parts = iter(bursts)
    tables = {block: _table(grid, parts) for block, grid in plan["blocks"].items()}
    whole = list(parts)
    (times, ratio), first = medians(whole), plan["fit"]
    alone = np.array(
        [[alone_ms(table, config, block) for block, table in tables.items()] for config in plan["subnets"]]
    )
    fitted = fit(alone[:first], times[:first])
    measured = times[first:]
    errors = fitted.predict(alone[first:]) - measured
    common = fitted.common(alone[first:]) - measured
    for table, factor, offset in zip(tables.values(), fitted.factors, fitted.offsets, strict=True):
        table.update(factor=float(factor), offset_ms=float(offset))
    return {
        **_measurement(whole, name=name, runtime=runtime, precision=precision, threads=threads),
        "blueprint_sha256": plan["blueprint_sha256"],
        "blocks": tables,
        "affine": [fitted.slope, fitted.offset, fitted.common_constant],
        "fixed_ms": fitted.constant,
        "median_ratio": ratio,
        "residual_std_ms": float(errors.std()),
        "held_out_mape": float((np.abs(errors) / measured).mean()),
        "held_out_worst": float((np.abs(errors) / measured).max()),
        "affine_mape": float((np.abs(common) / measured).mean()),
        "fitted": first,
        "held_out": len(whole) - first,
        "seed": plan["seed"],
    }


def subnets_record(
    plan: Mapping[str, Any],
    bursts: Sequence[Floats],
    *,
    name: str,
    runtime: str,
    precision: str,
    threads: int,
) -> dict[str, Any]:
    """Make the record of a profile by whole subnets; see `brickyard.factory.subnet_profile.SubnetProfile`.

    Args:
        plan: What was timed, as `brickyard.factory.subnet_timing.plan_of` gives it.
        bursts: Milliseconds `[passes, runs]` of each subnet, in the order of the plan.
        name: Name of the device.
        runtime: Library and version.
        precision: Numbers that it computes with.
        threads: Threads of the runtime.

    Returns:
        JSON values. What is predicted, and how well, is worked out where the search is.
    """
    times, _ = medians(bursts)
    return {
        **_measurement(bursts, name=name, runtime=runtime, precision=precision, threads=threads),
        "kind": BY_SUBNETS,
        **{part: plan[part] for part in ("network_sha256", "space", "subnets", "fitted", "seed")},
        "ms": times.round(6).tolist(),
    }


def _measurement(
    bursts: Sequence[Floats], *, name: str, runtime: str, precision: str, threads: int
) -> dict[str, Any]:
    """Return what every record tells of the device and of how steady it was."""
    return {
        "format_version": 1,
        "name": name,
        "machine": f"{platform.machine()} {platform.system()}",
        "processor": processor_name(),
        "runtime": runtime,
        "threads": threads,
        "precision": precision,
        "noise": disagreement(bursts),
        "slowdown": slowdown(bursts) if len(bursts[0]) >= 3 else 0.0,
        "clock_step_ns": clock_step_ns(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }


def predicted_ms(record: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """Return what a profile's record predicts for a subnet, as `DeviceProfile.predict` does."""
    total = float(record["fixed_ms"])
    for block, table in record["blocks"].items():
        alone = alone_ms(table, config, block)
        total += table["factor"] * alone - (table["offset_ms"] if alone > 0 else 0.0)
    return total


def alone_ms(table: Mapping[str, Any], config: Mapping[str, Any], block: str) -> float:
    """Return the time of a block alone, interpolated between the numbers of bricks that were timed."""
    depth = table["depth"]
    if depth is not None and config[depth[0]] <= depth[1]:
        return 0.0
    row = 0 if table["kernel"] is None else table["kernels"].index(config[table["kernel"]])
    return float(np.interp(len(config[block]), table["counts"], table["ms_p20"][row]))


def _table(grid: Mapping[str, Any], bursts: Iterator[Floats]) -> dict[str, Any]:
    kernels, counts = grid["kernels"], grid["counts"]
    timed = list(islice(bursts, len(kernels) * (len(counts) - 1)))
    low = np.array([quiet(rows, 20) for rows in timed]).reshape(len(kernels), -1)
    spread = np.array([np.median(rows) - np.percentile(rows, 20) for rows in timed]).reshape(low.shape)
    return {
        **grid,
        "ms_p20": [[0.0, *row] for row in low.round(6).tolist()],
        "spread_ms": [[0.0, *row] for row in spread.round(6).tolist()],
    }
