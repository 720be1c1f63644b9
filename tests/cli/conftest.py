"""What tests of the command line share: a runner, quick profiles and a made model."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from brickyard.cli.app import app

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def quick_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few passes where this machine is profiled."""
    monkeypatch.setattr(import_module("brickyard.devices.profile"), "_PASSES", 3)


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs `brickyard` with arguments in this process; errors that are not the user's are raised."""

    def runner(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return runner


@pytest.fixture(scope="session")
def model(run: Run, pico: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a made model; tests leave it as it is."""
    out = tmp_path_factory.mktemp("models") / "red_circle"
    done = run("make", pico, "--task", "circle red", "--max-macs", "60%", "--out", out)
    assert done.exit_code == 0, done.output
    return out
