"""Average precision, halves of texts, located neurons, overlaps and tests of experts."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from brickyard.core.errors import DataError, ModularizeError
from brickyard.modularize.function_scores import (
    enrichment,
    function_scores,
    overlap,
    split_texts,
    top_neurons,
)


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_scores_equal_those_of_scikit_learn_ties_too(rng, levels, monkeypatch):
    monkeypatch.setattr("brickyard.modularize.function_scores._CHUNK", 90)  # three neurons at once
    values = rng.integers(0, levels, (30, 7)).astype(np.float32)
    labels = [*[0, 1, 2] * 9, 2, 2, 1]
    found = function_scores(torch.from_numpy(values), labels, 3)
    expected = [
        [average_precision_score(np.array(labels) == function, values[:, neuron]) for neuron in range(7)]
        for function in range(3)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_scores_need_a_label_for_each_text_and_texts_for_each_function():
    with pytest.raises(DataError, match="3 texts with 2 labels"):
        function_scores(torch.rand(3, 2), [0, 1], 2)
    with pytest.raises(DataError, match=r"by function \[3, 0\]"):
        function_scores(torch.rand(3, 2), [0, 0, 0], 2)


def test_halves_are_stratified_disjoint_and_seeded():
    labels = [0] * 7 + [1] * 4
    first, heldout = split_texts(labels, seed=1)
    assert sorted(first + heldout) == list(range(11))
    assert [labels[place] for place in first] == [0] * 4 + [1] * 2
    assert (first, heldout) == split_texts(labels, seed=1)
    assert first != split_texts(labels, seed=2)[0]
    with pytest.raises(DataError, match="at least two functions with two texts each"):
        split_texts([0, 0, 1], seed=0)


def test_the_best_neurons_are_located_and_their_overlap_counted():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.8], [0.7, 0.9, 0.2, 0.1]])
    located = top_neurons(scores, 0.5)
    assert located.tolist() == [[1, 3], [1, 0]]
    assert overlap(located).tolist() == [[1.0, 0.5], [0.5, 1.0]]
    with pytest.raises(ModularizeError, match="share = 1 is not allowed"):
        top_neurons(scores, 1)


def test_only_gathered_neurons_pass_the_test():
    experts = torch.arange(400) // 20
    gathered = torch.arange(20)[None]  # all in expert 0
    found = enrichment(gathered, experts)
    assert found.share == pytest.approx(1 / 20)
    assert found.mean == pytest.approx(20 / (20 * 20 / 400))
    spread = enrichment(torch.arange(0, 400, 20)[None], experts)
    assert (spread.share, spread.mean) == (0.0, 0.0)
    without = experts.clone()
    without[:20] = -1  # neurons of no expert are not counted
    assert enrichment(gathered, without).share == 0.0


def test_by_chance_almost_no_expert_passes():
    generator = torch.Generator().manual_seed(0)
    located = torch.stack([torch.randperm(640, generator=generator)[:32] for _ in range(8)])
    assert enrichment(located, torch.arange(640) // 10).share < 0.05
