"""What tests of factories share: both kinds of factory, and a device that is not this machine."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from brickyard.data.source import load_data
from brickyard.devices.profile import BlockTimes, DeviceProfile
from brickyard.factory.build import BuildSettings, train_factory
from brickyard.factory.factory import Factory
from brickyard.train.joint import TrainSettings


def _quiet(stage: str, done: int, total: int, text: str) -> None:
    """Take no notice of progress."""


@pytest.fixture(scope="session")
def factory(pico: Path) -> Factory:
    """A loaded property factory."""
    return Factory.load(pico)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """A loaded class factory, barely trained."""
    out = tmp_path_factory.mktemp("digits") / "digits"
    settings = BuildSettings(
        network="residual_cnn_pico",
        backbone_steps=3,
        norm_sets=(1.0, 0.6),
        train=TrainSettings(steps=4, batch_size=16, lowest_limit=0.3),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brickyard.factory.build._CURVE_LIMITS", (0.5, 1.0))
        patch.setattr("brickyard.factory.quality._CURVE_PICTURES", 40)
        train_factory(load_data("digits"), settings, out=out, progress=_quiet)
    return Factory.load(out)


@pytest.fixture(scope="session")
def board() -> Callable[[Factory], DeviceProfile]:
    """Makes the profile of a machine elsewhere, whose times rise evenly with the bricks of a block."""

    def make(factory: Factory) -> DeviceProfile:
        blueprint, blocks = factory.folder.blueprint, {}
        for name in blueprint.blocks:
            count, kernel = blueprint.space[name].count, blueprint.kernel_of(name)
            kernels = (0,) if kernel is None else tuple(kernel.values)
            rows = tuple(tuple(np.linspace(0, 0.1 * count, count + 1).tolist()) for _ in kernels)
            blocks[name] = BlockTimes(
                counts=tuple(range(count + 1)),
                kernel=None if kernel is None else kernel.name,
                kernels=kernels,
                depth=blueprint.depth_of(name),
                ms_p20=rows,
                spread_ms=rows,
            )
        return DeviceProfile(
            name="board",
            machine="riscv64",
            processor="a board elsewhere",
            runtime="onnxruntime",
            threads=1,
            blueprint_sha256=blueprint.sha256,
            blocks=blocks,
            affine=(1.0, 0.0, 0.2),
            fixed_ms=0.2,
            median_ratio=1.0,
            residual_std_ms=0.01,
            held_out_mape=0.01,
            held_out_worst=0.02,
            noise=0.01,
            affine_mape=0.01,
            fitted=8,
            held_out=8,
            seed=0,
            created=datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        )

    return make
