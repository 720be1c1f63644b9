"""A made model that is not yet written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brickyard.core.config import Config
from brickyard.devices.runtimes import Session
from brickyard.export.decode import Decode
from brickyard.factory.formats import Content
from brickyard.factory.records import Costs, Energy, Latency


@dataclass(frozen=True, eq=False)
class Model:
    """A made model that is not yet written.

    Attributes:
        config: Its config.
        files: Its files in the format that was asked for.
        session: The files, opened; for detectors without a decoding inside.
        reference: Its float32 graph in ONNX Runtime.
        weights: Its weights by the names of the plain torch twin.
        predicted: Costs before it was written.
        measured: Latency of the file.
        memory: Measured peak of memory in bytes, where it was asked for.
        energy: Measured energy, where it is limited and the device is this machine.
        parity_error: Largest difference to the reference.
        rounds: Rounds of making and measuring.
        seconds: Time by part.
        decode: For detectors, how maps become boxes.
        inside: Whether the graph does that.
    """

    config: Config
    files: Content
    session: Session
    reference: Session
    weights: Mapping[str, Any]
    predicted: Costs
    measured: Latency
    memory: int | None
    energy: Energy | None
    parity_error: float
    rounds: int
    seconds: dict[str, float]
    decode: Decode | None = None
    inside: bool = False
