"""Network folders as a device is measured with them: subnets as files, weights as they are; needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from brickyard.core.config import Config
from brickyard.core.files import read_json, read_manifest
from brickyard.core.space import HEAD_SUBSETS, Space
from brickyard.export.whole import export_blueprint
from brickyard.factory.canonical import Canonical
from brickyard.factory.folder import FORMAT_VERSION
from brickyard.factory.subnet_profile import structure_sha256
from brickyard.factory.subnet_timing import Timable
from brickyard.factory.supernet import load_trained
from brickyard.factory.supernet_jobs import Pictures
from brickyard.factory.text_subnets import TextSubnets
from brickyard.factory.twin import load_network


class TimablePictures:
    """The subnets of a network that reads pictures, cut from its blueprint.

    Args:
        path: The network folder.

    Raises:
        ArtifactError: It is none, or is altered.
        ExportError: The network has parts that cannot be cut in a graph.
    """

    def __init__(self, path: Path) -> None:
        read_manifest(path, format_version=FORMAT_VERSION, kind="network")
        self._blueprint = export_blueprint(load_network(path))
        whole = self._blueprint.space
        self._head = {part.name: part.largest() for part in whole if part.name in HEAD_SUBSETS}
        self.space = Space.from_json([part.to_json() for part in whole if part.name not in HEAD_SUBSETS])
        self.sha256 = structure_sha256(path)
        self.feed: Mapping[str, npt.NDArray[np.int64]] = {}
        self._canonical = Canonical(self._blueprint, self.space)

    def canonical(self, config: Config) -> Config:
        """Return the config that computes the same."""
        return self._canonical(config)

    def content(self, config: Config) -> bytes:
        """Return a subnet as serialized ONNX, with a whole head."""
        return bytes(self._blueprint.cut({**self._head, **config}).SerializeToString())


class TimableTexts:
    """The subnets of a network that reads tokens, each exported on its own.

    Args:
        path: The folder of a trained supernet.

    Raises:
        ArtifactError: It is none, or is altered.
    """

    def __init__(self, path: Path) -> None:
        self._subnets = TextSubnets(load_trained(path))
        self.space, self.feed = self._subnets.space, self._subnets.feed
        self.sha256 = structure_sha256(path)

    def canonical(self, config: Config) -> Config:
        """Return the config that computes the same."""
        return self._subnets.canonical(config)

    def content(self, config: Config) -> bytes:
        """Return a subnet as serialized ONNX, with a whole head."""
        return self._subnets.content(self._subnets.config(config))


def open_timable(path: Path) -> Timable:
    """Open a network folder.

    Args:
        path: The folder.

    Raises:
        ArtifactError: It is none, or is altered.
        ExportError: Its subnets cannot be exported.
    """
    job = read_json(path / "network.json").get("job")
    return TimablePictures(path) if job in (None, Pictures.kind) else TimableTexts(path)
