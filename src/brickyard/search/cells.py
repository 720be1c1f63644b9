"""Encodings of cells: small graphs whose every edge carries one of the same operations.

A cell is what is repeated in the networks of cell-based spaces, such as NAS-Bench-201 (arXiv 2001.00326): its
nodes are feature maps that add up what their edges bring, and a decision chooses the operation of each edge.
Predictors that see decisions alone need hundreds of cells to learn what the graph tells at once: an edge that
lies on no path from input to output does nothing, and a path's worth is in what it passes through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from brickyard.core.errors import ConfigError
from brickyard.search.encodings import one_hot
from brickyard.search.genes import Genes, Rows

Features = npt.NDArray[np.float64]
Kind = Literal["absent", "identity", "weighted", "plain"]
"""What an operation does: brings nothing, brings its input, learns weights (convolution), or neither."""

_KINDS = ("absent", "identity", "weighted", "plain")


class Cells:
    """Features of cells.

    Args:
        edges: The two nodes of each edge, from the lower to the higher one, in the order of the genes. The
            input is node 0, the output the last node.
        kinds: What each operation does, in the order of the values.

    Raises:
        ConfigError: An edge does not lead to a higher node, or a kind is not known.
    """

    def __init__(self, edges: Sequence[tuple[int, int]], kinds: Sequence[Kind]) -> None:
        for edge in edges:
            if not 0 <= edge[0] < edge[1]:
                raise ConfigError(f"edge {tuple(edge)} must lead from a node to a higher one", path="edges")
        for kind in kinds:
            if kind not in _KINDS:
                raise ConfigError(f"kind {kind!r} of an operation is none of {list(_KINDS)}", path="kinds")
        if not edges or not kinds:
            raise ConfigError("a cell needs at least one edge and one operation", path="edges")
        self.edges, self.kinds = [(int(a), int(b)) for a, b in edges], np.array(kinds)
        self.paths = _paths(self.edges)

    def encodings(self) -> Mapping[str, Callable[[Genes, Rows], Features]]:
        """Return the encodings to hand to a search: three that each see something else."""
        return {"cell": self.summary, "cell_paths": self.paths_one_hot, "cell_all": self.all}

    def summary(self, genes: Genes, rows: Rows) -> Features:
        """Give what sums a cell up: operations that do something, lengths of paths, paths that skip.

        Args:
            genes: The space; one gene for each edge.
            rows: Genes, `[cells, edges]`.

        Returns:
            Features `[cells, 2 operations + 7]`, in [0, 1].
        """
        ops = self._ops(genes, rows)
        live, whole, counts = self._walk(ops)
        weighted = counts[:, :, self.kinds == "weighted"].sum(2)
        passive = whole & (counts[:, :, self.kinds != "identity"].sum(2) == 0)
        depth = np.where(whole, weighted, 0)
        shortest = np.where(whole, weighted, self._longest).min(1)
        one, two = (whole & (weighted == 1)).mean(1), (whole & (weighted == 2)).mean(1)
        columns = [
            depth.max(1) / self._longest,
            shortest / self._longest,
            passive.mean(1),
            passive.any(1),
            whole.mean(1),
            one,
            two,
        ]
        used = np.stack([((ops == op) & live).mean(1) for op in self._active], 1)
        per_path = counts[:, :, self._active].max(1) / self._longest
        return np.hstack([used, per_path, np.stack(columns, 1)])

    def paths_one_hot(self, genes: Genes, rows: Rows) -> Features:
        """Give for every path whether it is whole and what it passes through; and the one-hot encoding."""
        ops = self._ops(genes, rows)
        return np.hstack([one_hot(genes, rows), self._path_counts(ops)])

    def all(self, genes: Genes, rows: Rows) -> Features:
        """Give all that the other two see."""
        return np.hstack([self.paths_one_hot(genes, rows), self.summary(genes, rows)])

    @property
    def _active(self) -> list[int]:
        return np.flatnonzero(self.kinds != "absent").tolist()

    @property
    def _longest(self) -> int:
        return max(len(path) for path in self.paths)

    def _ops(self, genes: Genes, rows: Rows) -> npt.NDArray[np.int64]:
        wrong = [gene.name for gene in genes.columns if gene.size != len(self.kinds)]
        if len(genes.columns) != len(self.edges) or wrong:
            sizes = sorted({gene.size for gene in genes.columns})
            raise ConfigError(
                f"cells of {len(self.edges)} edges and {len(self.kinds)} operations do not describe a space "
                f"of {len(genes.columns)} decisions with {sizes} values"
            )
        return rows.astype(np.int64)

    def _walk(self, ops: npt.NDArray[np.int64]) -> tuple[Features, Features, Features]:
        """Return which edges do something, which paths are whole, and the operations on whole paths."""
        present = self.kinds[ops] != "absent"
        whole = np.stack([present[:, path].all(1) for path in self.paths], 1)
        live = np.zeros(ops.shape, dtype=bool)
        counts = np.zeros((len(ops), len(self.paths), len(self.kinds)))
        for place, path in enumerate(self.paths):
            live[:, path] |= whole[:, place : place + 1]
            hits = (ops[:, path, None] == np.arange(len(self.kinds))).sum(1)
            counts[:, place] = hits * whole[:, place : place + 1]
        return live, whole, counts

    def _path_counts(self, ops: npt.NDArray[np.int64]) -> Features:
        _, whole, counts = self._walk(ops)
        shares = counts[:, :, self._active] / self._longest
        return np.hstack([whole.astype(float), shares.reshape(len(ops), -1)])


def _paths(edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the edges of every path from node 0 to the last one."""
    last = max(end for _, end in edges)
    found: list[list[int]] = []

    def walk(node: int, path: list[int]) -> None:
        if node == last:
            found.append(path)
        for place, (start, end) in enumerate(edges):
            if start == node:
                walk(end, [*path, place])

    walk(0, [])
    if not found:
        raise ConfigError(f"no path leads from node 0 to node {last}", path="edges")
    return found
