"""From cut graphs to files of a format, opened as they will be used and as a device runs them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from brickyard.core.config import Config
from brickyard.devices.runtimes import Runtime, Session
from brickyard.export.blueprint import Blueprint
from brickyard.export.counts import Counts
from brickyard.factory.formats.base import Content, Floats, Format

_SAMPLES = 4
_CALIBRATION = 128


@dataclass(frozen=True, eq=False)
class Production:
    """Makes the files of subnets.

    Attributes:
        blueprint: The network that subnets are cut from.
        form: The format.
        runtime: What files are timed with.
        threads: Its threads.
        inputs: Gives calibration inputs `[N, channels, height, width]`, at most as many as it is asked for.
        twin: Builds the plain torch twin of a config.
    """

    blueprint: Blueprint
    form: Format
    runtime: Runtime
    threads: int
    inputs: Callable[[int], Floats]
    twin: Callable[[Mapping[str, Any]], Any]

    @property
    def plain(self) -> bool:
        """Whether the file is the cut graph itself."""
        return self.form.name == "onnx"

    @property
    def takes_graphs(self) -> bool:
        """Whether any ONNX graph can be written and timed, with nodes that the network has not."""
        return self.plain and self.runtime.name != "torch"

    def files(
        self, config: Config, graph: onnx.ModelProto | None = None, *, inputs: int = _CALIBRATION
    ) -> Content:
        """Write a subnet in the format.

        Args:
            config: The subnet.
            graph: Its cut graph; cut here if not given.
            inputs: Number of calibration inputs; one will do where only the size matters.
        """
        return self.form.convert(
            self.blueprint.cut(config) if graph is None else graph,
            inputs=self.inputs(1 if self.plain else inputs),
            twin=lambda: self.twin(config),
        )

    def open(self, files: Content) -> Session:
        """Open files as their users will."""
        return self.form.open(files, threads=self.threads)

    def timed(self, config: Config, files: Content, session: Session) -> Session:
        """Open files as the device runs them.

        Args:
            config: The subnet.
            files: Its files.
            session: The files as `open` opened them; the same where the format's runtime is the device's.
        """
        if self.runtime is self.form.runtime:
            return session
        content = next(iter(files.values()))
        return self.runtime.open(content, threads=self.threads, twin=lambda: self.twin(config))

    def file_bytes(self, counts: Counts) -> int:
        """Return the size of the files of a subnet: what its ONNX file takes at most, or an estimate of it.

        Args:
            counts: The subnet's costs.
        """
        return counts.file_bytes if self.plain else math.ceil(float(_features(counts) @ self._sizes))

    @cached_property
    def _sizes(self) -> npt.NDArray[np.float64]:
        """Bytes per parameter, per byte of ONNX that is no parameter, and on top; fitted to a few subnets."""
        space, rng = self.blueprint.space, random.Random(0)
        configs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(_SAMPLES))]
        # In every second one some blocks are at their least: what is around a block goes with it.
        for place in range(0, len(configs), 2):
            least = [block for block in self.blueprint.blocks if rng.random() < 0.4]
            configs[place] = configs[place].replace({block: space[block].smallest() for block in least})
        counts = [self.blueprint.count(config) for config in configs]
        sizes = [size_of(self.files(config, inputs=1)) for config in configs]
        features = np.array([_features(count) for count in counts])
        found: npt.NDArray[np.float64] = np.linalg.lstsq(features, np.array(sizes, dtype=np.float64))[0]
        found[-1] += max(0.0, float((sizes - features @ found).max()))
        return found


def _features(counts: Counts) -> npt.NDArray[np.float64]:
    return np.array([counts.parameters, counts.file_bytes - 4 * counts.parameters, 1.0])


def size_of(files: Content) -> int:
    """Return the bytes of all files of a model."""
    return sum(map(len, files.values()))
