"""The whole network as one exported graph, and how any subnet is cut out of it; no torch is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from brickyard.core.cut import Cut
from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import ArtifactError, ConfigError
from brickyard.core.files import read_json, write_bytes, write_json
from brickyard.core.norm_sets import NormSets
from brickyard.core.space import Space
from brickyard.export.counts import Counter, Counts, block_names
from brickyard.export.cutter import Cutter
from brickyard.export.gated import gated_graph
from brickyard.export.parts import Activation, Leftover, Stage

FORMAT_VERSION = 1
GRAPH_FILE = "whole.onnx"
RECORD_FILE = "blueprint.json"
NORMS_FILE = "norms.safetensors"


@dataclass(frozen=True, eq=False)
class Blueprint:
    """An exported network from which models are cut.

    Attributes:
        graph: The whole network, batch 1, normalisation folded; initializers are named like the parameters of
            the plain torch module.
        space: Its decisions.
        cuts: How each initializer is cut.
        leftovers: Branches that become constants.
        stages: Sequences of which blocks can be left out.
        activations: Tensors of the graph by name.
        norm_sets: Which subnet uses which set of normalisation, None if there is one for all.
        norms: With several sets, what multiplies the rows of a weight, and biases, `[sets, channels out]` by
            initializer.
        parity_error: Largest difference from torch that was found over sampled configs, as a share of the
            largest score.

    Example:
        >>> blueprint = Blueprint.load("factory")
        >>> onnx.save(blueprint.cut(blueprint.space.smallest()), "smallest.onnx")
    """

    graph: onnx.ModelProto
    space: Space
    cuts: Mapping[str, tuple[Cut, ...]]
    leftovers: tuple[Leftover, ...] = ()
    stages: tuple[Stage, ...] = ()
    activations: Mapping[str, Activation] = field(default_factory=dict)
    norm_sets: NormSets | None = None
    norms: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    parity_error: float = 0.0

    @cached_property
    def cutter(self) -> Cutter:
        """The graph parsed for cutting."""
        return Cutter(
            self.graph,
            self.cuts,
            self.leftovers,
            self.stages,
            self.activations,
            self.norm_sets,
            self.norms,
        )

    @cached_property
    def counter(self) -> Counter:
        """Tables of costs."""
        return Counter(self.cutter, self.space)

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Names of the subsets that can be gated: all but those that cut only the output, such as classes."""
        return block_names(self.cuts, self.space)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs: `scores`, or what the network calls its several ones."""
        return self.cutter.topology.outputs

    @cached_property
    def sha256(self) -> str:
        """Hash of the structure: graph without weights, space and cuts.

        A device profile belongs to it; factories that differ in their weights alone have the same.
        """
        bare = onnx.ModelProto()
        bare.CopyFrom(self.graph)
        for tensor in bare.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
        record = self._record()
        del record["parity_error"]
        for left in record["leftovers"]:
            del left["value"]
        text = json.dumps(record, sort_keys=True).encode()
        return hashlib.sha256(bare.SerializeToString(deterministic=True) + text).hexdigest()

    def cut(self, config: Mapping[str, Any]) -> onnx.ModelProto:
        """Cut a subnet out: a standalone model with input `image` and the outputs of the network.

        Args:
            config: One value for each decision.

        Returns:
            The model. Its initializers bear the names and values of the plain torch twin's state dict. Shapes
            of inner tensors are not noted; every runtime infers them.

        Raises:
            ConfigError: The config is not legal.
        """
        return self.cutter.cut(self.space.check(config))

    def count(self, config: Mapping[str, Any]) -> Counts:
        """Count what a subnet costs; see `brickyard.export.counts` for what is counted.

        Args:
            config: A legal config; it is not checked, for speed.

        Returns:
            The costs; `file_bytes` is an upper bound, see `file_bytes` for the exact size.
        """
        return self.counter.count(self.counter.lengths(config))

    def file_bytes(self, config: Mapping[str, Any]) -> int:
        """Return the exact size of a subnet's file, by cutting it.

        Raises:
            ConfigError: The config is not legal.
        """
        return int(self.cut(config).ByteSize())

    def macs_per_group(self, decision: str) -> npt.NDArray[np.float64]:
        """Return what each brick of a block adds in MACs while all other decisions are at their largest.

        Args:
            decision: Name of the subset.

        Returns:
            MACs `[count]`.

        Raises:
            ConfigError: The decision is not a subset of this network.
        """
        if decision not in self.space or not isinstance(self.space[decision], Subset):
            names = [known.name for known in self.space if isinstance(known, Subset)]
            raise ConfigError(f"{decision!r} is not a subset of this network; known: {names}", path=decision)
        return self.counter.macs_per_group(decision)

    def gated(self, choices: Mapping[str, Any] | None = None, *, norm_set: int = 0) -> onnx.ModelProto:
        """Return a reference model that multiplies activations by gates where `cut` slices.

        Args:
            choices: Values of decisions that are cut (depths, kernels); the largest where not given.
            norm_set: Number of the norm set, where there are several.

        Returns:
            A model with inputs `image` and `gates`, float32 `[bricks of all blocks]`, blocks in the order of
            the space.

        Raises:
            ConfigError: A value is not legal, or belongs to a block, which has gates.
        """
        choices = dict(choices or {})
        gates = [name for name in self.blocks if name in choices]
        if gates:
            raise ConfigError(f"{gates[0]!r} is decided by gates; give only other decisions", path=gates[0])
        config = self.space.check(self.space.largest().replace(choices))
        whole = self.cutter.cut(config, norm_set=norm_set)
        blocks = [block for block in self.space if isinstance(block, Subset) and block.name in self.blocks]
        return gated_graph(whole, cuts=self.cuts, blocks=blocks)

    def _region(self, block: str) -> tuple[Subset, list[int]]:
        if block not in self.blocks:
            raise ConfigError(f"{block!r} is no block; known: {list(self.blocks)}", path=block)
        subset = self.space[block]
        assert isinstance(subset, Subset)
        return subset, self.cutter.topology.region(block)

    def kernel_of(self, block: str) -> Choice | None:
        """Return the choice of the kernel size inside a block, None if it is fixed.

        Raises:
            ConfigError: The block is unknown.
        """
        _, nodes = self._region(block)
        read = [name for number in nodes for name in self.cutter.topology.nodes[number].input]
        for cut in (cut for name in read for cut in self.cuts.get(name, ()) if cut.kind == "center"):
            kernel = self.space[cut.decision]
            assert isinstance(kernel, Choice)
            return kernel
        return None

    def depth_of(self, block: str) -> tuple[str, int] | None:
        """Return the depth that can leave a block out, and the block's place; None if none can.

        Raises:
            ConfigError: The block is unknown.
        """
        _, nodes = self._region(block)
        held = self.cutter.topology.guards(self.cutter.topology.nodes[nodes[-1]].name, (), self.stages)
        least = {stage.decision: self.space[stage.decision].smallest() for stage in self.stages}
        return next(((name, needed - 1) for name, needed in held if needed > least[name]), None)

    def region_model(
        self, block: str, count: int, choices: Mapping[str, Any] | None = None
    ) -> onnx.ModelProto:
        """Return the region of a block as a model of its own, with real input shapes, for measuring.

        Args:
            block: Name of the subset.
            count: Bricks that are on, at least 1.
            choices: Values of other decisions, such as its kernel; the largest where not given.

        Returns:
            A model of the nodes between those whose rows and those whose columns the subset cuts.

        Raises:
            ConfigError: The block is unknown, or the count is not from 1 to its number of bricks.
        """
        subset, nodes = self._region(block)
        if not 1 <= count <= subset.count:
            raise ConfigError(
                f"count = {count} for {block!r} is not allowed; allowed: 1 to {subset.count}",
                path=block,
                value=count,
            )
        config = self.space.largest().replace({**(choices or {}), block: tuple(range(count))})
        return self.cutter.cut(self.space.check(config), only=frozenset(nodes))

    def _record(self) -> dict[str, Any]:
        sets = {} if self.norm_sets is None else {"norm_sets": self.norm_sets.to_json()}
        return {
            "format_version": FORMAT_VERSION,
            **sets,
            "space": self.space.to_json(),
            "cuts": {name: [cut.to_json() for cut in cuts] for name, cuts in self.cuts.items()},
            "leftovers": [left.to_json() for left in self.leftovers],
            "stages": [stage.to_json() for stage in self.stages],
            "activations": {name: flow.to_json() for name, flow in self.activations.items()},
            "parity_error": self.parity_error,
        }

    def save(self, folder: str | Path) -> None:
        """Write `whole.onnx` and `blueprint.json`, and norm sets if any, into a folder that exists."""
        if self.norm_sets is not None:
            write_bytes(Path(folder) / NORMS_FILE, save(dict(self.norms)))
        write_bytes(Path(folder) / GRAPH_FILE, self.graph.SerializeToString(deterministic=True))
        write_json(Path(folder) / RECORD_FILE, self._record())

    @classmethod
    def load(cls, folder: str | Path) -> Blueprint:
        """Read what `save` wrote.

        Args:
            folder: The folder.

        Returns:
            The blueprint.

        Raises:
            ArtifactError: A file is missing, malformed or of another version.
        """
        path = Path(folder) / RECORD_FILE
        record = read_json(path)
        if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
            found = record.get("format_version") if isinstance(record, dict) else type(record).__name__
            raise ArtifactError(f"{path} has format version {found}; this brickyard reads {FORMAT_VERSION}")
        fields = {"format_version", "space", "cuts", "leftovers", "stages", "activations", "parity_error"}
        if set(record) - {"norm_sets"} != fields:
            raise ArtifactError(f"{path} has entries {sorted(record)}; expected {sorted(fields)}")
        graph = Path(folder) / GRAPH_FILE
        if not graph.is_file():
            raise ArtifactError(f"{graph} does not exist; the folder is incomplete, copy or make it again")
        try:
            model = onnx.load_model_from_string(graph.read_bytes())
        except Exception as error:  # noqa: BLE001  (the class is protobuf's, which is no dependency of its own)
            raise ArtifactError(f"{graph} is no ONNX file ({error}); copy or make the folder again") from None
        norms = Path(folder) / NORMS_FILE
        if "norm_sets" in record and not norms.is_file():
            raise ArtifactError(f"{norms} does not exist; the folder is incomplete, copy or make it again")
        try:
            return cls(
                graph=model,
                space=Space.from_json(record["space"]),
                cuts={
                    name: tuple(Cut.from_json(cut) for cut in cuts) for name, cuts in record["cuts"].items()
                },
                leftovers=tuple(Leftover.from_json(left) for left in record["leftovers"]),
                stages=tuple(Stage.from_json(stage) for stage in record["stages"]),
                activations={
                    name: Activation.from_json(flow) for name, flow in record["activations"].items()
                },
                norm_sets=NormSets.from_json(record["norm_sets"]) if "norm_sets" in record else None,
                norms=load_file(norms) if "norm_sets" in record else {},
                parity_error=float(record["parity_error"]),
            )
        except (KeyError, TypeError, AttributeError, ConfigError, SafetensorError) as error:
            raise ArtifactError(f"{path} is malformed: {error}; copy or make the folder again") from None
