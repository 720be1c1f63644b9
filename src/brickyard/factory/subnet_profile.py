"""Device profiles by whole subnets, for networks whose decisions are not all numbers of bricks in a block.

Times of some subnets are measured on the device; those of all others are predicted by a Gaussian process on
the logarithm of the time. What it sees of a subnet is decided by cross-validation, and its error is that on
subnets that were held out. A profile holds the measurements alone; the process is fitted when it is asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from brickyard.core.config import Config
from brickyard.core.errors import ArtifactError, DeviceError, MissingExtraError
from brickyard.core.files import read_json, write_bytes
from brickyard.core.space import Space
from brickyard.devices.record import BY_SUBNETS

if TYPE_CHECKING:
    from brickyard.search.genes import Genes
    from brickyard.search.predictors.gaussian import GaussianProcess

Floats = npt.NDArray[np.float64]

_PREDICTOR = "gaussian"


class HeldOut(BaseModel):
    """How good the predictions are on subnets that they were not fitted to.

    Attributes:
        encoding: What the predictor sees of a subnet, of `brickyard.search.encodings`; chosen by
            cross-validation on the other subnets.
        count: Subnets that were held out.
        mape: Mean absolute error, share of the measured time.
        worst: Largest of these errors.
        rank_correlation: Spearman's, in [-1, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: str
    count: int
    mape: float
    worst: float
    rank_correlation: float

    def __str__(self) -> str:
        """Tell them in a line."""
        return (
            f"{self.mape:.1%} on {self.count} subnets that were held out, worst {self.worst:.1%}, rank "
            f"correlation {self.rank_correlation:.3f}"
        )


