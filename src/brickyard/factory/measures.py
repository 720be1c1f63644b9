"""The numbers by which subnets are searched and limited, as people name them; needs no torch.

accuracy   latency_ms   latency_ms@board.json   macs=25%   file_bytes=200000
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from brickyard.core.errors import ConfigError
from brickyard.factory.records import Record

QUALITIES = ("accuracy", "balanced_accuracy", "ap50", "bleu")
COUNTED = ("macs", "parameters", "file_bytes", "peak_memory_bytes")
MEASURED = ("latency_ms", "energy_mj", "runtime_memory_bytes")
TIMED = frozenset({"latency_ms", "energy_mj"})
"""Of those that are measured, what depends on the runtime."""
PREDICTED = ("latency_ms", "energy_mj")
"""What a device tells, behind an `@`."""


class Measure(Record):
    """A number of a subnet.

    Attributes:
        kind: What it is, of `QUALITIES`, `COUNTED` or `MEASURED`.
        device: File of the device that predicts it; None where it is measured here.
    """

    kind: str
    device: str | None = None

    @property
    def name(self) -> str:
        """Name in tables: the device by the stem of its file, as in `latency_ms@board`."""
        return self.kind if self.device is None else f"{self.kind}@{Path(self.device).stem}"

    @classmethod
    def parse(cls, text: str) -> Measure:
        """Read `name` or `name@device.json`.

        Raises:
            ConfigError: The name is unknown, or no device tells it.
        """
        kind, at, device = text.partition("@")
        known = (*QUALITIES, *COUNTED, *MEASURED)
        if kind not in known:
            near = get_close_matches(kind, known, n=2)
            raise ConfigError(
                f"{text!r} is no number of a subnet{f'; nearest: {near}' if near else ''}; known: "
                f"{', '.join(known)}",
                path="objectives",
                value=text,
                allowed=known,
            )
        if at and (kind not in PREDICTED or not device):
            raise ConfigError(
                f"{text!r}: a device predicts {' and '.join(PREDICTED)} alone, written as in "
                f"{PREDICTED[0]}@board.json",
                path="objectives",
                value=text,
            )
        return cls(kind=kind, device=device or None)


class Bound(Record):
    """A limit: the most of a cost, the least of a quality.

    Attributes:
        measure: What is limited.
        value: The bound.
        share: Whether the bound is a share of what the whole network has; of MACs alone.
    """

    measure: Measure
    value: float
    share: bool = False

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Read `name=number`, `name@device.json=number` or `macs=25%`.

        Raises:
            ConfigError: It is malformed.
        """
        name, equals, number = text.rpartition("=")
        share = number.endswith("%")
        try:
            value = float(number.removesuffix("%"))
        except ValueError:
            value = math.nan
        if not equals or not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"limit {text!r} is not understood; write name=number with a number above 0, such as "
                "latency_ms=8 (at most) or accuracy=0.9 (at least)",
                path="limits",
                value=text,
            )
        measure = Measure.parse(name)
        if share and (measure.kind != "macs" or value > 100):
            raise ConfigError(
                f"limit {text!r}: only macs may be a share of the whole network, up to 100 %",
                path="limits",
                value=text,
            )
        return cls(measure=measure, value=value / 100 if share else value, share=share)


def read_measures(
    objectives: Iterable[str], limits: Iterable[str] = ()
) -> tuple[tuple[Measure, ...], tuple[Bound, ...]]:
    """Read what a search makes better, and what it keeps within bounds.

    Args:
        objectives: Two to four names.
        limits: Bounds, see `Bound.parse`.

    Raises:
        ConfigError: One of them is malformed, there are too few or many, or two bear one name.
    """
    wanted = tuple(Measure.parse(text) for text in objectives)
    bounds = tuple(Bound.parse(text) for text in limits)
    names = [measure.name for measure in wanted]
    if not 2 <= len(wanted) <= 4 or len(set(names)) < len(names):
        raise ConfigError(
            f"objectives are {', '.join(names) or 'missing'}; give two to four different ones, such as "
            "accuracy latency_ms",
            path="objectives",
            value=names,
        )
    limited = [bound.measure.name for bound in bounds]
    if len(set(limited)) < len(limited):
        raise ConfigError(f"limits are on {', '.join(limited)}; give each once", path="limits")
    files = {measure.device for measure in (*wanted, *(b.measure for b in bounds)) if measure.device}
    stems = [Path(file).stem for file in files]
    if len(set(stems)) < len(stems):
        raise ConfigError(
            f"devices {', '.join(sorted(files))} bear one name; rename a file", path="objectives"
        )
    return wanted, bounds
