"""Examples of plain torch datasets, read in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from brickyard.core.errors import DataError

Examples = Dataset[Any]
"""A dataset with a length whose items are pairs of an input tensor and a class index."""


def count(examples: Examples) -> int:
    """Return the number of examples.

    Raises:
        DataError: There are none, or the dataset has no length.
    """
    try:
        number = len(examples)  # type: ignore[arg-type]
    except TypeError:
        raise DataError(f"{type(examples).__name__} has no length; give a map-style dataset") from None
    if number < 1:
        raise DataError("the dataset has no examples; give at least one")
    return number


def take(examples: Examples, places: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Read some examples.

    Args:
        examples: The dataset.
        places: Which ones.

    Returns:
        Inputs `[places, ...]` and class indices `[places]`.

    Raises:
        DataError: The items are not pairs of an input and a class index.
    """
    places = torch.as_tensor(places)
    if isinstance(examples, TensorDataset):
        items: Any = examples[places]  # all at once
    else:
        items = default_collate([examples[int(place)] for place in places])
    if not isinstance(items, list | tuple) or len(items) != 2:
        raise DataError("items of the dataset must be pairs of an input and a class index")
    inputs, labels = items
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        raise DataError("the second part of an item must be a class index, a whole number")
    return inputs, labels.long()


def everything(examples: Examples) -> tuple[Tensor, Tensor]:
    """Read all examples, inputs `[examples, ...]` and class indices `[examples]`."""
    return take(examples, torch.arange(count(examples)))


def epoch(examples: Examples, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Read all examples once, in random order.

    Args:
        examples: The dataset.
        batch_size: Examples of a batch; the last one may have fewer. A last one of 1 joins the batch before
            it, since batch normalisation could not take it.
        generator: Source of the order.

    Yields:
        Inputs and class indices.
    """
    parts = list(torch.randperm(count(examples), generator=generator).split(batch_size))
    if batch_size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    for part in parts:
        yield take(examples, part)


def steps_of(examples: Examples, batch_size: int) -> int:
    """Return the number of batches of an epoch."""
    number = count(examples)
    full, rest = divmod(number, batch_size)
    return max(1, full + (rest > 1 or (rest == 1 and batch_size == 1)))
