"""The trained factories that are measured, the data and recipes behind them, and fresh scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import _adaptor
import cifar_resnet
import numpy as np
import numpy.typing as npt
import recipes
import torch
from safetensors.torch import load_file

from brickyard.core.config import Config
from brickyard.core.network import Network
from brickyard.core.norm_sets import NormSets
from brickyard.core.task import Task, Vocabulary
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.geometry import GeometrySpec, task_scenes
from brickyard.data.source import DataSource, load_data
from brickyard.factory import Factory
from brickyard.factory.build import BuildSettings
from brickyard.factory.folder import bundled_factories
from brickyard.factory.make import Maker
from brickyard.factory.quality import open_session, rate, scores_of
from brickyard.factory.records import Budget
from brickyard.modularize import modularize_cnn
from brickyard.networks import build

KEPT = Path(__file__).parent / "kept"
SCENES = 400
_FRESH = 500_000_000  # far from the seeds of training, of the factory's own test and of its reports


@cache
def data_of(what: str, seed: int) -> DataSource:
    """Return the data of a kind of factory, as a seed draws or splits them."""
    return _adaptor.cifar10() if what in ("cifar10", "resnet56") else load_data(what, seed=seed)


def settings_of(what: str, seed: int, *, assembler: str = "additive", kept: Path = KEPT) -> BuildSettings:
    """Return the recipe of a kind of factory."""
    if what == "geometry":
        return recipes.geometry_settings(seed, assembler=assembler)
    if what == "digits":
        return recipes.digits_settings(seed)
    if what == "resnet56":
        return recipes.resnet56_settings(seed)
    weights = _adaptor.resnet20_weights(kept / "cifar10-resnet20.safetensors")
    return recipes.cifar_settings(seed, backbone_weights=None if weights is None else str(weights))


def resnet56(weights: Path | None = None) -> Network:
    """Return the trained ResNet-56 as a modular network.

    Args:
        weights: File of its weights; those that it came with if None.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks the weights.
    """
    module = cifar_resnet.resnet56()
    module.load_state_dict(load_file(weights or _adaptor.resnet56_weights()))
    return modularize_cnn(module, input_shape=(3, 32, 32)).network


def tuned_weights(seed: int, *, kept: Path = KEPT) -> Path:
    """Return the file of the ResNet-56 that was fine-tuned whole, from which everything else starts."""
    return kept / f"resnet56-seed{seed}.tuned.safetensors"


@dataclass(frozen=True, eq=False)
class Kept:
    """A trained factory of the benchmark.

    Attributes:
        what: `geometry`, `digits`, `cifar10`, or `resnet56` for CIFAR-10 from a trained ResNet-56.
        seed: Seed of its training.
        path: Its folder.
        backbone_path: Weights of its network behind stage 0, None if they were not kept.
        generic_path: Weights of the same network trained on the generic objective with everything on, None if
            there are none.
    """

    what: str
    seed: int
    path: Path
    backbone_path: Path | None
    generic_path: Path | None = None

    @cached_property
    def factory(self) -> Factory:
        """The factory."""
        return Factory.load(self.path)

    def with_network(self) -> Factory:
        """Return the factory with its network at hand where its folder cannot build it, for torch."""
        if self.factory.folder.network["builder"]:
            return self.factory
        return Factory.load(self.path, network=self.fresh_network())

    @cached_property
    def maker(self) -> Maker:
        """What searches and cuts, without a device."""
        return self.factory.maker(None)

    @property
    def data(self) -> DataSource:
        """The data it was trained on, split as then."""
        return data_of(self.what, int(self.factory.folder.network["provenance"]["data"].get("seed", 0)))

    @property
    def vocabulary(self) -> Vocabulary:
        """Words of its tasks."""
        return self.factory.vocabulary

    @property
    def preprocess(self) -> Preprocess:
        """How pictures become inputs."""
        return self.factory.folder.preprocess

    def pairs(self) -> tuple[list[Task], list[Task]]:
        """Return the known and the unseen tasks of two properties."""
        rows = self.factory.folder.quality["tasks"]
        tasks = {text: self.vocabulary.parse(text) for text in rows}
        two = {text: task for text, task in tasks.items() if len(task.words) == 2}
        return (
            [task for text, task in two.items() if rows[text]["known"]],
            [task for text, task in two.items() if not rows[text]["known"]],
        )

    def config(self, task: Task, limit: str) -> Config:
        """Return what the factory's own search finds for a share of MACs such as `25%`."""
        limits = Budget(max_macs=limit).limits(whole_macs=self.maker.whole.macs)
        return self.maker.find(task, {**limits}, seed=0)[0][1]

    def judge(
        self, config: Config, task: Task, examples: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
    ) -> float:
        """Cut a subnet, run it in ONNX Runtime, and return its (balanced) accuracy."""
        session = open_session(self.factory.folder.blueprint.cut(config))
        scores = scores_of(session, self.preprocess.apply(examples[0]))
        return rate(task, self.vocabulary, scores, examples[1])[0]

    def fresh_network(self) -> Network:
        """Build its network with fresh weights; those that it came with where it was modularized."""
        if self.what == "resnet56":
            return resnet56()
        record = self.factory.folder.network
        return build(record["builder"], **record["arguments"])

    def backbone(self) -> Network | None:
        """Return the network behind stage 0, all bricks on; None if its weights were not kept."""
        return None if self.backbone_path is None else self._loaded(self.backbone_path)

    def generic(self) -> tuple[Network, str] | None:
        """Return the generic network and how it was trained: plainly if kept, else that of stage 0."""
        if self.generic_path is not None:
            return self._loaded(self.generic_path), "generic network trained with everything on"
        nested = self.backbone()
        return None if nested is None else (nested, "generic network of stage 0, trained with nested cores")

    def _loaded(self, path: Path) -> Network:
        network = self.fresh_network()
        sets = self.factory.folder.network.get("norm_sets")
        if sets is not None and path == self.backbone_path:
            network.add_norm_sets(NormSets.from_json(sets))
        network.root.load_state_dict(load_file(path))
        return network.eval()


