"""Runs the own training of ExSSNeT or SupSup on tasks that another process has prepared.

    python _continual_peer_run.py exssnet|supsup CODE FOLDER THREADS

CODE is a folder of github.com/prateeky2806/exessnet or github.com/RAIVNLab/supsup; nothing of it is changed.
FOLDER holds `request.json` and `data.npz` and takes `accuracies.npy`. What stands between that code and a
processor of today is put in its way here: libraries that it imports and does not need for this become empty
modules, its data loader is ours, and of ExSSNeT so is the function that reads its checkpoints back, which
wants a graphics card.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import json
import os
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

_ABSENT = (
    *("wandb", "torchvision", "torchtext", "transformers", "avalanche", "datasets", "tensorboard"),
    *("seaborn", "matplotlib", "yaml"),
)
_TEST_BATCH = 500


class _Anything:
    """Stands for any name of an empty module: can be called and asked for anything, does nothing."""

    def __init__(self, *_given: Any, **_named: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *_given: Any, **_named: Any) -> Any:
        return _Anything()


def _name(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything


class _Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes empty modules of the libraries that are not needed."""

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        wanted = name.split(".", maxsplit=1)[0] in _ABSENT or name == "torch.utils.tensorboard"
        return importlib.util.spec_from_loader(name, self, is_package=True) if wanted else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = _name  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Loaders:
    """The tasks, as the original code asks for them."""

    arrays: Any
    batch_size: int
    num_tasks: int

    def __init__(self, **_named: Any) -> None:
        labels = [part for name, part in self.arrays.items() if "_labels" in name]
        self.max_classes = self.total_classes = 1 + max(int(part.max()) for part in labels)
        self.train_loaders, self.val_loaders, self.test_loaders = (
            [self._loader(part, number) for number in range(self.num_tasks)]
            for part in ("train", "held", "test")
        )

    def _loader(self, part: str, number: int) -> Any:
        if "orders" in self.arrays:
            inputs = self.arrays[f"{part}_inputs"][:, self.arrays["orders"][number]]
            labels = self.arrays[f"{part}_labels"]
        else:
            inputs, labels = (self.arrays[f"{part}_{kind}_{number}"] for kind in ("inputs", "labels"))
        data = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))
        if part == "train":
            return DataLoader(data, self.batch_size, shuffle=True)
        return DataLoader(data, _TEST_BATCH)  # each batch sorts all scores anew

    def update_task(self, number: int) -> None:
        """Make a task the one that is learned."""
        self.train_loader, self.val_loader = self.train_loaders[number], self.val_loaders[number]
        self.test_loader = self.test_loaders[number]


def main() -> None:
    """Read the request, run the original `main`, write the accuracies."""
    kind, code, folder, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    request = json.loads((folder / "request.json").read_text())
    settings = request["settings"]
    with np.load(folder / "data.npz", allow_pickle=False) as file:
        _Loaders.arrays = {name: file[name] for name in file.files}
    _Loaders.batch_size, _Loaders.num_tasks = settings["batch_size"], settings["num_tasks"]
    sys.meta_path.insert(0, _Empty())
    sys.path.insert(0, str(code))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        if kind == "exssnet":
            table = _exssnet(folder, settings, **request["network"])
        else:
            table = _supsup(folder, settings)
    np.save(folder / "accuracies.npy", np.asarray(table, dtype=np.float64))


def _exssnet(folder: Path, settings: dict[str, Any], *, resnet_channels: int | None, own_heads: bool) -> Any:
    """Run `main_vision.main` of ExSSNeT; return its accuracies on tasks after each was learned."""
    loader = _pretend("data.aval_datasets")
    loader.AvalancheToPytorchDataset = _Loaders  # type: ignore[attr-defined]
    sys.argv = ["main_vision.py", "--server-home", str(folder)]
    _set(
        dataname="mnist",
        conv_type="MultitaskMaskConv",
        bn_type="MultitaskNonAffineBN",
        conv_init="signed_constant",
        er_sparsity="normal",
        model="LeNet",
        log_dir=str(folder / "logs"),
        eval_all=True,
        eval_ckpts=[],
        multigpu=None,
        device=torch.device("cpu"),
        **settings,
    )
    original = importlib.import_module("main_vision")
    original.my_utils.load_best_training = _load_best
    if resnet_channels is not None:
        original.LeNet = partial(_residual, in_channels=resnet_channels, own_heads=own_heads)
    return original.main()


