"""What timing code needs of a runtime, and what it gets from one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import DeviceError, MissingExtraError


class Session(Protocol):
    """A model that is ready to run; the methods are those of ONNX Runtime's session."""

    def get_inputs(self) -> Sequence[Any]:
        """Return the inputs, each with a `name` and a static `shape`."""

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs, each with a `name`."""

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Run once.

        Args:
            outputs: Names of the outputs that are wanted; None for all of them.
            inputs: float32 arrays by name.

        Returns:
            The outputs' arrays, in that order.
        """


class Port:
    """An input or output of a model.

    Args:
        name: Its name.
        shape: Of an input, its static shape, the batch of 1 included.
    """

    def __init__(self, name: str, shape: Sequence[int] = ()) -> None:
        self.name, self.shape = name, list(shape)


def chosen(wanted: Sequence[str] | None, outputs: Sequence[Port], arrays: Sequence[Any]) -> list[Any]:
    """Return the arrays of the outputs that are wanted, all of them for None."""
    if wanted is None:
        return list(arrays)
    found = {port.name: array for port, array in zip(outputs, arrays, strict=True)}
    return [found[name] for name in wanted]


class Runtime(ABC):
    """Something that opens serialized ONNX models on this machine's processor.

    Attributes:
        name: Name on the command line.
        library: Distribution of its library.
        short: The library in names of devices.
        precision: Numbers that it computes with.
        extra: Extra of brickyard that installs it; empty if it is always there.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    short: ClassVar[str]
    precision: Literal["fp32", "int8"] = "fp32"
    extra: ClassVar[str] = ""

    def version(self) -> str:
        """Return the version of the library.

        Raises:
            MissingExtraError: It is not installed.
        """
        try:
            return version(self.library).partition("+")[0]
        except PackageNotFoundError:
            raise MissingExtraError(self.library, extra=self.extra) from None

    def full_name(self) -> str:
        """Return library and version, as profiles record them."""
        return f"{self.library} {self.version()}"

    def prepared(self, content: bytes) -> bytes:
        """Turn a float32 ONNX model into what this runtime shall be timed with.

        Args:
            content: The model.

        Returns:
            A model that takes as long as the one that would be made from it; its scores may be worth nothing.
        """
        return content

    @abstractmethod
    def open(self, content: bytes, *, threads: int, twin: Callable[[], Any] | None = None) -> Session:
        """Open a model, ready to run.

        Args:
            content: The model, serialized.
            threads: Threads that one run may use.
            twin: Builds the plain torch twin of the model, for a runtime that runs modules instead of graphs.

        Returns:
            The session.

        Raises:
            DeviceError: `threads` is below 1, or the runtime cannot run the model.
            MissingExtraError: The library is not installed.
        """


def check_threads(threads: int) -> None:
    """Refuse numbers of threads below 1."""
    if threads < 1:
        raise DeviceError(f"threads = {threads} is not allowed; allowed: 1 or more")


def random_inputs(session: Session, *, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Draw normal inputs of the static shapes that a session takes."""
    rng = np.random.default_rng(seed)
    return {entry.name: rng.standard_normal(entry.shape).astype(np.float32) for entry in session.get_inputs()}


class Fed:
    """A session that brings its own inputs, where random numbers would be no legal ones, as ids of tokens.

    Args:
        session: The session.
        feed: Its inputs by name.
    """

    def __init__(self, session: Session, feed: Mapping[str, npt.NDArray[Any]]) -> None:
        self._session, self._feed = session, dict(feed)

    def get_inputs(self) -> Sequence[Any]:
        """Tell that nothing has to be fed."""
        return []

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs."""
        return self._session.get_outputs()

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Run on the session's own inputs."""
        return self._session.run(outputs, self._feed)
