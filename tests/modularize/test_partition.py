"""Neurons are split into experts of equal size, each method by what it is for."""

import builtins

import pytest
import torch

from brickyard.core.errors import MissingExtraError, ModularizeError
from brickyard.core.files import cache_folder
from brickyard.modularize import partition as module
from brickyard.modularize.partition import PARTITIONS, balanced_kmeans, partition_neurons


def clustered(groups=4, size=6, width=8):
    """Keys in groups around directions at right angles, of different lengths, in mixed order."""
    centres = torch.eye(width)[:groups].repeat_interleave(size, 0)
    keys = centres * (0.5 + 2 * torch.rand(groups * size, 1)) + 0.02 * torch.randn(groups * size, width)
    order = torch.randperm(len(keys))
    return keys[order], (torch.arange(groups).repeat_interleave(size))[order]


def same_groups(found, true):
    return len({(int(one), int(other)) for one, other in zip(found, true, strict=True)}) == len(
        set(true.tolist())
    )


@pytest.mark.parametrize("method", PARTITIONS)
def test_experts_have_equal_sizes(method):
    keys, active = torch.randn(24, 8), torch.rand(50, 24) > 0.5
    labels = partition_neurons(keys, 4, method=method, active_TF=active, cache=False)
    assert torch.bincount(labels).tolist() == [6, 6, 6, 6]


def test_similar_keys_stay_together():
    keys, true = clustered()
    assert same_groups(partition_neurons(keys, 4, cache=False), true)
    assert not same_groups(partition_neurons(keys, 4, method="random"), true)


def test_neurons_that_are_active_together_stay_together():
    _, true = clustered()
    topics = torch.randint(4, (400,))
    active = (torch.rand(400, 24) < 0.1) | ((topics[:, None] == true) & (torch.rand(400, 24) < 0.7))
    keys = torch.randn(24, 8)  # say nothing
    labels = partition_neurons(keys, 4, method="coactivation", active_TF=active, cache=False)
    assert same_groups(labels, true)
    assert not same_groups(partition_neurons(keys, 4, cache=False), true)


def test_unequal_clusters_are_levelled_at_least_cost():
    points = torch.cat([torch.zeros(5, 2), torch.tensor([[0.9, 0.0]]), torch.tensor([[4.0, 0.0]] * 2)])
    labels = balanced_kmeans(points.numpy(), 2)
    assert labels[6] == labels[7] == labels[5]  # the one nearest to the smaller cluster joins it
    assert sorted(labels.tolist()).count(0) == 4


def test_sequential_and_random_are_what_they_say():
    keys = torch.randn(6, 2)
    assert partition_neurons(keys, 3, method="sequential").tolist() == [0, 0, 1, 1, 2, 2]
    first, again, other = (partition_neurons(keys, 3, method="random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_partitions_are_kept_by_weights_and_settings(monkeypatch):
    calls = []
    real = module.balanced_kmeans
    monkeypatch.setattr(
        module, "balanced_kmeans", lambda *given, **named: calls.append(1) or real(*given, **named)
    )
    keys = torch.randn(12, 4)
    first = partition_neurons(keys, 3)
    assert torch.equal(partition_neurons(keys.clone(), 3), first)
    assert len(calls) == 1
    other = keys.clone()
    other[0, 0] += 1e-3
    partition_neurons(other, 3)
    partition_neurons(keys, 4)
    partition_neurons(keys, 3, seed=1)
    partition_neurons(keys, 3, method="coactivation", active_TF=torch.rand(9, 12) > 0.5)
    assert len(calls) == 5
    partition_neurons(keys, 3, cache=False)
    assert len(calls) == 6


@pytest.mark.parametrize("content", ["no json", "[0, 0, 0]", '{"a": 1}', "[0,0,0,0,0,0,0,0,1,1,2,2]"])
def test_broken_files_of_the_cache_are_made_anew(content):
    keys = torch.randn(12, 4)
    first = partition_neurons(keys, 3)
    newest = max((cache_folder() / "partitions").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    newest.write_text(content)
    assert torch.equal(partition_neurons(keys, 3), first)


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_a_cache_that_cannot_be_written_is_warned_of(place, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    keys = torch.randn(12, 4)
    expected = partition_neurons(keys, 3, cache=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    with pytest.warns(UserWarning, match="cannot be kept in .*a file.* set XDG_CACHE_HOME to a folder"):
        assert torch.equal(partition_neurons(keys, 3), expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModularizeError, match="12 neurons cannot be split into 5 experts of equal size"):
        partition_neurons(torch.randn(12, 4), 5)
    with pytest.raises(ModularizeError, match="'metis' is unknown; known: kmeans, coactivation"):
        partition_neurons(torch.randn(12, 4), 3, method="metis")
    with pytest.raises(ModularizeError, match="needs a sample"):
        partition_neurons(torch.randn(12, 4), 3, method="coactivation")


def test_without_the_library_the_command_to_install_it_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **named):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'brickyard\[train\]'"):
        partition_neurons(torch.randn(12, 4), 3, cache=False)
