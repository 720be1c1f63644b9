"""Models are cut down to the neurons that functions need; what is cut equals what is switched off."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModel

from brickyard.core.errors import DataError, ModularizeError
from brickyard.modularize.brick_map import Changes, random_neurons
from brickyard.modularize.function_scores import split_texts
from brickyard.modularize.neurons import NeuronProbe
from brickyard.modularize.prune import keep_neurons, needed_neurons, prune_to
from brickyard.modularize.text_encoder import Tokens

from .encoders import TEXTS, letters
from .mapped import labelled, mapped, probe_of


def test_those_that_give_most_to_a_wanted_function_stay():
    _, found = mapped()
    kept = needed_neurons(found, ["front"], share=0.25)
    layer = found.layers[0]
    assert list(kept) == [one.path for one in found.layers]
    assert kept[layer.path].tolist() == sorted(layer.output[0].topk(4).indices.tolist())
    both = needed_neurons(found, ["front", "back"], share=0.25)[layer.path]
    given = layer.output / layer.output.sum(1, keepdim=True)
    assert both.tolist() == sorted(torch.maximum(given[0], given[1]).topk(4).indices.tolist())
    for share in (0, 1):
        with pytest.raises(ModularizeError, match=f"share = {share} is not allowed"):
            needed_neurons(found, ["front"], share=share)
    with pytest.raises(ModularizeError, match="are not all on this map"):
        needed_neurons(found, ["none"], share=0.5)


def test_whole_experts_stay_and_neurons_of_none():
    experts = [torch.tensor([-1, -1, -1, -1, *[0, 1, 2] * 4])] * 3
    _, found = mapped(experts=experts)
    kept = needed_neurons(found, ["back"], share=1 / 3)
    for layer in found.layers:
        given = [float(layer.output[1][experts[0] == expert].sum()) for expert in range(3)]
        best = given.index(max(given))
        assert kept[layer.path].tolist() == [0, 1, 2, 3, *range(4 + best, 16, 3)]


@pytest.mark.parametrize("residents", [0, 4])
def test_networks_without_experts_keep_as_many_as_those_with(residents, tmp_path):
    whole = torch.tensor([-1] * residents + [number % 3 for number in range(16 - residents)])
    probe, found = mapped(experts=[None, whole, None])
    kept = needed_neurons(found, ["back"], share=0.4)
    assert list(kept) == [layer.path for layer in found.layers]
    count = len(kept[found.layers[1].path])
    assert count == residents + int((whole == whole[kept[found.layers[1].path]].max()).sum())
    assert [len(numbers) for numbers in kept.values()] == [count] * 3
    keep_neurons(probe.model, kept).save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "bert-classifier"])
@pytest.mark.parametrize("count", [8, 5])
def test_a_cut_model_equals_the_one_without_the_others(kind, count, tmp_path):
    probe = probe_of(kind)
    model = probe.model
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    generator = torch.Generator().manual_seed(0)
    kept = {part.keys: torch.randperm(16, generator=generator)[:count] for part in probe.parts}
    small = keep_neurons(model, kept)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    gone = [torch.tensor(sorted(set(range(16)) - set(kept[part.keys].tolist()))) for part in probe.parts]
    with probe.without(gone):
        expected = probe.says(TEXTS)
    cut = NeuronProbe(small, Tokens(letters(), max_tokens=16))
    assert [part.neurons for part in cut.parts] == [count] * 3
    torch.testing.assert_close(cut.says(TEXTS), expected, atol=1e-4, rtol=1e-4)
    changes = Changes(probe, TEXTS, [0, 0, 1])
    torch.testing.assert_close(changes.between(small), changes.without(gone), atol=1e-5, rtol=1e-3)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path)
    assert sum(part.numel() for part in again.parameters()) == sum(
        part.numel() for part in small.parameters()
    )
    assert AutoModel.from_pretrained(tmp_path) is not None


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_neurons_that_go_leave_their_mean_where_there_is_a_bias(kind):
    probe = probe_of(kind)
    kept = {part.keys: torch.tensor([1, 4, 5, 6]) for part in probe.parts}
    means = {part.keys: torch.randn(16) for part in probe.parts}
    small = keep_neurons(probe.model, kept, means=means)
    hooks = []
    for part in probe.parts:
        fixed = torch.zeros(16) if kind == "llama" else means[part.keys]
        stays = torch.isin(torch.arange(16), kept[part.keys])
        layer = probe.model.get_submodule(part.values)
        hooks.append(
            layer.register_forward_pre_hook(
                lambda m, args, stays=stays, fixed=fixed: (torch.where(stays, args[0], fixed),)
            )
        )
    expected = probe.says(TEXTS)
    for hook in hooks:
        hook.remove()
    found = NeuronProbe(small, probe.tokens).says(TEXTS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_what_a_cut_changes_is_measured_on_held_out_texts(kind):
    probe, found = mapped(kind, seed=2)
    texts, labels = labelled()
    steps = []
    pruned = prune_to(
        probe, found, ["front"], texts, labels, share=0.5, progress=lambda *step: steps.append(step)
    )
    _, heldout = split_texts(labels, seed=2)
    changes = Changes(probe, [texts[place] for place in heldout], [labels[place] for place in heldout])
    first, _ = split_texts(labels, seed=2)
    means = probe.means([texts[place] for place in first if labels[place] == 0])
    named = {part.keys: mean for part, mean in zip(probe.parts, means, strict=True)}
    again = keep_neurons(probe.model, needed_neurons(found, ["front"], share=0.5), means=named)
    torch.testing.assert_close(torch.tensor(pruned.change), changes.between(again))
    drawn = [changes.without(random_neurons([8] * 3, probe, seed=seed)) for seed in (2, 3, 4)]
    torch.testing.assert_close(torch.tensor(pruned.random), torch.stack(drawn).mean(0))
    assert pruned.measure == found.measure
    assert pruned.parameters[0] - pruned.parameters[1] == 3 * 8 * (12 * 2 + 1)
    assert steps[-1][1] == steps[-1][2]


def test_a_map_of_another_model_or_of_other_texts_is_refused():
    probe, found = mapped()
    texts, labels = labelled()
    with pytest.raises(DataError, match="8 texts of all came, the map is made of") as error:
        prune_to(probe, replace(found, texts=((4, 4), (4, 4), (5, 4))), ["front"], texts, labels)
    assert "made of 9" in str(error.value)
    with torch.no_grad():
        probe.model.encoder.layer[1].output.dense.weight += 0.1
    other = NeuronProbe(probe.model, probe.tokens)
    with pytest.raises(ModularizeError, match="the map is of another model than this BertModel"):
        prune_to(other, found, ["front"], texts, labels)


def test_what_cannot_stay_is_refused_and_the_model_left_as_it_is():
    probe = probe_of("bert")
    modules = dict(probe.model.named_modules())
    path = probe.parts[0].keys
    for numbers in ([], [1, 1], [16], [-1]):
        with pytest.raises(ModularizeError, match="cannot stay; give one or more different numbers below 16"):
            keep_neurons(probe.model, {path: torch.tensor(numbers, dtype=torch.long)})
    with pytest.raises(ModularizeError, match="nowhere makes no neurons of this model"):
        keep_neurons(probe.model, {"nowhere": torch.tensor([1])})
    assert dict(probe.model.named_modules()) == modules
