"""The package `dynast` (DyNAS-T, arXiv 2202.12954) on a table, its search as it comes.

The package is no longer maintained and imports libraries for super-networks of its own (fairseq, torchvision,
torchprofile and others) that its search does not use and that do not all import today; inert modules stand in
for them while it is imported. Install it alone: `pip install --no-deps dynast`. The table is handed to it as
the BootstrapNAS network that it has an interface for.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from _search_tables import EnoughError, Recorder, Values

LINAS_NEEDS = ("dynast",)
_UNUSED = (
    *("fairseq", "numba", "requests", "torchprofile", "torchvision", "transformers", "yaml"),
    "dynast.supernetwork.image_classification.ofa",
    "dynast.supernetwork.image_classification.vit",
    "dynast.supernetwork.machine_translation",
    "dynast.supernetwork.text_classification",
)
_NAME = "bootstrapnas_image_classification"
_METRICS = ("accuracy_top1", "latency", "macs")
_PATIENCE = 2  # about a third of its evaluations repeat known cells; it may make so many per wanted cell


def _inert(name: str) -> Any:
    return _Inert(name, (), {"__call__": lambda self, *found, **more: found[0] if found else self})


class _Inert(type):
    """A class whose every attribute is such a class, which can be called, inherited from and decorate."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _inert(name)

    def __call__(cls, *arguments: Any, **more: Any) -> Any:
        return type.__call__(cls)


class _InertModule(ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _inert(name)


class _StandIn(MetaPathFinder, Loader):
    """Finds inert modules for the libraries that are not used."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if _is_unused(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _InertModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is."""


def _is_unused(name: str) -> bool:
    return any(name == unused or name.startswith(f"{unused}.") for unused in _UNUSED)


@contextlib.contextmanager
def _imported() -> Iterator[Any]:
    """Import the package's search; what stands in, and what it does to logging, is undone."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    held = {name: module for name, module in sys.modules.items() if _is_unused(name)}
    for name in held:
        del sys.modules[name]
    finder = _StandIn()
    sys.meta_path.insert(0, finder)
    try:
        from dynast.search import search_tactic

        root.handlers[:] = [logging.NullHandler()]
        yield search_tactic
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _InertModule)]:
            del sys.modules[name]
        sys.modules.update(held)
        root.setLevel(level)
        root.handlers[:] = handlers


class _Network:
    """A table in the shape of a network with elastic widths: the place of the operation on each edge."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.choices = [np.unique(column) for column in recorder.problem.table.ops.T]
        self.values: Values = np.zeros(0)
        self.evaluations = 0
        self._cell: list[int] = []

    def get_search_space(self) -> dict[str, Any]:
        """Return the values of each width."""
        return {"width": {edge: list(range(len(ops))) for edge, ops in enumerate(self.choices)}}

    def get_config_from_pymoo(self, places: Sequence[int]) -> list[int]:
        """Return the cell of a vector."""
        return [int(ops[int(place)]) for ops, place in zip(self.choices, places, strict=True)]

    def activate_config(self, cell: list[int]) -> None:
        """Evaluate a cell; the metrics are read from the network afterwards."""
        self._cell = cell

    def get_active_subnet(self) -> _Network:
        """Return the network itself."""
        return self

    def to(self, device: object) -> _Network:
        """Return the network itself."""
        return self

    def first(self, network: object) -> float:
        """Evaluate, and return what is made larger."""
        self.evaluations += 1
        if self.evaluations > _PATIENCE * self.recorder.budget:
            raise EnoughError
        self.values = self.recorder(self._cell)
        return -float(self.values[0])


def linas(recorder: Recorder, seed: int) -> None:
    """Run LINAS as the package has it: populations of 50, ridge or SVR, NSGA-II inside.

    Its grid searches run in this process instead of a pool of processes; their results are the same.

    Args:
        recorder: Evaluates.
        seed: Seed of all its draws.
    """
    network = _Network(recorder)
    metrics = list(_METRICS[: recorder.problem.num_objectives])
    with _imported() as tactic, tempfile.TemporaryDirectory() as folder:
        from dynast.predictors import dynamic_predictor

        search_of = dynamic_predictor.GridSearchCV
        dynamic_predictor.GridSearchCV = lambda **more: search_of(**{**more, "n_jobs": 1})
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                logging.getLogger().setLevel(logging.CRITICAL)
                search = tactic.LINAS(
                    supernet=_NAME,
                    optimization_metrics=metrics,
                    measurements=metrics,
                    num_evals=_PATIENCE * recorder.budget + 50,
                    results_path=str(Path(folder) / "results.csv"),
                    seed=seed,
                    bootstrapnas_supernetwork=network,
                    metric_eval_fns={
                        "accuracy_top1": network.first,
                        "latency": lambda _: (float(network.values[1]), 0.0),
                        "macs": lambda _: float(network.values[2]) if len(network.values) > 2 else 0.0,
                        "params": lambda _: 0.0,
                    },
                )
                search.optimization_metrics = metrics  # the package orders them by their hashes
                search.search()
        finally:
            dynamic_predictor.GridSearchCV = search_of
