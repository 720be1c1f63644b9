"""A network folder: a network with its weights, and pictures by which its subnets can be judged.

It is laid out like a factory folder without an assembler: `network.json` and `model.safetensors`, and, where
they are known, `vocabulary.json`, `preprocess.json`, `calibration.npz` and `heldout.npz`. Needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save as save_torch

from brickyard.assemble.assembly import Assembly
from brickyard.core.errors import ArtifactError, DataError
from brickyard.core.files import new_folder, read_json, read_manifest, write_bytes, write_json, write_manifest
from brickyard.core.network import Network
from brickyard.core.space import CLASSES, HEAD_SUBSETS, block_subsets
from brickyard.core.task import Vocabulary
from brickyard.core.weights import distinct_state
from brickyard.data.examples import Examples, Preprocess, some_of
from brickyard.data.geometry import GeometrySpec
from brickyard.data.source import DataSource
from brickyard.export.blueprint import Blueprint
from brickyard.export.whole import export_blueprint
from brickyard.factory.evaluate import load_fitting, with_channels
from brickyard.factory.folder import FORMAT_VERSION, FactoryFolder
from brickyard.factory.records import Record
from brickyard.factory.twin import load_network

_CALIBRATION, _HELDOUT = 256, 2000  # pictures that are kept


class DataChoice(Record):
    """Data that a user names, as `brickyard.data.load_data` takes them.

    Attributes:
        data: A folder of class folders, a table, `geometry`, `digits` or a hub id.
        attributes: Columns that hold properties.
        label: Column of the class.
        image: Column of the image.
        seed: Seed of scenes and of the part held out.
    """

    data: str
    attributes: tuple[str, ...] = ()
    label: str | None = None
    image: str | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class JudgedFolder(FactoryFolder):
    """A factory or network folder as a search sees it: with the pictures that subnets are judged by.

    Attributes:
        source: Data in place of those in the folder; None for the folder's own.
    """

    source: DataSource | None = None

    @classmethod
    def open_with(cls, path: Path, choice: DataChoice | None) -> JudgedFolder:
        """Open and verify a folder, and load the data.

        Args:
            path: A factory folder or a network folder.
            choice: The data; None for those in the folder.

        Raises:
            ArtifactError: The folder is neither, or is altered or incomplete.
            DataError: There are no pictures, or they do not fit the network.
        """
        record = read_json(path / "manifest.json") if (path / "manifest.json").is_file() else {}
        kind = "network" if record.get("kind") == "network" else "factory"
        folder = cls(path, read_manifest(path, format_version=FORMAT_VERSION, kind=kind))
        if choice is not None:
            folder = replace(folder, source=folder._load(choice))
        elif not (path / "heldout.npz").is_file() and folder.geometry is None:
            raise DataError(f"{path} holds no pictures with labels; name some with --data")
        folder._check()
        return folder

    def _load(self, choice: DataChoice) -> DataSource:
        detects = "heat" in self.torch_network.outputs
        options: dict[str, Any] = {"image": choice.image}
        if not detects:
            options |= {"attributes": choice.attributes, "label": choice.label}
        if self._has("preprocess"):
            wanted = self._own_preprocess()
        else:
            channels, height, width = self.torch_network.input_shape
            wanted = Preprocess(height, width, channels, (0.0,) * channels, (1.0,) * channels)
        return load_fitting(
            choice.data,
            wanted,
            seed=choice.seed,
            job="detect" if detects else "classify",
            scenes=_CALIBRATION,
            **options,
        )

    def _own_preprocess(self) -> Preprocess:
        return Preprocess.from_json((self.path / "preprocess.json").read_text())

    def _own_vocabulary(self) -> Vocabulary:
        return Vocabulary.from_json((self.path / "vocabulary.json").read_text())

    def _has(self, part: str) -> bool:
        return (self.path / f"{part}.json").is_file()

    def _check(self) -> None:
        """Refuse pictures that do not fit the network."""
        space, shape = self.torch_network.space, self.torch_network.input_shape
        if tuple(self.preprocess.shape) != tuple(shape):
            raise DataError(
                f"inputs of {self.path} are {list(shape)} (channels, height, width), the pictures become "
                f"{list(self.preprocess.shape)}; name data of that size and those channels"
            )
        words = self.vocabulary.words
        for head in HEAD_SUBSETS:
            kind = "classes" if head == CLASSES else "properties"
            if head in space and (len(words) != space[head].width or self.vocabulary.kind != kind):
                raise DataError(
                    f"the head of {self.path} knows {space[head].width} {kind}, the data have {len(words)} "
                    f"{self.vocabulary.kind}; name data like those that it was trained on"
                )
        if self.source is not None and self._has("vocabulary"):
            own = self._own_vocabulary().words
            if own != words:
                raise DataError(f"{self.path} knows {', '.join(own)}; the data have {', '.join(words)}")

    @cached_property
    def torch_network(self) -> Network:
        """The network with its weights."""
        return load_network(self.path)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Words of tasks."""
        return self._own_vocabulary() if self.source is None else self.source.vocabulary

    @cached_property
    def preprocess(self) -> Preprocess:
        """How pictures become inputs: as in training where that is known."""
        if self.source is not None and not self._has("preprocess"):
            return self.source.preprocess
        return self._own_preprocess()

    @cached_property
    def blueprint(self) -> Blueprint:
        """The exported whole network; exported now where the folder has none."""
        return super().blueprint if self._has("blueprint") else export_blueprint(self.torch_network)

    @cached_property
    def assembly(self) -> Assembly:
        """The assembler; one without weights where the folder has none, which only tells the blocks."""
        if self._has("assembler"):
            return super().assembly
        bricks = sum(subset.count for subset in block_subsets(self.blueprint.space))
        return Assembly("none", {}, self.blueprint.space, np.zeros(bricks, dtype=np.float32), 1.0)

    @cached_property
    def quality(self) -> dict[str, Any]:
        """Quality at each limit of a factory; nothing of other networks."""
        return super().quality if self._has("assembler") else {"tasks": {}, "limits": []}

    @cached_property
    def calibration(self) -> Examples:
        """Pictures from which normalisation is estimated."""
        examples = super().calibration if self.source is None else self.source.train
        places = some_of(np.arange(len(examples)), _CALIBRATION, 0)
        return self._fitted(examples.subset(places))

    @cached_property
    def heldout(self) -> Examples | None:
        """Labelled pictures; None where they are drawn afresh."""
        if self.source is None:
            return super().heldout
        return None if self.source.geometry is not None else self._fitted(self.source.heldout)

    def _fitted(self, examples: Examples) -> Examples:
        images = with_channels(examples.images, self.preprocess.channels)
        return Examples(images, examples.objects, examples.boxes)

    @cached_property
    def geometry(self) -> GeometrySpec | None:
        """The generator of scenes, if the data are such."""
        if self.source is not None:
            return self.source.geometry
        spec = self.network.get("provenance", {}).get("data", {})
        return GeometrySpec.from_json(spec["scenes"]) if spec.get("kind") == "geometry" else None


