"""Energy of any subnet, predicted: from its latency, or from its blocks where a table tells theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from brickyard.devices.energy import SUBNETS, EnergyCounter, energy_record
from brickyard.devices.runtimes.base import Runtime
from brickyard.devices.runtimes.ort import ORT

if TYPE_CHECKING:
    from brickyard.devices.profile import Cuttable, DeviceProfile

_SEED = 1_000_003  # added to the profile's, so that its own subnets are not seen again


class EnergyModel(BaseModel):
    """What is known of a device's energy for one network: fixed + per millisecond + each block, added up.

    Attributes:
        fixed_mj: Millijoules that every subnet costs.
        mj_per_ms: Millijoules per millisecond of predicted latency, which is the power in watts.
        blocks: Millijoules of each block `[kernels][counts]`, on the grid of its times; empty where energy
            was measured on whole subnets.
        held_out_mape: Mean absolute error on held-out subnets, share of what was measured; None for a table.
        fitted: Subnets that it was fitted on.
        held_out: Subnets that the error was measured on.
        idle_watts: Power of the idle machine, None for a table. Energies have it in them.
        counter: What was counted; `table` for a table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_mj: float
    mj_per_ms: float
    blocks: dict[str, tuple[tuple[float, ...], ...]] = {}
    held_out_mape: float | None
    fitted: int
    held_out: int
    idle_watts: float | None
    counter: str

    def predict(self, profile: DeviceProfile, config: Any) -> float:
        """Predict the energy of one picture, millijoules.

        Args:
            profile: The device whose energy this is.
            config: One legal value for each decision.
        """
        total = self.fixed_mj
        if self.mj_per_ms:
            total += self.mj_per_ms * profile.predict(config)
        for name, rows in self.blocks.items():
            block = profile.blocks[name]
            if block.depth is None or config[block.depth[0]] > block.depth[1]:
                row = rows[0 if block.kernel is None else block.kernels.index(config[block.kernel])]
                total += float(np.interp(len(config[name]), block.counts, row))
        return total


def with_energy(
    network: Cuttable,
    profile: DeviceProfile,
    counter: EnergyCounter,
    *,
    runtime: Runtime = ORT,
    twin: Callable[[Mapping[str, Any]], Any] | None = None,
    progress: Callable[[int, int, str], None],
) -> DeviceProfile:
    """Measure the energy of whole subnets on this machine and add it to its profile.

    Args:
        network: The exported network.
        profile: Profile of this machine, by whose latencies energy is predicted.
        counter: What counts.
        runtime: What the profile was measured with.
        twin: Builds the plain torch twin of a config; needed by runtimes that run modules.
        progress: Called with subnets done, subnets in all, and a short text.

    Returns:
        The profile with energy.
    """
    from brickyard.devices.profile import draw_subnets

    configs = draw_subnets(network, SUBNETS, seed=profile.seed + _SEED)
    # The smallest and the largest come first: both are fitted on.
    sessions = [
        runtime.open(
            runtime.prepared(network.cut(config).SerializeToString()),
            threads=profile.threads,
            twin=None if twin is None else partial(twin, config),
        )
        for config in configs
    ]
    record = energy_record(
        sessions,
        [profile.predict(config) for config in configs],
        counter,
        report=lambda done, total: progress(done, total, "energy of subnets"),
    )
    progress(len(configs), len(configs), "done")
    return profile.model_copy(update={"energy": EnergyModel(**record)})
