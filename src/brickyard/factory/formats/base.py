"""What a format of made models is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from brickyard.core.errors import ExportError
from brickyard.devices.runtimes import Runtime, Session

Floats = npt.NDArray[np.float32]
Content = Mapping[str, bytes]
"""The files of a model: content by name, in the order of `Format.files`."""


def no_twin(config: Mapping[str, Any]) -> Any:
    """Stand where plain torch twins could be built, and refuse to.

    Raises:
        ExportError: Always.
    """
    raise ExportError("a plain torch twin is needed here; make the model through brickyard.Factory")


class Format(ABC):
    """A format of made models.

    Attributes:
        name: Name on the command line.
        files: Names of the files, the one that is handed to the runtime first.
        runs_in: Names of the runtimes, of devices, that run it.
        tolerance: Largest difference of any score from the float32 graph in ONNX Runtime, as a share of the
            scores' scale; None where numbers are coarser and accuracy is looked at instead.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    runs_in: ClassVar[tuple[str, ...]]
    tolerance: ClassVar[float | None] = 1e-4

    @property
    @abstractmethod
    def runtime(self) -> Runtime:
        """What runs the files here, where no device says otherwise."""

    @abstractmethod
    def convert(self, graph: onnx.ModelProto, *, inputs: Floats, twin: Callable[[], Any]) -> dict[str, bytes]:
        """Make the files of a model.

        Args:
            graph: The cut graph, float32; left as it is.
            inputs: Calibration inputs `[N, channels, height, width]`.
            twin: Builds the plain torch twin of the graph.

        Returns:
            The files.

        Raises:
            MissingExtraError: A library that is needed is not installed.
        """

    def open(self, files: Content, *, threads: int) -> Session:
        """Open the files of a model, ready to run.

        Args:
            files: What `convert` gave.
            threads: Threads that one run may use.

        Returns:
            The session.

        Raises:
            MissingExtraError: The runtime is not installed.
        """
        return self.runtime.open(next(iter(files.values())), threads=threads)
