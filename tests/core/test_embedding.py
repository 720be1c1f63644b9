"""One vector of a text: the mean over real tokens, a head, unit length."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from brickyard.core.embedding import TextEmbedder, mean_pool, states_of


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def test_padding_has_no_part_in_the_mean():
    states = torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    expected = torch.stack([states[0, :2].mean(0), torch.zeros(4)])
    torch.testing.assert_close(mean_pool(states, mask), expected)


def test_a_text_becomes_a_unit_vector():
    module = TextEmbedder(Backbone(), nn.Linear(4, 3))
    ids, mask = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    found = module(ids, mask)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(found[:1], module(ids[:1, :2]))
    torch.testing.assert_close(module(ids)[1], found[1])


def test_states_are_told_from_other_outputs():
    x = torch.zeros(1)
    assert states_of(x) is x
    assert states_of(SimpleNamespace(last_hidden_state=x)) is x
    with pytest.raises(TypeError, match="a dict has no last_hidden_state"):
        states_of({"logits": x})
