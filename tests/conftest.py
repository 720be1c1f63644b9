"""What all tests share: one thread, fixed seeds, no display."""

import importlib.util
import os
import random
from collections.abc import Iterator
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")  # read when matplotlib is first imported

import numpy as np
import pytest

_HAS_TORCH = importlib.util.find_spec("torch") is not None
if _HAS_TORCH:
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked ``gpu`` where no CUDA device is present."""
    if _HAS_TORCH and torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds the global generators before each test and gives the seed; no test depends on the one before."""
    value = 1234
    random.seed(value)
    np.random.seed(value)
    if _HAS_TORCH:
        torch.manual_seed(value)
    return value


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh cache folder instead of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a property factory that is barely trained, by the command itself."""
    from typer.testing import CliRunner

    from brickyard.cli.app import app

    out = tmp_path_factory.mktemp("factory") / "pico"
    scenes = "geometry:size=32,shapes=circle+square,colors=red+green+blue,train=300,heldout=50"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brickyard.factory.build._FRESH_SCENES", 300)
        patch.setattr("brickyard.factory.build._CURVE_LIMITS", (0.25, 1.0))
        arguments = ["train", "--data", scenes, "--network", "residual_cnn_pico", "--out", str(out)]
        arguments += ["--steps", "8", "--backbone-steps", "4", "--batch-size", "16"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a factory that detects properties, barely trained, by the command itself."""
    from typer.testing import CliRunner

    from brickyard.cli.app import app

    out = tmp_path_factory.mktemp("factory") / "detector"
    scenes = "geometry:size=32,shapes=circle+square,colors=red+green,train=200,"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brickyard.factory.build._FRESH_SCENES", 200)
        patch.setattr("brickyard.factory.build._CURVE_LIMITS", (1.0,))
        patch.setattr("brickyard.factory.boxes._CURVE_PICTURES", 20)
        arguments = ["train", "--job", "detect", "--data", f"{scenes}heldout=50", "--out", str(out)]
        arguments += ["--network", "center_pico", "--steps", "12", "--backbone-steps", "60"]
        arguments += ["--batch-size", "16", "--lowest-limit", "0.35", "--backbone-rate", "1e-2"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="session")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network folder: a supernet of choices with fresh weights, and pictures of digits."""
    from brickyard.data.source import load_data
    from brickyard.factory.network_folder import save_network
    from brickyard.networks import build

    torch.manual_seed(0)
    network = build("ofa_mobile_pico", num_outputs=10, head_kind="classes", in_channels=1, image_size=16)
    return save_network(network, tmp_path_factory.mktemp("network") / "supernet", source=load_data("digits"))


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A numpy generator of the test's own."""
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders: pictures of 32 pixels with stripes across, or upright, and plain ones."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("pictures") / "stripes", np.random.default_rng(0)
    for name in ("across", "upright", "plain grey"):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            picture = rng.normal(110, 12, (32, 32, 3))
            place = int(rng.integers(4))
            if name == "across":
                picture[place::4] += 90
            elif name == "upright":
                picture[:, place::4] += 90
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def taught(pico: Path, stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the property factory that learned two tasks since, by the command itself."""
    import shutil

    from typer.testing import CliRunner

    from brickyard.cli.app import app

    factory = tmp_path_factory.mktemp("taught") / "pico"
    shutil.copytree(pico, factory)
    for name, more in (("Stripes", ["--mask-epochs", "4", "--weight-epochs", "4"]), ("again", [])):
        arguments = ["learn", str(factory), "--task", name, "--data", str(stripes), "--batch-size", "16"]
        arguments += more or ["--arm", "supsup", "--mask-epochs", "1"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("brickyard.factory.quality._CURVE_PICTURES", 20)
            done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return factory