def kept_factory(what: str, seed: int, *, kept: Path = KEPT) -> Kept | None:
    """Find a trained factory; seed 0 of `geometry` is also the bundled one."""
    path = kept / f"{what}-seed{seed}"
    backbone = kept / f"{what}-seed{seed}.backbone.safetensors"
    if not (path / "manifest.json").is_file():
        bundled = bundled_factories().get(what)
        if bundled is None or seed != 0:
            return None
        path = bundled
    generic = kept / f"{what}-seed{seed}.generic.safetensors"
    return Kept(
        what,
        seed,
        path,
        backbone if backbone.is_file() else None,
        generic if generic.is_file() else None,
    )


def kept_factories(what: str, seeds: Sequence[int], *, kept: Path = KEPT) -> list[Kept]:
    """Find the trained factories of some seeds; those that lack are left out."""
    found = (kept_factory(what, seed, kept=kept) for seed in seeds)
    return [entry for entry in found if entry is not None]


@cache
def _scenes(
    spec: GeometrySpec, values: tuple[tuple[int, int], ...], count: int, seed: int
) -> tuple[Examples, npt.NDArray[np.int64]]:
    examples, present = task_scenes(spec, dict(values), count, seed)
    return examples, present.astype(np.int64)


def fresh_scenes(
    entry: Kept, task: Task, *, count: int = SCENES
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draw scenes that no training has seen, the same for all factories and peers.

    Args:
        entry: Factory whose scenery it is.
        task: The task.
        count: Scenes; half of them show what the task names.

    Returns:
        Pictures and labels.
    """
    spec = entry.factory.folder.geometry
    assert spec is not None
    values = task.values(entry.vocabulary)
    number = int(sum((value + 1) * 17 ** (group + 1) for group, value in values.items()))
    examples, labels = _scenes(spec, tuple(sorted(values.items())), count, _FRESH + number)
    return examples.images, labels


def use_threads(threads: int) -> None:
    """Let torch compute with this many threads."""
    torch.set_num_threads(threads)