def _residual(num_classes: int, *, in_channels: int, own_heads: bool) -> torch.nn.Module:
    """Build the network of `_continual_nets.small_resnet` from the layers of ExSSNeT's code."""
    layers = importlib.import_module("models.builder").Builder()

    class Block(torch.nn.Module):
        def __init__(self, width_in: int, width: int) -> None:
            super().__init__()
            self.conv1, self.norm1 = layers.conv3x3(width_in, width, 2), layers.batchnorm(width)
            self.conv2, self.norm2 = layers.conv3x3(width, width), layers.batchnorm(width)
            self.shortcut = layers.conv1x1(width_in, width, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            inner = self.norm2(self.conv2(self.norm1(self.conv1(inputs)).relu()))
            result: torch.Tensor = (inner + self.shortcut(inputs)).relu()
            return result

    head = _own_heads(64, num_classes) if own_heads else layers.conv1x1(64, num_classes, last_layer=True)
    return torch.nn.Sequential(
        layers.conv3x3(in_channels, 16),
        layers.batchnorm(16),
        torch.nn.ReLU(),
        Block(16, 16),
        Block(16, 32),
        Block(32, 64),
        torch.nn.AdaptiveAvgPool2d(1),
        head,
        torch.nn.Flatten(),
    )


def _own_heads(width: int, num_classes: int) -> torch.nn.Module:
    """Build output layers of ExSSNeT's code, one for each task.

    Its training of weights asks each layer for a share to keep and a gradient of `weight`, which these lack.
    """
    original: Any = importlib.import_module("models.modules").IndividualHeads

    class Heads(original):  # type: ignore[misc]
        sparsity = 1.0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = super().forward(inputs) + 0 * self.weight.sum()
            return result

    return Heads(width, num_classes, kernel_size=1, bias=False)


def _supsup(folder: Path, settings: dict[str, Any]) -> Any:
    """Run `main.main` of SupSup; return the accuracies that it finds with the true task named."""
    tasks = _Loaders()
    _pretend("data").Tasks = lambda: tasks  # type: ignore[attr-defined]
    sys.argv = ["main.py"]
    count = settings["num_tasks"]
    _set(
        set="Tasks",
        conv_type="MultitaskMaskConv",
        conv_init="signed_constant",
        model="LeNet",
        log_dir=str(folder / "logs"),
        eval_ckpts=list(range(1, count + 1)),
        adaptor="gt",
        multigpu=None,
        **settings,
    )
    table = np.zeros((count, count))
    adaptors = importlib.import_module("adaptors")
    judge = adaptors.gt

    def judge_by_test(model: Any, writer: Any, _held: Any, learned: int, task: int) -> float:
        with torch.no_grad():  # it writes into a leaf that asks for gradients, which torch refuses
            table[learned - 1, task] = judge(model, writer, tasks.test_loader, learned, task)
        return float(table[learned - 1, task])

    adaptors.gt = judge_by_test
    importlib.import_module("main").main()
    return table


def _pretend(name: str) -> ModuleType:
    """Put an empty module, and the package that it is in, in the place of one of the original code."""
    package, _, _ = name.partition(".")
    sys.modules |= {each: ModuleType(each) for each in {package, name}}
    return sys.modules[name]


def _set(**settings: Any) -> None:
    """Set what the original code reads from its command line."""
    importlib.import_module("args").args.__dict__.update(settings)


def _load_best(model: torch.nn.Module, file: Path) -> torch.nn.Module:
    """Read the best checkpoint back on the processor; it holds the run's arguments beside the weights."""
    found = _tensors(file)
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in found.items() if name in own}, strict=False)
    return model


_kept: dict[str, dict[str, torch.Tensor]] = {}


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    return _kept[str(file)]


def _keep(record: dict[str, Any], file: Path) -> None:
    """Take the place of `torch.save`: checkpoints of this process stay in memory, nothing is pickled."""
    _kept[str(file)] = {name: tensor.detach().clone() for name, tensor in record["state_dict"].items()}


if __name__ == "__main__":
    torch.save = _keep  # type: ignore[assignment]
    main()
