"""Encodings: the features that predictors see of a point.

Which one tells most is decided by cross-validation, as the predictor is; see `brickyard.search.predictors`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from brickyard.core.registry import Registry
from brickyard.search.genes import Genes, Rows

Features = npt.NDArray[np.float64]
Encoding = Callable[[Genes, Rows], Features]
"""From genes `[points, columns]` to features `[points, width]`, all in [0, 1].

Genes that play no part in a point have features of 0.
"""

ENCODINGS: Registry[Encoding] = Registry("encodings")


@ENCODINGS.add("one_hot")
def one_hot(genes: Genes, rows: Rows) -> Features:
    """Give every value of every parameter a feature of its own; numbers stay numbers."""
    parts, active = [], genes.active(rows)
    for column, gene in enumerate(genes.columns):
        values, here = rows[:, column : column + 1], active[:, column : column + 1]
        parts.append(here * ((values == np.arange(gene.size)) if gene.size else values))
    return _joined(parts, len(rows))


@ENCODINGS.add("ordinal")
def ordinal(genes: Genes, rows: Rows) -> Features:
    """Give ordered parameters their place in the order, the others a feature for every value."""
    parts, active = [], genes.active(rows)
    for column, gene in enumerate(genes.columns):
        values, here = rows[:, column : column + 1], active[:, column : column + 1]
        if not gene.size:
            parts.append(here * values)
        elif gene.ordered or gene.size == 2:
            parts.append(here * values / max(1, gene.size - 1))
        else:
            parts.append(here * (values == np.arange(gene.size)))
    return _joined(parts, len(rows))


@ENCODINGS.add("bits")
def bits(genes: Genes, rows: Rows) -> Features:
    """Give every parameter the binary digits of its value's place."""
    parts, active = [], genes.active(rows)
    for column, gene in enumerate(genes.columns):
        values, here = rows[:, column : column + 1], active[:, column : column + 1]
        if gene.size:
            digits = np.arange(max(1, int(gene.size - 1).bit_length()))
            parts.append(here * ((values.astype(np.int64) >> digits) & 1))
        else:
            parts.append(here * values)
    return _joined(parts, len(rows))


@ENCODINGS.add("counts")
def counts(genes: Genes, rows: Rows) -> Features:
    """Count how many parameters of the same values take each of them; add the ordinal encoding.

    Layers of one kind often add up, however they are ordered; the ordinal part tells the rest.
    """
    kinds: dict[tuple[object, ...], list[int]] = {}
    for column, gene in enumerate(genes.columns):
        if gene.size:
            kinds.setdefault(gene.values, []).append(column)
    parts, active = [ordinal(genes, rows)], genes.active(rows)
    for values, columns in kinds.items():
        if len(columns) > 1:
            hits = active[:, columns, None] & (rows[:, columns, None] == np.arange(len(values)))
            parts.append(hits.mean(1))
    return _joined(parts, len(rows))


def _joined(parts: list[npt.NDArray[Any]], count: int) -> Features:
    return np.hstack(parts).astype(float) if parts else np.zeros((count, 0))