def save_network(
    network: Network,
    folder: str | Path,
    *,
    source: DataSource | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network folder.

    Args:
        network: A registered network.
        folder: Folder to write; must not exist or be empty.
        source: Data that it was trained on, of which 256 pictures for normalisation and up to 2,000 held-out
            ones are kept; None to keep none.
        provenance: What else is worth keeping of where it comes from, JSON values.

    Returns:
        The folder.

    Raises:
        ArtifactError: The folder is taken, or the network is no registered one.
    """
    target = Path(folder)
    if not network.builder:
        raise ArtifactError(
            "this network is no registered one, so a folder could not be read back; register its builder "
            "with brickyard.networks.NETWORKS.add"
        )
    origin = {**({} if source is None else {"data": dict(source.spec)}), **(provenance or {})}
    sets = {} if network.norm_sets is None else {"norm_sets": network.norm_sets.to_json()}
    space = json.dumps(network.space.to_json()).encode()
    with new_folder(target) as place:
        write_json(
            place / "network.json",
            {
                "format_version": FORMAT_VERSION,
                "builder": network.builder,
                "arguments": network.arguments,
                **sets,
                "space": hashlib.sha256(space).hexdigest(),
                "provenance": origin,
            },
        )
        state = distinct_state(network.root)
        write_bytes(place / "model.safetensors", save_torch(state))
        if source is not None:
            write_bytes(place / "vocabulary.json", source.vocabulary.to_json().encode())
            write_bytes(place / "preprocess.json", source.preprocess.to_json().encode())
            rng = np.random.default_rng(0)
            drawn = rng.permutation(len(source.train))[:_CALIBRATION]
            source.train.subset(drawn).save(place / "calibration.npz")
            if source.geometry is None:
                kept = np.sort(rng.permutation(len(source.heldout))[:_HELDOUT])
                source.heldout.subset(kept).save(place / "heldout.npz")
        write_manifest(place, format_version=FORMAT_VERSION, kind="network", fields={"name": target.name})
    return target
