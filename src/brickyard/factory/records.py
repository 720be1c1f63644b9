"""The records that a request is made of and answered with: frozen, strict, JSON on disk."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from brickyard.core.errors import BudgetError

FormatName = Literal["onnx", "onnx-int8", "openvino", "executorch"]
Metric = Literal["balanced_accuracy", "accuracy", "ap50", "bleu"]
METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "ap50": "AP50",
    "bleu": "BLEU",
}

LimitName = Literal[
    "latency_ms", "macs", "parameters", "file_bytes", "peak_memory_bytes", "runtime_memory_bytes", "energy_mj"
]


class Record(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(Record):
    """Ceilings on what a model may cost; any combination, None where there is no ceiling.

    Attributes:
        latency_ms: Median latency of one picture on the device, milliseconds.
        max_macs: Multiply-accumulate operations per picture: a number, or a share of the whole network
            such as `"25%"`.
        max_parameters: Number of parameters.
        max_file_mb: Size of the model's file in the format that is asked for, megabytes of 10**6 bytes.
        max_memory_mb: Peak of memory that the file takes in ONNX Runtime, measured in a process of its own,
            megabytes of 10**6 bytes; for the formats `onnx` and `onnx-int8`.
        energy_mj: Energy of one picture on the device, idle power included, millijoules.

    Raises:
        BudgetError: A limit is not a positive number, or is unknown.
    """

    latency_ms: float | None = None
    max_macs: int | str | None = None
    max_parameters: int | None = None
    max_file_mb: float | None = None
    max_memory_mb: float | None = None
    energy_mj: float | None = None

    def __init__(self, **limits: Any) -> None:
        try:
            super().__init__(**limits)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "budget"
            raise BudgetError(
                f"{name} = {first.get('input')!r} is not a usable limit "
                f"({first['msg'].removeprefix('Value error, ')}); known limits: "
                f"{', '.join(type(self).model_fields)}, each a number above 0"
            ) from None

    @field_validator("latency_ms", "max_parameters", "max_file_mb", "max_memory_mb", "energy_mj")
    @classmethod
    def _positive(cls, value: float | None) -> float | None:
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError("must be above 0")
        return value

    @field_validator("max_macs", mode="before")
    @classmethod
    def _macs(cls, value: Any) -> Any:
        if isinstance(value, str):
            text = value.strip()
            if re.fullmatch(r"\d+", text):
                value = int(text)
            elif not re.fullmatch(r"\d+(\.\d+)?\s*%", text):
                raise ValueError("must be a whole number or a share such as '25%'")
            elif not 0 < float(text[:-1]) <= 100:
                raise ValueError("a share must lie above 0 % and not above 100 %")
            else:
                return text.replace(" ", "")
        if isinstance(value, bool) or (value is not None and (not isinstance(value, int) or value <= 0)):
            raise ValueError("must be a whole number above 0 or a share such as '25%'")
        return value

    def limits(self, *, whole_macs: int) -> dict[str, float]:
        """Return the ceilings that are set, in base units.

        Args:
            whole_macs: MACs of the whole network, to which shares refer.

        Returns:
            Ceiling by quantity.
        """
        limits: dict[str, float] = {}
        if self.latency_ms is not None:
            limits["latency_ms"] = self.latency_ms
        if isinstance(self.max_macs, str):
            limits["macs"] = float(self.max_macs[:-1]) / 100 * whole_macs
        elif self.max_macs is not None:
            limits["macs"] = self.max_macs
        if self.max_parameters is not None:
            limits["parameters"] = self.max_parameters
        if self.max_file_mb is not None:
            limits["file_bytes"] = self.max_file_mb * 1e6
        if self.max_memory_mb is not None:
            limits["runtime_memory_bytes"] = self.max_memory_mb * 1e6
        if self.energy_mj is not None:
            limits["energy_mj"] = self.energy_mj
        return limits


class Costs(Record):
    """What a subnet costs; latency and energy only where a device tells them.

    Attributes:
        latency_ms: Predicted latency, milliseconds.
        macs: Multiply-accumulate operations of convolutions and linear layers per picture.
        parameters: Number of parameters.
        file_bytes: Size of the ONNX file.
        peak_memory_bytes: Weights and live activations at the worst moment, counted.
        runtime_memory_bytes: Peak of memory in ONNX Runtime; None where it was not looked at.
        energy_mj: Energy of one picture, idle power included, millijoules.
    """

    latency_ms: float | None = None
    macs: int
    parameters: int
    file_bytes: int
    peak_memory_bytes: int
    runtime_memory_bytes: int | None = None
    energy_mj: float | None = None


class Latency(Record):
    """A measured latency in milliseconds.

    Attributes:
        p10: Tenth percentile.
        p50: Median; what a request is judged by.
        p90: Ninetieth percentile.
        runs: Timed runs.
        warmup: Runs before them.
        threads: Threads of the runtime.
    """

    p10: float
    p50: float
    p90: float
    runs: int
    warmup: int
    threads: int


class Energy(Record):
    """A measured energy of one picture.

    Attributes:
        mj: Millijoules of the processor package, idle power included; what a request is judged by.
        above_idle_mj: What lies above the energy that the idle machine draws in the same time.
        idle_watts: Power of the idle machine, measured before.
        runs: Runs that were counted.
        seconds: How long they took.
        counter: What counted.
    """

    mj: float
    above_idle_mj: float
    idle_watts: float
    runs: int
    seconds: float
    counter: str


class Quality(Record):
    """Quality on labelled held-out pictures.

    Attributes:
        metric: `balanced_accuracy` for property tasks, `accuracy` (over the classes of the task) for
            class tasks, `ap50` (average precision at an overlap of 0.5) for detectors.
        value: The made model.
        whole: The whole network for the same task (all bricks that the task opens without a limit), as
            the state before.
        per_class: Recall of each label; AP50 for detectors.
        ap: Average precision over overlaps of 0.5 to 0.95, for detectors.
        examples: Number of pictures.
        source: Where the pictures come from.
    """

    metric: Metric
    value: float
    ap: float | None = None
    whole: float | None = None
    per_class: dict[str, float]
    examples: int
    source: str

    @property
    def metric_name(self) -> str:
        """The metric as people write it."""
        return METRIC_NAMES[self.metric]


class FormatCheck(Record):
    """How files of another format than ONNX compare with the float32 graph that they were made from.

    Attributes:
        largest_difference: Largest difference of any score on calibration inputs.
        largest_score: Largest score of the graph there.
        agreement: Share of these inputs for which both answer the same; None for detectors.
        inputs: Number of these inputs.
        reference_quality: Quality of the graph on the pictures that the file's quality was measured on; None
            without labels.
        drop_points: How much lower the file's quality is, in points (hundredths); below 0 if it is higher.
        warning: What to know before using the file; None if nothing.
    """

    largest_difference: float
    largest_score: float
    agreement: float | None
    inputs: int
    reference_quality: float | None = None
    drop_points: float | None = None
    warning: str | None = None


class CurvePoint(Record):
    """One point of the curve from limit to quality, measured when the factory was trained.

    Attributes:
        limit: Ceiling on the share of the whole network's MACs.
        macs_share: Share that was used, mean over tasks.
        quality: Mean over tasks.
    """

    limit: float
    macs_share: float
    quality: float


class Block(Record):
    """One block of the network in the picture of bricks.

    Attributes:
        name: Decision's name.
        bricks: Whether each brick is on.
    """

    name: str
    bricks: tuple[bool, ...]


class Report(Record):
    """Everything about one made model; `report.json`.

    Attributes:
        feasible: Always true for a model that was made.
        task: Canonical text of the task, or `all`.
        known_task: Whether the very combination was trained; None for class subsets.
        factory: Name of the factory.
        budget: The request's ceilings.
        format: Format of the model's file.
        device: Name of the device profile, None when latency plays no part.
        binding_limit: The ceiling that is nearest to being reached, None without ceilings.
        predicted: Costs before the file was written.
        measured: Latency of the file on the machine that made it.
        measured_on: Name of that machine, with runtime, precision and threads; a device of another name was
            not measured but predicted.
        whole_measured: Latency of the whole network's file on the same device, milliseconds, median.
        rounds: How often the latency limit was tightened and the model made again, plus one.
        parameters: Exact.
        macs: Exact.
        macs_share: Share of the whole network's MACs.
        whole: Costs of the whole network.
        file_bytes: Exact size of the model's file, or of both where the format has two.
        peak_memory_bytes: Weights and live activations, in 32-bit numbers, counted.
        runtime_memory_bytes: Peak of memory in ONNX Runtime, measured in a process of its own; None where it
            was not asked for.
        energy: Measured where energy is limited and the device is this machine.
        seconds: Time by part; `total` is all of it.
        parity_error: Largest difference of any score between the cut graph and the reference.
        parity_reference: What the cut graph was compared with.
        format_check: How the file compares with the cut graph; None for ONNX, where they are the same.
        quality: On held-out pictures, None without labels.
        curve: Limit to quality, from the factory's training.
        blocks: Which bricks are on.
        choices: Values of the other decisions.
        config_sha256: Hash of the config.
        seed: Seed of whatever was drawn.
        versions: Versions of the libraries that took part.
        sha256: Hashes of the files.
        files: Paths by role.
        created: Time, ISO 8601, UTC.
    """

    feasible: bool = True
    task: str
    known_task: bool | None
    factory: str
    budget: Budget
    format: FormatName = "onnx"
    device: str | None
    binding_limit: LimitName | None
    predicted: Costs
    measured: Latency
    measured_on: str
    whole_measured: float | None
    rounds: int
    parameters: int
    macs: int
    macs_share: float
    whole: Costs
    file_bytes: int
    peak_memory_bytes: int
    runtime_memory_bytes: int | None = None
    energy: Energy | None = None
    seconds: dict[str, float]
    parity_error: float
    parity_reference: str
    format_check: FormatCheck | None = None
    quality: Quality | None
    curve: tuple[CurvePoint, ...]
    blocks: tuple[Block, ...]
    choices: dict[str, int | str]
    config_sha256: str
    seed: int
    versions: dict[str, str]
    sha256: dict[str, str]
    files: dict[str, str]
    created: str
