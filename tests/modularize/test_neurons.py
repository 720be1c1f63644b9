"""Neurons are looked at and switched off by hooks; the model stays as it is, bit for bit."""

import pytest
import torch

from brickyard.core.errors import ModularizeError
from brickyard.modularize.neurons import NeuronProbe, fresh_twin
from brickyard.modularize.text_encoder import Tokens

from .encoders import TEXTS, letters
from .transformers_zoo import Stack, tiny

KINDS = ("bert", "gpt2", "llama", "bert-classifier")


def probe_of(kind: str, **more) -> NeuronProbe:
    return NeuronProbe(tiny(kind), Tokens(letters(), max_tokens=16), **more)


def values_of(probe: NeuronProbe, place: int) -> torch.Tensor:
    """The parameter of the second matrix."""
    return probe.model.get_submodule(probe.parts[place].values).weight


def test_activity_is_the_mean_over_the_tokens_of_a_text():
    probe = probe_of("bert", batch_size=2)
    found = probe.activity(TEXTS)
    assert [tuple(part.shape) for part in found] == [(3, 16)] * 3
    layer = probe.model.encoder.layer[0]
    for text, row in zip(TEXTS, found[0], strict=True):
        held = []
        handle = layer.intermediate.register_forward_hook(lambda m, a, y, held=held: held.append(y))
        with torch.no_grad():
            probe.model(**probe.tokens([text]))
        handle.remove()
        torch.testing.assert_close(row, held[0][0].abs().mean(0), atol=1e-5, rtol=1e-4)


def test_activity_of_a_gated_network_is_the_product_of_its_factors():
    probe = probe_of("llama")
    mlp, held = probe.model.model.layers[1].mlp, []
    handle = mlp.register_forward_pre_hook(lambda m, args: held.append(args[0]))
    [row] = probe.activity(["a b c"])[1]
    handle.remove()
    with torch.no_grad():
        expected = (mlp.act_fn(mlp.gate_proj(held[0])) * mlp.up_proj(held[0])).abs().mean((0, 1))
    torch.testing.assert_close(row, expected)


def test_means_are_over_all_tokens_with_their_sign():
    probe = probe_of("gpt2", batch_size=1)
    held = []
    handle = probe.model.transformer.h[2].mlp.act.register_forward_hook(lambda m, a, y: held.append(y[0]))
    found = probe.means(TEXTS)[2]
    handle.remove()
    torch.testing.assert_close(found, torch.cat(held).mean(0))
    assert (found < 0).any()
    padded = NeuronProbe(probe.model, probe.tokens).means(TEXTS)[2]
    torch.testing.assert_close(padded, found, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_without_neurons_equals_zeroed_columns_and_everything_comes_back(kind):
    probe = probe_of(kind)
    state = {name: value.clone() for name, value in probe.model.state_dict().items()}
    before = probe.says(TEXTS)
    gone = [torch.tensor([0, 3, 7]), torch.tensor([], dtype=torch.long), torch.tensor([15])]
    with probe.without(gone):
        found = probe.says(TEXTS)
    assert not torch.allclose(found, before, atol=1e-4)
    assert torch.equal(probe.says(TEXTS), before)
    assert all(torch.equal(state[name], value) for name, value in probe.model.state_dict().items())
    with torch.no_grad():
        for place, neurons in enumerate(gone):
            weight = values_of(probe, place)
            (weight.t() if probe.parts[place].transposed else weight)[:, neurons] = 0
    torch.testing.assert_close(probe.says(TEXTS), found)


def test_hooks_are_gone_after_an_error():
    probe = probe_of("bert")
    before = probe.says(TEXTS)
    with pytest.raises(RuntimeError, match="stop"), probe.without([torch.tensor([0])] * 3):
        raise RuntimeError("stop")
    assert torch.equal(probe.says(TEXTS), before)


def test_sparse_leaves_out_those_that_give_least_to_each_token():
    probe = probe_of("gpt2")
    torch.testing.assert_close(probe.value_norms[0], values_of(probe, 0).detach().norm(dim=1))
    before = probe.says(TEXTS)
    with probe.sparse(0.0):
        assert torch.equal(probe.says(TEXTS), before)
    last = probe.model.get_submodule(probe.parts[0].values)
    held = []
    with probe.sparse(0.75):
        handle = last.register_forward_pre_hook(lambda m, args: held.append(args[0]))
        probe.says(["a b c"])
        handle.remove()
    assert ((held[0] != 0).sum(-1) == 4).all()
    probe.model.transformer.h[0].mlp.act.register_forward_hook(lambda m, a, y: held.append(y))
    probe.says(["a b c"])
    given = held[1].abs() * probe.value_norms[0]
    assert torch.equal(held[0] != 0, given >= given.topk(4, dim=-1).values[..., -1:])
    with pytest.raises(ModularizeError, match="share = 1 is not allowed"), probe.sparse(1):
        pass


@pytest.mark.parametrize(
    ("kind", "causal"), [("bert", False), ("gpt2", True), ("llama", True), ("bert-classifier", False)]
)
def test_language_models_are_told_by_what_they_compute(kind, causal):
    assert probe_of(kind).causal is causal


def test_a_masked_language_model_is_no_causal_one():
    from transformers import BertConfig, BertForMaskedLM

    from .transformers_zoo import SIZES

    model = BertForMaskedLM(BertConfig(**SIZES)).eval()
    probe = NeuronProbe(model, Tokens(letters(), max_tokens=16))
    assert not probe.causal
    assert probe.says(TEXTS).shape == (3, 12)


def test_the_loss_is_that_of_transformers():
    probe = probe_of("gpt2")
    ids = probe.tokens.batch([[3, 5, 9, 4]])["input_ids"]
    with torch.no_grad():
        expected = probe.model(input_ids=ids, labels=ids).loss
    [[loss, count]] = probe.says([[3, 5, 9, 4]])
    torch.testing.assert_close(loss / count, expected)
    assert count == 3
    padded = probe.says([[3, 5, 9, 4], [3, 5, 9, 4, 6, 7]])[0]
    torch.testing.assert_close(padded, torch.stack([loss, count]), atol=1e-4, rtol=1e-4)


def test_the_embedding_is_the_mean_over_real_tokens():
    probe = probe_of("bert-classifier")
    with torch.no_grad():
        expected = probe.model.bert(**probe.tokens(["a b c d"])).last_hidden_state[0].mean(0)
    torch.testing.assert_close(probe.says(TEXTS)[0], expected, atol=1e-4, rtol=1e-4)


def test_models_that_cannot_be_looked_into_are_refused():
    with pytest.raises(ModularizeError, match="reads two texts at once"):
        probe_of("t5")
    with pytest.raises(ModularizeError, match="no feed-forward network to look into"):
        probe_of("phi3")


def test_a_fresh_twin_has_other_weights_of_the_same_shape():
    model = tiny("bert")
    one, same, other = (fresh_twin(model, seed=seed) for seed in (1, 1, 2))
    weights = [twin.encoder.layer[0].intermediate.dense.weight for twin in (one, same, other, model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].shape == weights[3].shape
    assert not one.training
    with pytest.raises(ModularizeError, match="no model of transformers"):
        fresh_twin(Stack(), seed=0)
