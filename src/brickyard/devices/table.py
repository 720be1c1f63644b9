"""A device as a plain table: block times that somebody measured, in a spreadsheet or with other tools.

    block,kernel,bricks,ms
    fixed,,,0.031
    stage0.block0,,0,0
    stage0.block0,,12,0.084

`fixed` is what every subnet pays; the other rows say what a block adds inside of a network with that many
bricks. Numbers in between are interpolated. The words of a head may be left out, and cost nothing then. A
fifth column, `mj`, may tell the energy in the same way, in millijoules: then energy can be limited too.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

from brickyard.core.decision import Subset
from brickyard.core.errors import DeviceError
from brickyard.core.space import HEAD_SUBSETS
from brickyard.devices.energy_model import EnergyModel
from brickyard.devices.profile import BlockTimes, Cuttable, DeviceProfile

COLUMNS = ("block", "kernel", "bricks", "ms")
ENERGY = "mj"
_FIXED = "fixed"
_Times = dict[str, dict[int, dict[int, float]]]


def read_table(path: str | Path, network: Cuttable) -> DeviceProfile:
    """Read a device from a CSV file.

    Args:
        path: File with the columns `block`, `kernel` (empty where it is fixed), `bricks` and `ms`, and one
            row named `fixed`; `mj` may stand there too.
        network: The network whose blocks they are.

    Returns:
        A profile named after the file, whose errors are unknown.

    Raises:
        DeviceError: The file is missing or malformed, a block lacks, or its times do not reach all its
            bricks.
    """
    file = Path(path)
    if not file.is_file():
        raise DeviceError(f"{file} is not a file; expected a table of block times")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = sorted(reader.fieldnames or ())
            rows = list(enumerate(reader, start=2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DeviceError(f"{file} is not a table in UTF-8 ({error}); write it as CSV again") from None
    if columns not in (sorted(COLUMNS), sorted((*COLUMNS, ENERGY))):
        raise DeviceError(
            f"{file} has the columns {columns}; expected {', '.join(COLUMNS)}, and {ENERGY} if known"
        )
    fixed, blocks = _costs(file, rows, "ms", network)
    energy = None
    if ENERGY in columns:
        fixed_mj, energies = _costs(file, rows, ENERGY, network)
        energy = EnergyModel(
            fixed_mj=fixed_mj,
            mj_per_ms=0.0,
            blocks={name: block.ms_p20 for name, block in energies.items()},
            held_out_mape=None,
            fitted=0,
            held_out=0,
            idle_watts=None,
            counter="table",
        )
    return DeviceProfile(
        name=file.stem,
        machine="table",
        processor="table",
        runtime="unknown",
        threads=1,
        blueprint_sha256=network.sha256,
        blocks=blocks,
        affine=(1.0, 0.0, fixed),
        fixed_ms=fixed,
        median_ratio=1.0,
        residual_std_ms=None,
        held_out_mape=None,
        held_out_worst=None,
        noise=None,
        affine_mape=None,
        fitted=0,
        held_out=0,
        seed=0,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        energy=energy,
    )


def _costs(
    file: Path, rows: list[tuple[int, dict[str, str]]], column: str, network: Cuttable
) -> tuple[float, dict[str, BlockTimes]]:
    """Read one column: what every subnet pays, and each block's costs on its grid."""
    fixed: float | None = None
    costs: _Times = {}
    for line, row in rows:
        where = f"{file}, line {line}"
        if None in row:
            raise DeviceError(f"{where}: there are more cells than columns")
        value = _number(row[column], f"{where}: {column}", float)
        if row["block"] == _FIXED:
            if fixed is not None:
                raise DeviceError(f"{where}: {_FIXED} stands there twice; give it once")
            fixed = value
            continue
        kernel, bricks = _place(row, network, where)
        held = costs.setdefault(row["block"], {}).setdefault(kernel, {})
        if bricks in held:
            raise DeviceError(
                f"{where}: {row['block']} with {bricks} bricks stands there twice; give it once"
            )
        held[bricks] = value
    for head in set(HEAD_SUBSETS) & set(network.blocks) - set(costs):
        subset = network.space[head]
        assert isinstance(subset, Subset)
        costs[head] = {0: {subset.count: 0.0}}
    if fixed is None:
        raise DeviceError(f"{file} has no row {_FIXED!r}; add what every subnet pays, 0 if that is unknown")
    return fixed, {block: _block(file, block, costs.get(block, {}), network) for block in network.blocks}


def _number(text: str, what: str, kind: type[int] | type[float]) -> float:
    try:
        value = kind(text)
    except (TypeError, ValueError):
        raise DeviceError(f"{what} = {text!r} is no {'whole ' if kind is int else ''}number") from None
    if not 0 <= value < float("inf"):
        raise DeviceError(f"{what} = {text} is not allowed; allowed: 0 or more")
    return value


def _place(row: dict[str, str], network: Cuttable, where: str) -> tuple[int, int]:
    """Return the kernel size, 0 where it is fixed, and the number of bricks of a row."""
    block = row["block"]
    if block not in network.blocks:
        raise DeviceError(
            f"{where}: {block!r} is no block of this network; known: {', '.join(network.blocks)}"
        )
    choice = network.kernel_of(block)
    sizes = ("",) if choice is None else tuple(str(size) for size in choice.values)
    if row["kernel"].strip() not in sizes:
        raise DeviceError(
            f"{where}: kernel = {row['kernel']!r} of {block} is not allowed; allowed: "
            + ("empty, it is fixed" if choice is None else ", ".join(sizes))
        )
    subset = network.space[block]
    assert isinstance(subset, Subset)
    bricks = int(_number(row["bricks"], f"{where}: bricks", int))
    if bricks > subset.count:
        raise DeviceError(
            f"{where}: bricks = {bricks} of {block} is not allowed; allowed: 0 to {subset.count}"
        )
    return int(row["kernel"] or 0), bricks


def _block(file: Path, block: str, times: dict[int, dict[int, float]], network: Cuttable) -> BlockTimes:
    choice, subset = network.kernel_of(block), network.space[block]
    assert isinstance(subset, Subset)
    kernels = (0,) if choice is None else tuple(int(size) for size in choice.values)
    counts = sorted({0, *(count for held in times.values() for count in held)})
    for kernel in kernels:
        held = {0: 0.0, **times.get(kernel, {})}
        if subset.count not in held or set(held) != set(counts):
            size = f" with kernel {kernel}" if choice is not None else ""
            raise DeviceError(
                f"{file}: {block}{size} has times for {sorted(held)} bricks; needed are the largest number, "
                f"{subset.count}, and the same numbers for every kernel"
            )
    table = tuple(tuple({0: 0.0, **times[kernel]}[count] for count in counts) for kernel in kernels)
    return BlockTimes(
        counts=tuple(counts),
        kernel=None if choice is None else choice.name,
        kernels=kernels,
        depth=network.depth_of(block),
        ms_p20=table,
        spread_ms=tuple(tuple(0.0 for _ in row) for row in table),
    )
