"""What all tests share: one thread, fixed seeds, no display."""

import importlib.util
import os
import random

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


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A numpy generator of the test's own."""
    return np.random.default_rng(seed)
