"""The factory folder: what lies in it, how it is found and read."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from brickyard.assemble.assembly import Assembly
from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_json, read_manifest
from brickyard.core.task import Vocabulary
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.geometry import GeometrySpec
from brickyard.export.blueprint import Blueprint

FORMAT_VERSION = 1

_BUNDLED = Path(__file__).parents[1] / "factories"


def bundled_factories() -> dict[str, Path]:
    """Return the factories that come with the package, by name."""
    if not _BUNDLED.is_dir():
        return {}
    return {path.name: path for path in sorted(_BUNDLED.iterdir()) if (path / "manifest.json").is_file()}


def require_own(factory: Path) -> None:
    """Refuse a factory that is no folder of the user's: what it learns lies in its folder.

    Raises:
        ArtifactError: It is no folder; where a bundled factory has that name, the error tells how to copy it.
    """
    if not factory.is_dir():
        bundled = bundled_factories().get(str(factory))
        hint = "" if bundled is None else f"; copy the bundled one first: cp -r {bundled} {factory}"
        raise ArtifactError(f"{factory} is no folder; a factory that learns is a folder of yours{hint}")


def versions(*further: str) -> dict[str, str]:
    """Return the versions of Python, brickyard and the libraries that take part."""
    found = {"python": platform.python_version()}
    for name in ("brickyard", "numpy", "onnx", "onnxruntime", *further):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def find_factory(name: str | Path) -> Path:
    """Find a factory by folder, bundled name or hub id.

    Args:
        name: A folder; else the name of a bundled factory; else `owner/name` on the Hugging Face Hub.

    Returns:
        The folder.

    Raises:
        ArtifactError: Nothing of that name.
    """
    if Path(name).is_dir():
        return Path(name)
    bundled = bundled_factories()
    if str(name) in bundled:
        return bundled[str(name)]
    parts = str(name).split("/")
    if len(parts) == 2 and all(parts) and not str(name).startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(str(name)))
        except LocalEntryNotFoundError:
            raise ArtifactError(
                f"{name} is no folder here, the hub cannot be reached, and no earlier download is kept; "
                "check the path, or the connection"
            ) from None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(f"{name} is no folder here, and the hub did not give it: {reason}") from None
    raise ArtifactError(
        f"{name} is neither a folder nor a bundled factory ({', '.join(bundled) or 'none'}) nor a hub id "
        "(owner/name)"
    )


@dataclass(frozen=True, eq=False)
class FactoryFolder:
    """The parts of a factory, read from its folder without torch.

    Attributes:
        path: The folder.
        manifest: Its verified manifest.
    """

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> FactoryFolder:
        """Open and verify a folder.

        Raises:
            ArtifactError: It is not a factory, or is altered or incomplete.
        """
        return cls(path, read_manifest(path, format_version=FORMAT_VERSION, kind="factory"))

    @property
    def name(self) -> str:
        """Name of the factory."""
        return str(self.manifest["name"])

    @cached_property
    def network(self) -> dict[str, Any]:
        """Builder, arguments, space and provenance of the network."""
        record: dict[str, Any] = read_json(self.path / "network.json")
        return record

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Words of tasks."""
        return Vocabulary.from_json((self.path / "vocabulary.json").read_text())

    @cached_property
    def preprocess(self) -> Preprocess:
        """How pictures become inputs."""
        return Preprocess.from_json((self.path / "preprocess.json").read_text())

    @cached_property
    def blueprint(self) -> Blueprint:
        """The exported whole network and how it is cut."""
        return Blueprint.load(self.path)

    @cached_property
    def assembly(self) -> Assembly:
        """The trained assembler."""
        record = read_json(self.path / "assembler.json")
        weights = load_file(self.path / "assembler.safetensors")
        costs = np.array(record["costs"], dtype=np.float32)
        return Assembly(record["kind"], weights, self.blueprint.space, costs, float(record["fixed_cost"]))

    @cached_property
    def quality(self) -> dict[str, Any]:
        """Quality at each limit, measured when the factory was trained."""
        record: dict[str, Any] = read_json(self.path / "quality.json")
        return record

    @cached_property
    def calibration(self) -> Examples:
        """Pictures for parity checks and calibration."""
        return Examples.load(self.path / "calibration.npz")

    @cached_property
    def heldout(self) -> Examples | None:
        """Labelled pictures that were not trained on; None where they are drawn afresh."""
        path = self.path / "heldout.npz"
        return Examples.load(path) if path.is_file() else None

    @cached_property
    def geometry(self) -> GeometrySpec | None:
        """The generator of scenes, if the factory was trained on some."""
        spec = self.network["provenance"]["data"]
        return GeometrySpec.from_json(spec["scenes"]) if spec["kind"] == "geometry" else None