class SubnetProfile(BaseModel):
    """Measured times of some subnets of a network on a device, which tell those of all others.

    Attributes:
        format_version: Version of this record.
        kind: Tells it from other profiles.
        name: Name of the device.
        machine: Architecture and system.
        processor: Name of the processor.
        runtime: Runtime and version.
        threads: Threads of the runtime.
        precision: Numbers the runtime computes with.
        network_sha256: The network's structure, see `structure_sha256`.
        space: Records of the decisions, those of the head left out.
        subnets: Configs that were measured, canonical and distinct.
        ms: Median of each while nothing else runs, milliseconds.
        fitted: How many of them, from the first, predictions are fitted to while the error is measured; the
            others are held out.
        seed: Seed of the subnets.
        noise: How far two halves of the runs are apart, relative, a mean.
        slowdown: How much slower the machine was at the end of the measurement than at its start, a share.
        clock_step_ns: Smallest step of the machine's clock.
        created: Time, ISO 8601, UTC.
        held_out: The error; None in what a kit writes, until `judged`.

    Example:
        >>> SubnetProfile.load("pi4.json").predict(space.smallest())
        3.21
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    format_version: Literal[1] = 1
    kind: Literal["subnets"] = BY_SUBNETS
    name: str
    machine: str
    processor: str
    runtime: str
    threads: int
    precision: Literal["fp32", "int8"]
    network_sha256: str
    space: tuple[dict[str, Any], ...]
    subnets: tuple[dict[str, Any], ...]
    ms: tuple[float, ...]
    fitted: int = Field(ge=2)
    seed: int
    noise: float
    slowdown: float
    clock_step_ns: int
    created: str
    held_out: HeldOut | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse measurements that are not one number for each legal subnet."""
        if len(self.subnets) != len(self.ms) or not self.fitted < len(self.ms):
            raise ValueError(
                f"{len(self.subnets)} subnets, {len(self.ms)} times, {self.fitted} fitted; expected as many "
                "times as subnets, and fewer that are fitted"
            )
        if not all(0 < ms < float("inf") for ms in self.ms):
            raise ValueError("times are not all finite and above 0")
        if len(set(self._configs)) != len(self.subnets):
            raise ValueError("a subnet is there twice")
        return self

    @cached_property
    def _decisions(self) -> Space:
        return Space.from_json(self.space)

    @cached_property
    def _configs(self) -> list[Config]:
        return [self._decisions.check(subnet) for subnet in self.subnets]

    @cached_property
    def _genes(self) -> Genes:
        require_search()
        from brickyard.search.genes import Genes
        from brickyard.search.params import distributions

        return Genes(distributions(self._decisions))

    def _features(self, configs: Sequence[Mapping[str, Any]], encoding: str) -> Floats:
        from brickyard.search.encodings import ENCODINGS
        from brickyard.search.params import params_of

        rows = self._genes.rows([params_of(self._decisions, config) for config in configs])
        return ENCODINGS[encoding](self._genes, rows)

    def _process(self, count: int, encoding: str) -> GaussianProcess:
        """Fit the first so many subnets; the same each time."""
        from brickyard.search.predictors.gaussian import GaussianProcess

        features = self._features(self._configs[:count], encoding)
        return GaussianProcess().fit(features, np.log(self.ms[:count]))

    @cached_property
    def _fit(self) -> tuple[GaussianProcess, str]:
        """The process on all subnets."""
        encoding = self.judged().error.encoding
        return self._process(len(self.ms), encoding), encoding

    @property
    def error(self) -> HeldOut:
        """The error of predictions, worked out now where the record does not tell it."""
        found = self.judged().held_out
        assert found is not None
        return found

    def predict(self, config: Mapping[str, Any]) -> float:
        """Predict the median latency of a subnet on the device while nothing else runs, milliseconds.

        Args:
            config: A canonical config (`Subnets.canonical`); decisions that are not in `space`, those of the
                head, play no part.

        Raises:
            ConfigError: The config is not legal.
            MissingExtraError: The extra `search` is not installed.
        """
        return float(self.predict_all([config])[0])

    def predict_all(self, configs: Sequence[Mapping[str, Any]]) -> Floats:
        """Predict several subnets, see `predict`.

        Args:
            configs: Canonical configs.

        Returns:
            Milliseconds `[configs]`.
        """
        process, encoding = self._fit
        names = [decision.name for decision in self._decisions]
        inner = [{name: config[name] for name in names if name in config} for config in configs]
        found: Floats = np.exp(process.predict(self._features(inner, encoding))[0])
        return found

    def judged(self) -> SubnetProfile:
        """Return the profile with its error: itself where that is told.

        Raises:
            MissingExtraError: The extra `search` is not installed.
        """
        if self.held_out is not None:
            return self
        require_search()
        from brickyard.search.encodings import ENCODINGS
        from brickyard.search.predictors.gaussian import GaussianProcess
        from brickyard.search.predictors.select import rank_correlation, select

        first, logs = self.fitted, np.log(self.ms)
        features = {name: self._features(self._configs[:first], name) for name in ENCODINGS}
        tried = select({_PREDICTOR: GaussianProcess}, features, logs[:first], seed=self.seed)
        encoding = min(tried, key=lambda quality: quality.error).encoding
        process = self._process(first, encoding)
        predicted = process.predict(self._features(self._configs[first:], encoding))[0]
        errors = np.abs(np.exp(predicted - logs[first:]) - 1.0)
        held_out = HeldOut(
            encoding=encoding,
            count=len(errors),
            mape=float(errors.mean()),
            worst=float(errors.max()),
            rank_correlation=rank_correlation(predicted, logs[first:]),
        )
        return self.model_copy(update={"held_out": held_out})

    def fitting(self, network_sha256: str, network: str) -> Self:
        """Return the profile where it was measured for a network.

        Args:
            network_sha256: The network's structure.
            network: Its folder, for the message.

        Raises:
            DeviceError: It was measured for another one.
        """
        if self.network_sha256 != network_sha256:
            raise DeviceError(
                f"device profile {self.name!r} was measured for another network; run `brickyard profile "
                f"{network}` on the device, or the kit that its --kit writes, and use that file"
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON, whole or not at all."""
        write_bytes(Path(path), self.model_dump_json(indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> SubnetProfile:
        """Read a profile.

        Raises:
            DeviceError: The file is missing or no such profile.
        """
        found = cls.load_if(path)
        if found is None:
            raise DeviceError(
                f"{path} is no profile by whole subnets; make one with `brickyard profile` of the network"
            )
        return found

    @classmethod
    def load_if(cls, path: str | Path) -> SubnetProfile | None:
        """Read a profile, or return None where the file is a device of another kind.

        Raises:
            DeviceError: The file is missing, or malformed.
        """
        file = Path(path)
        if not file.is_file():
            raise DeviceError(f"{path} is not a file; expected a device profile, made by `brickyard profile`")
        if file.suffix.lower() == ".csv":
            return None
        try:
            record = json.loads(file.read_bytes())
            if not isinstance(record, dict) or record.get("kind") != BY_SUBNETS:
                return None
            return cls.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            reason = f"{where}: {first['msg']}"
        except ValueError as error:  # no JSON
            reason = str(error)
        raise DeviceError(
            f"{path} is malformed as a device profile ({reason}); make it with `brickyard profile`"
        )


def structure_sha256(folder: Path) -> str:
    """Return a hash of what decides how long subnets of a network take: its builder, arguments and space.

    Args:
        folder: The network folder; folders that differ in their weights alone have the same.

    Raises:
        ArtifactError: It is none.
    """
    record = read_json(folder / "network.json")
    try:
        parts = [record[part] for part in ("builder", "arguments", "space")]
    except KeyError as error:
        raise ArtifactError(
            f"{folder / 'network.json'} lacks {error}; write the network folder again"
        ) from None
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def require_search() -> None:
    """Refuse to go on without what predictions need.

    Raises:
        MissingExtraError: The extra `search` is not installed.
    """
    from importlib.util import find_spec

    for library in ("optuna", "scipy"):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra="search")
