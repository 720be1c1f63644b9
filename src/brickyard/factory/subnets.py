"""The subnets of a network or factory folder, each with its own normalisation, as graphs; needs torch.

A subnet that a search proposes may be far from those that training drew, so its normalisation is estimated
anew on unlabelled inputs before it is judged (`brickyard.bricks.calibration`). The graph is that of the
blueprint with the weights of the calibrated module in it, so it need not be exported again.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from brickyard.bricks.calibration import extract_calibrated
from brickyard.bricks.norm import ElasticBatchNorm2d, fold_norms_
from brickyard.core.config import Config
from brickyard.core.decision import Subset
from brickyard.core.errors import DataError, MissingExtraError, TaskError
from brickyard.core.space import CLASSES, HEAD_SUBSETS, WORDS, Space
from brickyard.core.task import Task
from brickyard.devices.measure import PATIENCE, measure_session
from brickyard.devices.runtimes import Session, runtime_named
from brickyard.devices.runtimes.ort import ORT
from brickyard.factory.canonical import Canonical
from brickyard.factory.clock import Clock
from brickyard.factory.folder import FactoryFolder
from brickyard.factory.formats import FORMATS, Format
from brickyard.factory.made import Model
from brickyard.factory.make import Maker, checked_parity
from brickyard.factory.measures import COUNTED, MEASURED, QUALITIES, TIMED
from brickyard.factory.network_folder import DataChoice, JudgedFolder
from brickyard.factory.quality import AnswerJudge, Floats, Sample, outputs_of
from brickyard.factory.records import Quality

_BATCH = 128
_PARITY_INPUTS = 4
_SAMPLE_SEED = 8_000_000  # away from the scenes that training and reports draw


class Subnets(Maker):
    """Judges the subnets of a folder for one task, and writes them.

    Args:
        path: A factory folder or a network folder.
        task: Text of the task; None for all classes.
        data: Data to judge by; None for those in the folder.
        pictures: Most labelled pictures.
        seed: Seed of the scenes, where pictures are drawn.
        threads: Threads of torch and of the runtime.
        runtime: Name of the runtime that times of searched subnets are measured with.
        form: Format of the models.

    Raises:
        ArtifactError: The folder is neither, or is altered, or its network is no registered one.
        DataError: There are no pictures, or they do not fit.
        ExportError: The network has parts that cannot be cut in a graph.
        TaskError: The task is not understood.
    """

    parity_reference = "the subnet as torch computes it, normalisation not folded"

    def __init__(
        self,
        path: Path,
        *,
        task: str | None = None,
        data: DataChoice | None = None,
        pictures: int = 1000,
        seed: int = 0,
        threads: int = 1,
        runtime: str = "ort",
        form: Format = FORMATS["onnx"],
    ) -> None:
        torch.set_num_threads(threads)
        self.judged = JudgedFolder.open_with(path, data)
        super().__init__(self.judged, device=None, threads=threads, form=form, twin=self._twin_of)
        self.network = self.judged.torch_network
        self.task = self.folder.vocabulary.parse(task)
        self.fixed = _head(self.network.space, self.task, self.folder)
        self.space = Space.from_json(
            [part.to_json() for part in self.network.space if part.name not in HEAD_SUBSETS]
        )
        self._most, self._seed = pictures, seed
        self._runtime = runtime_named(runtime)
        self._modules: dict[Config, nn.Module] = {}

    @cached_property
    def labelled(self) -> Sample:
        """The pictures that every subnet is judged by.

        Raises:
            DataError: None is labelled for the task.
        """
        found = self.judge.draw(self.task, count=self._most, seed=self._seed + _SAMPLE_SEED)
        if found is None or not self.judge.telling(found):
            raise DataError(
                f"of the pictures at hand none, or only those of one label, are labelled for "
                f"{self.task.text!r}; name others with --data"
            )
        return found

    def sample(self, task: Task, *, seed: int) -> Sample | None:
        """Return the pictures that a search judges by, so that its figures and the report's agree."""
        return self.labelled

    def quality(self, task: Task, session: Session, sample: Sample) -> Quality:
        """Run a model on labelled pictures, and say which."""
        found = super().quality(task, session, sample)
        drawn = self.folder.geometry is not None
        source = "fresh scenes" if drawn else "held-out pictures, those that the search judged by"
        return found.model_copy(update={"source": source})

    def config(self, chosen: Mapping[str, Any]) -> Config:
        """Return the config of the network: what is chosen, and a head for the task.

        Args:
            chosen: A config of `space`.

        Raises:
            ConfigError: It is not legal.
        """
        return self.network.space.check({**self.fixed, **chosen})

    @cached_property
    def _batches(self) -> list[Tensor]:
        inputs = torch.from_numpy(self.folder.preprocess.apply(self.folder.calibration.images))
        return list(inputs.split(_BATCH))

    @cached_property
    def _normalises(self) -> bool:
        kinds = (ElasticBatchNorm2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        return any(isinstance(part, kinds) for part in self.network.modules())

    def module(self, config: Config) -> nn.Module:
        """Cut a subnet out as a plain module in evaluation mode, with normalisation of its own.

        Args:
            config: A config of the network.
        """
        if config not in self._modules:
            self._modules.clear()  # one at a time, for its memory
            self._modules[config] = (
                extract_calibrated(self.network, self._batches, config)
                if self._normalises
                else self.network.extract(config).eval()
            )
        return self._modules[config]

    def _twin_of(self, config: Mapping[str, Any]) -> nn.Module:
        twin = copy.deepcopy(self.module(Config(config)))
        fold_norms_(twin, self.network.norm_pairs)
        return twin

    def graph(self, config: Config) -> onnx.ModelProto:
        """Return a subnet as a graph: cut from the blueprint, with the weights of `module`, norms folded.

        Args:
            config: A config of the network.
        """
        graph = self.blueprint.cut(config)
        state = self._twin_of(config).state_dict()
        for tensor in graph.graph.initializer:
            values = state[tensor.name].numpy().astype(np.float32)
            assert list(values.shape) == list(tensor.dims), tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return graph

    def _parity(self, config: Config, session: Session) -> float:
        """Compare a cut graph with the calibrated module, whose normalisation is not folded."""
        inputs = self._calibration(_PARITY_INPUTS)
        with torch.no_grad():
            given = self.module(config)(torch.from_numpy(inputs))
        expected: list[Floats] = [
            tensor.numpy() for tensor in ((given,) if isinstance(given, Tensor) else given)
        ]
        return checked_parity(expected, outputs_of(session, inputs), hint="train or copy it again")

    def model(self, config: Config, *, clock: Clock, **options: Any) -> Model:
        """Write the files of a subnet, check and measure them; see `Maker.realised`.

        Args:
            config: A config of the network.
            clock: Takes note of the time by part.
            **options: Further options of `Maker.realised`.
        """
        return self.realised(config, self.graph(config), clock=clock, **options)

    @property
    def whole_macs(self) -> int:
        """MACs of the whole network, to which shares refer."""
        return self.whole.macs

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of all numbers that `figures` can give."""
        answers = isinstance(self.judge, AnswerJudge)
        return (*(("accuracy", "balanced_accuracy") if answers else ("ap50",)), *COUNTED, *MEASURED)

    def prepare(self, kinds: Collection[str]) -> None:
        """Open what these numbers need, so that what is missing is told before a search starts.

        Args:
            kinds: Names, of `numbers`.

        Raises:
            DataError: No pictures are labelled for the task.
            DeviceError: This machine has no energy counter.
            MissingExtraError: A library that is needed is not installed.
        """
        if set(kinds) & set(QUALITIES):
            if not self.judge.available():
                raise MissingExtraError("pycocotools", extra="detection")
            _ = self.labelled
        if "energy_mj" in kinds:
            self.checks.require_counter()

    def figures(self, config: Config, kinds: Collection[str]) -> dict[str, float]:
        """Count and measure a subnet.

        Args:
            config: A config of the network.
            kinds: Names of the numbers that are wanted besides those that are counted, of `numbers`.

        Returns:
            The numbers by name.
        """
        content = self.graph(config).SerializeToString()
        counts = self.blueprint.count(config)
        found: dict[str, float] = {
            "macs": counts.macs,
            "parameters": counts.parameters,
            "file_bytes": len(content),
            "peak_memory_bytes": counts.peak_memory_bytes,
        }
        session = ORT.open(content, threads=self.threads)
        if set(kinds) & set(QUALITIES):
            found |= self._rated(session)
        timed = self._runtime.open(content, threads=self.threads) if TIMED & set(kinds) else session
        if "latency_ms" in kinds:
            found["latency_ms"] = measure_session(
                timed, threads=self.threads, runtime=self._runtime, patience=PATIENCE
            ).p50
        if "energy_mj" in kinds:
            found["energy_mj"] = self.checks.energy(timed).mj
        if "runtime_memory_bytes" in kinds:
            found["runtime_memory_bytes"] = self.checks.memory({"model.onnx": content})
        return found

    def _rated(self, session: Session) -> dict[str, float]:
        sample, judge = self.labelled, self.judge
        rating = judge.rate(session, self.task, sample)
        if not isinstance(judge, AnswerJudge):
            return {"ap50": rating.value}
        labels, counts = np.unique(sample.truth, return_counts=True)
        names = judge.labels(self.task)
        recalls = np.array([rating.by_label[names[label]] for label in labels])
        return {
            "accuracy": float((recalls * counts).sum() / counts.sum()),
            "balanced_accuracy": float(recalls.mean()),
        }

    def canonical(self, chosen: Mapping[str, Any]) -> Config:
        """Return the config that computes the same with all decisions that play no part at their largest.

        Args:
            chosen: A config of `space`. Those of blocks that a depth leaves out play no part, nor those of a
                branch in which no brick is on.
        """
        return self._canonical(chosen)

    @cached_property
    def _canonical(self) -> Canonical:
        return Canonical(self.blueprint, self.space)


def _head(space: Space, task: Task, folder: FactoryFolder) -> dict[str, Any]:
    """Return what a task decides of a head.

    Raises:
        TaskError: A property task without words.
    """
    if CLASSES in space:
        return {CLASSES: task.class_indices(folder.vocabulary)}
    if WORDS not in space:
        return {}
    if not task.words:
        raise TaskError(
            "this network answers whether an object with given properties is there, so subnets are judged "
            "by a task: name one property or more with --task, of " + ", ".join(folder.vocabulary.words)
        )
    assert isinstance(space[WORDS], Subset)
    return {WORDS: tuple(sorted(folder.vocabulary.index(word) for word in task.words))}
