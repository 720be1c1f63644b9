"""Datasets are read whole, once an epoch, in batches that normalisation can take."""

import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from brickyard.continual.examples import count, epoch, everything, steps_of
from brickyard.core.errors import DataError


@pytest.mark.parametrize(
    ("examples", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (3, 1, [1, 1, 1]), (8, 4, [4, 4])],
)
def test_an_epoch_has_every_example_once_and_the_steps_that_were_told(examples, batch_size, sizes):
    data = TensorDataset(torch.arange(float(examples))[:, None], torch.arange(examples))
    batches = list(epoch(data, batch_size, torch.Generator().manual_seed(0)))
    seen = torch.cat([labels for _, labels in batches])
    assert seen.sort().values.tolist() == list(range(examples))
    assert all((inputs[:, 0] == labels).all() for inputs, labels in batches)
    if batch_size > 1:
        assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == steps_of(data, batch_size)


def test_everything_keeps_the_order():
    data = TensorDataset(torch.randn(5, 2), torch.arange(5))
    assert everything(data)[1].tolist() == [0, 1, 2, 3, 4]


def test_a_stream_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(DataError, match="Stream has no length; give a map-style dataset"):
        count(Stream())
