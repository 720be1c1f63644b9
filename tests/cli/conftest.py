"""A pico factory that all tests of the command line share, trained by the command itself."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from brickyard.cli.app import app

GEOMETRY = "geometry:size=32,shapes=circle+square,colors=red+green+blue"
Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs `brickyard` with arguments in this process; errors that are not the user's are raised."""

    def runner(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return runner


@pytest.fixture(scope="session")
def pico(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a factory that is barely trained; the cache folder is a fresh one."""
    base = tmp_path_factory.mktemp("factory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        patch.setattr("brickyard.factory.build._FRESH_SCENES", 300)
        patch.setattr("brickyard.factory.build._CURVE_LIMITS", (0.25, 1.0))
        patch.setattr(import_module("brickyard.devices.profile"), "_PASSES", 3)
        done = run(
            *("train", "--data", f"{GEOMETRY},train=300,heldout=50", "--network", "residual_cnn_pico"),
            *("--steps", 8, "--backbone-steps", 4, "--batch-size", 16, "--out", base / "pico"),
        )
        assert done.exit_code == 0, done.output
        yield base / "pico"


@pytest.fixture(scope="session")
def model(run: Run, pico: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a made model; tests leave it as it is."""
    out = tmp_path_factory.mktemp("models") / "red_circle"
    done = run("make", pico, "--task", "circle red", "--max-macs", "60%", "--out", out)
    assert done.exit_code == 0, done.output
    return out
