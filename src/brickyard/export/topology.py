"""How the nodes of an exported graph hang together, and which of them a decision can take away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx

from brickyard.core.cut import Cut
from brickyard.export.parts import Leftover, Stage

Guard = tuple[str, int]
"""A decision and the least count (of a subset) or value (of a choice) at which something stays."""


def below(name: str, prefix: str) -> bool:
    """Tell whether a node or tensor lies at or below a module path."""
    return name == prefix or name.startswith(f"{prefix}.")


@dataclass(frozen=True, eq=False)
class Topology:
    """The wiring of a graph; node numbers are positions in the file, which is in order of execution.

    Attributes:
        nodes: The nodes.
        input: Name of the graph's input.
        outputs: Names of the graph's outputs.
        cuts: How each initializer is cut.
    """

    nodes: Sequence[onnx.NodeProto]
    input: str
    outputs: tuple[str, ...]
    cuts: Mapping[str, tuple[Cut, ...]]

    @cached_property
    def producer(self) -> dict[str, int]:
        """Node number by tensor."""
        return {name: number for number, node in enumerate(self.nodes) for name in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """Numbers of the nodes that read a tensor or initializer."""
        readers: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            for name in node.input:
                readers.setdefault(name, []).append(number)
        return readers

    def inside(self, prefix: str) -> list[int]:
        """Return the nodes of the module at a path."""
        return [number for number, node in enumerate(self.nodes) if below(node.name, prefix)]

    def results(self, numbers: Iterable[int]) -> list[str]:
        """Return the tensors that a set of nodes hands to others, or out of the graph."""
        own = set(numbers)
        return [
            name
            for number in sorted(own)
            for name in self.nodes[number].output
            if number in self._fed  # a constant is no result
            if name in self.outputs or any(reader not in own for reader in self.consumers.get(name, ()))
        ]

    def sources(self, numbers: Iterable[int]) -> list[str]:
        """Return the tensors that a set of nodes takes from others, or from the graph's input."""
        own = set(numbers)
        made = {name for number in own for name in self.nodes[number].output}
        read = [name for number in sorted(own) for name in self.nodes[number].input]
        return list(dict.fromkeys(name for name in read if name and name not in made and self._flows(name)))

    def _flows(self, name: str) -> bool:
        return name in self.producer or name == self.input

    @cached_property
    def _fed(self) -> set[int]:
        """Nodes that the graph's input reaches; others are constants or turn weights, as Transpose does."""
        fed: set[int] = set()
        for number, node in enumerate(self.nodes):
            if any(name == self.input or self.producer.get(name) in fed for name in node.input):
                fed.add(number)
        return fed

    def _readers(self, name: str) -> set[int]:
        """Return the nodes that compute with a weight, be it turned before."""
        found: set[int] = set()
        for number in self.consumers.get(name, ()):
            if number in self._fed:
                found.add(number)
            else:
                found.update(*(self._readers(turned) for turned in self.nodes[number].output))
        return found

    def cut_nodes(self, decision: str, *, rows: bool) -> set[int]:
        """Return the nodes with a weight whose rows (first axis), or columns (second), a decision cuts."""
        return {
            number
            for name, cuts in self.cuts.items()
            if any(cut.decision == decision and cut.axis == (0 if rows else 1) for cut in cuts)
            for number in self._readers(name)
        }

    def region(self, decision: str) -> list[int]:
        """Return the nodes on paths from those whose rows a subset cuts to those whose columns it cuts.

        Constants that they read, and nodes that turn their weights, are among them.
        """
        start, end = self.cut_nodes(decision, rows=True), self.cut_nodes(decision, rows=False)
        behind: set[int] = set()
        for number, node in enumerate(self.nodes):
            if number in start or any(self.producer.get(name) in behind for name in node.input):
                behind.add(number)
        before: set[int] = set()
        for number in reversed(range(len(self.nodes))):
            readers = (
                reader for name in self.nodes[number].output for reader in self.consumers.get(name, ())
            )
            if number in end or any(reader in before for reader in readers):
                before.add(number)
        inside = behind & before
        for number in reversed(range(len(self.nodes))):
            if number not in self._fed and any(
                reader in inside
                for name in self.nodes[number].output
                for reader in self.consumers.get(name, ())
            ):
                inside.add(number)
        return sorted(inside)

    def guards(self, name: str, leftovers: Iterable[Leftover], stages: Iterable[Stage]) -> list[Guard]:
        """Return what must hold for a node, or a constant, of this name to stay."""
        held = [(left.decision, 1) for left in leftovers if below(name, left.prefix) and name != left.name]
        held += [
            (stage.decision, block + 1)
            for stage in stages
            for block in range(stage.count)
            if below(name, f"{stage.prefix}.{block}")
        ]
        return held
