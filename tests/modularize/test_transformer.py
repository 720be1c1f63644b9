"""Transformers become experts in place, train and generate as before, and come back exactly."""

import importlib.util

import pytest
import torch
from torch import nn

import brickyard
from brickyard.core.errors import ConfigError, ModularizeError
from brickyard.core.feed_forward import RoutedFeedForward
from brickyard.core.network import Network
from brickyard.modularize import modularize_transformer
from brickyard.modularize.intake import example_inputs
from brickyard.testing import check_network

from .transformers_zoo import KINDS, Block, Stack, tiny, transformers

IDS = torch.tensor([[2, 5, 7, 3, 9], [4, 9, 11, 4, 3]])
WORKING = [kind for kind in KINDS if kind != "phi3"]


def output(model, **inputs):
    with torch.no_grad():
        return model(**(inputs or example_inputs(model)))[0]


def experts(model, **settings):
    return modularize_transformer(
        model, **{"experts": 4, "top_k": 2, "layers": "all", "cache": False, **settings}
    )


@pytest.mark.parametrize("kind", WORKING)
def test_every_mode_and_the_way_back(kind):
    model = tiny(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    expected = output(model)
    modular = experts(model)
    assert modular.error < 1e-5
    assert list(model.state_dict()) == list(before)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    masked = output(model)
    assert not torch.allclose(masked, expected, atol=1e-3)
    modular.use("sparse")
    torch.testing.assert_close(output(model), masked, atol=1e-4, rtol=1e-4)
    modular.use("dense")
    torch.testing.assert_close(output(model), expected, atol=1e-4, rtol=1e-4)
    assert modular.revert() is model
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(output(model), expected)


@pytest.mark.parametrize("kind", ["bert-classifier", "gpt2", "llama", "vit"])
def test_a_config_is_cut_out(kind):
    modular = experts(tiny(kind))
    config = dict.fromkeys(modular.experts, (0, 2, 3))
    inputs = example_inputs(modular.model)
    for mode, part in (("dense", None), ("masked", RoutedFeedForward), ("sparse", RoutedFeedForward)):
        modular.use(mode)
        plain = modular.extract(config)
        with modular.network.configured(config):
            torch.testing.assert_close(output(plain, **inputs), output(modular.model, **inputs))
        assert type(plain) is type(modular.model)
        first = plain.get_submodule(next(iter(config)))
        assert type(first) is (part or type(modular.experts[next(iter(config))].origin))
        if mode == "dense":
            count = sum(parameter.numel() for parameter in plain.parameters())
            whole = sum(parameter.numel() for parameter in modular.model.parameters())
            width = 12 * (3 if kind == "llama" else 2) + (kind != "llama")  # of a neuron, its bias too
            assert whole - count == len(config) * 4 * width
    with pytest.raises(ConfigError, match="allowed: 1 to 4 different ascending indices"):
        modular.extract(dict.fromkeys(modular.experts, ()))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_numbers_of_low_precision(kind):
    model = tiny(kind).to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = output(model).float()
    modular = experts(model)
    masked = output(model).float()
    modular.use("sparse")
    assert float((output(model).float() - masked).abs().max()) <= 0.05 * float(masked.abs().max())
    modular.use("dense")
    assert float((output(model).float() - expected).abs().max()) <= 0.05 * float(expected.abs().max())
    modular.revert()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_control_chooses_otherwise():
    model = tiny("bert")
    highest = experts(model, top_k=2)
    first = output(model)
    highest.revert()
    experts(model, top_k=2, gate="lowest")
    assert not torch.allclose(output(model), first, atol=1e-2)


def test_a_learned_gate_trains_and_leaves_with_the_experts():
    model = tiny("bert-classifier")
    names = list(model.state_dict())
    modular = experts(model, gate="learned", seed=2)
    own = [name for name in model.state_dict() if name not in names]
    assert own == [
        f"{path}.gate.{part}" for path in modular.experts for part in ("project", "places", "scale")
    ]
    model(input_ids=IDS, labels=torch.tensor([0, 1])).loss.backward()
    assert all(model.get_parameter(name).grad.abs().sum() > 0 for name in own)
    masked = output(model, input_ids=IDS)
    modular.use("sparse")
    torch.testing.assert_close(output(model, input_ids=IDS), masked, atol=1e-4, rtol=1e-4)
    modular.revert()
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("kind", ["bert-classifier", "gpt2", "llama", "vit", "t5"])
def test_a_model_that_is_cut_alike_everywhere_can_be_kept_by_transformers(kind, tmp_path):
    modular = experts(tiny(kind))
    inputs = example_inputs(modular.model)
    modular.use("dense")
    whole = modular.model.config.to_dict()
    names = list(modular.experts)
    plain = modular.extract({**dict.fromkeys(names, (0, 1, 3)), names[0]: (1, 2, 3)})
    plain.save_pretrained(tmp_path)
    again = type(plain).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(output(again, **inputs), output(plain, **inputs))
    assert modular.model.config.to_dict() == whole
    uneven = modular.extract({**dict.fromkeys(names, (0, 1, 3)), names[0]: (1, 2)})
    assert uneven.config.to_dict() == whole


class Scores(nn.Module):
    """Gives the scores alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids)[0]


@pytest.mark.parametrize("mode", ["dense", "masked"])
def test_the_contract_of_networks_is_kept(mode):
    modular = experts(tiny("bert-classifier", num_hidden_layers=2))
    modular.use(mode)
    network = Network(Scores(modular.model), input_shape=(6,), vocab_sizes=(20,)).eval()
    check_network(network, samples=2, tolerance=1e-4)


def test_the_gate_follows_the_keys():
    model = tiny("bert")
    modular = experts(model, layers=[1], top_k=1)
    [leader] = modular.experts.values()
    with torch.no_grad():
        leader.weight[:] = -1.0
        leader.weight[8:12] = 1.0  # expert 2
    x = torch.rand(1, 3, 12)
    leader(x).sum().backward()
    assert leader.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [8, 9, 10, 11]


def test_weights_trained_in_between_are_kept():
    model = tiny("bert-classifier")
    modular = experts(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=IDS, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    modular.use("dense")
    trained = output(model, input_ids=IDS)
    gradient = model.bert.encoder.layer[2].intermediate.dense.weight.grad.clone()
    order = modular.orders()["bert.encoder.layer.2.intermediate.dense"]
    modular.revert()
    torch.testing.assert_close(output(model, input_ids=IDS), trained, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.bert.encoder.layer[2].intermediate.dense.weight.grad[order], gradient)


def test_parameters_that_were_replaced_come_back_too():
    model = tiny("bert")
    modular = experts(model)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    modular.use("dense")
    expected = output(model, input_ids=IDS)
    torch.testing.assert_close(output(modular.revert(), input_ids=IDS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["masked", "sparse"])
def test_a_model_with_experts_learns_and_keeps_it_when_dense_again(mode):
    """Whether the second token is even; the experts alone learn it."""
    torch.manual_seed(0)
    model = tiny("bert-classifier", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    modular = experts(model)
    modular.use(mode)
    layers = model.bert.encoder.layer
    parts = [p for layer in layers for part in (layer.intermediate, layer.output) for p in part.parameters()]
    optimizer = torch.optim.Adam([*parts, *model.classifier.parameters()], lr=0.02)
    ids = torch.randint(2, 20, (64, 3))
    labels = ids[:, 1] % 2

    def right() -> float:
        return float((output(model, input_ids=ids).argmax(-1) == labels).float().mean())

    assert right() < 0.75
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    assert right() > 0.9
    modular.revert()
    assert right() > 0.8


def test_checkpointed_gradients_are_the_same():
    model = tiny("bert-classifier", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    experts(model)
    labels = torch.tensor([0, 1])

    def gradients():
        model.zero_grad()
        model(input_ids=IDS, labels=labels).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    found = gradients()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("mode", ["dense", "masked", "sparse"])
def test_generation(kind, mode):
    model = tiny(kind)
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    dense = model.generate(IDS, **settings)
    modular = experts(model)
    modular.use(mode)
    found = model.generate(IDS, **settings)
    assert found.shape == (2, 10)
    if mode == "dense":
        assert torch.equal(found, dense)
    else:  # tokens one by one, with kept keys and values, are those of whole sequences
        ids = IDS
        for _ in range(5):
            scores = output(model, input_ids=ids)[:, -1:]
            scores[..., model.generation_config.eos_token_id] = -torch.inf
            ids = torch.cat([ids, scores.argmax(-1)], 1)
        assert torch.equal(found, ids)


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="Trainer needs accelerate")
def test_training_by_trainer(tmp_path):
    model = tiny("bert-classifier")
    modular = experts(model, layers="last-even:2")
    rows = [{"input_ids": [2 + n % 7, 5, 7], "labels": n % 2} for n in range(16)]
    settings = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], use_cpu=True, save_steps=3
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    transformers.Trainer(model=model, args=settings, train_dataset=rows).train()
    for leader in modular.experts.values():
        assert leader.split.mode == "masked"
    moved = [name for name, value in model.state_dict().items() if not torch.equal(before[name], value)]
    assert any("intermediate.dense.weight" in name for name in moved)
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-3").eval()
    modular.use("dense")
    model.eval()
    expected = output(model, input_ids=IDS)
    torch.testing.assert_close(output(loaded, input_ids=IDS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.parametrize("kind", ["bert-classifier", "llama"])
def test_low_rank_adapters_of_the_attention(kind):
    peft = pytest.importorskip("peft")
    model = tiny(kind)
    modular = experts(model)
    targets = ["query", "value"] if kind == "bert-classifier" else ["q_proj", "v_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    adapted(input_ids=IDS)[0].sum().backward()
    moved = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
    assert moved
    assert all("lora_" in name for name in moved)
    modular.use("dense")
    expected = output(adapted, input_ids=IDS)
    modular.revert()
    torch.testing.assert_close(output(adapted, input_ids=IDS), expected, atol=1e-4, rtol=1e-4)


def sample(count=8):
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(1, 20, (2, 6), generator=generator)} for _ in range(count)]


def test_resident_neurons_are_the_most_active_and_always_used():
    model = tiny("bert")
    dense = model.encoder.layer[1].intermediate.dense
    with torch.no_grad():
        dense.bias -= 100.0
        dense.bias[[3, 7, 8, 12]] += 200.0
    original = dense.weight.clone()
    modular = experts(model, layers=[1], experts=6, top_k=1, resident=4, sample=sample())
    [leader] = modular.experts.values()
    assert {tuple(row) for row in leader.weight[12:].tolist()} == {
        tuple(row) for row in original[[3, 7, 8, 12]].tolist()
    }
    with torch.no_grad():
        leader.bias.zero_()
    leader(torch.randn(1, 1, 12)).sum().backward()
    used = leader.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert used[-4:] == [12, 13, 14, 15]
    assert len(used) == 6
    plain = modular.extract({next(iter(modular.experts)): (2,)})
    assert plain.encoder.layer[1].intermediate.dense.out_features == 6
    modular.revert()
    assert torch.equal(model.encoder.layer[1].intermediate.dense.weight, original)


def test_modes_of_modules_are_left_as_they_are():
    model = tiny("bert").train()
    model.encoder.layer[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    modular = experts(model, resident=4, experts=3, sample=sample())
    assert {name: module.training for name, module in model.named_modules() if name in modes} == modes
    modular.revert()
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_neurons_that_padding_activates_do_not_count():
    ids = torch.tensor([[5, 6, 0, 0, 0, 0]])
    padded = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    unmasked = {"input_ids": ids}
    found = []
    for inputs in ({"input_ids": ids[:, :2]}, padded, unmasked):
        modular = experts(tiny("bert"), layers=[0], resident=4, experts=3, sample=[inputs])
        found.append(next(iter(modular.orders().values()))[12:].tolist())
    assert found[0] == found[1] != found[2]


def test_common_activity_makes_experts():
    model = tiny("bert")
    modular = experts(model, layers=[1], partition="coactivation", sample=sample())
    assert modular.error < 1e-5
    assert not torch.equal(next(iter(modular.orders().values())), torch.arange(16))


@pytest.mark.parametrize(
    ("layers", "found"),
    [("all", [0, 1, 2]), ("last:2", [1, 2]), ("last-even:1", [2]), ("last-even:2", [0, 2]), ("0,1", [0, 1])],
)
def test_layers_are_named(layers, found):
    modular = experts(tiny("bert"), layers=layers)
    assert list(modular.experts) == [f"encoder.layer.{number}.intermediate.dense" for number in found]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 5}, "top_k = 5 is not allowed; allowed: 1 to experts = 4"),
        ({"experts": 5}, r"has 16 neurons, 0 of them resident; .* cannot be split into 5 experts"),
        ({"resident": 2, "sample": []}, r"16 neurons, 2 of them resident; .* split into 4 experts"),
        ({"resident": 4, "experts": 3}, "resident = 4 needs a sample"),
        ({"partition": "coactivation"}, "partition = 'coactivation' needs a sample"),
        ({"partition": "coactivation", "sample": []}, "the sample has no tokens"),
        ({"gate": "tutel"}, "gate = 'tutel' is unknown; known: keys, lowest, learned"),
        ({"partition": "metis"}, "'metis' is unknown; known: kmeans"),
        ({"layers": "last-even:3"}, "allowed for 3 layers; allowed: all, last:K"),
        ({"layers": "some"}, "allowed for 3 layers; allowed: all, last:K"),
        ({"layers": [3]}, r"layers = \[3\] names no layers of this model; it has 3, from 0"),
        ({"layers": []}, "names no layers"),
        ({"layers": "last:²"}, "allowed for 3 layers; allowed: all, last:K"),
        ({"layers": 1}, "layers = 1 is not allowed; allowed: a list of whole numbers, or a text"),
        ({"layers": [0.5]}, r"layers = \[0.5\] is not allowed; allowed: a list of whole numbers"),
        ({"experts": "4"}, "experts = '4' is not allowed; allowed: whole numbers from 1"),
        ({"experts": 4.0}, "experts = 4.0 is not allowed; allowed: whole numbers from 1"),
        ({"top_k": 2.0}, "top_k = 2.0 is not allowed; allowed: whole numbers from 1"),
        ({"top_k": 0}, "top_k = 0 is not allowed; allowed: whole numbers from 1"),
        ({"resident": -1, "sample": []}, "resident = -1 is not allowed; allowed: whole numbers from 0"),
        ({"seed": -1}, "seed = -1 is not allowed; allowed: whole numbers from 0"),
        ({"seed": 2**32}, "seed = 4294967296 is not allowed; allowed: 0 to 4294967295"),
        ({"sample": [{}]}, "partition = 'kmeans' without resident neurons reads no sample"),
        (
            {"partition": "coactivation", "sample": [{"attention_mask": torch.ones(1, 3)}]},
            "BertModel does not run on a sample of attention_mask: .* give each run all arguments",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(settings, message):
    model = tiny("bert")
    before, modules = model.state_dict(), list(model.modules())
    values = {name: value.clone() for name, value in before.items()}
    with pytest.raises(ModularizeError, match=message):
        experts(model, **settings)
    assert list(model.modules()) == modules
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())


def test_a_model_with_experts_is_not_split_again():
    model = tiny("bert")
    modular = experts(model, layers=[0])
    with pytest.raises(ModularizeError, match=r"has experts already, encoder\.layer\.0\..* revert it before"):
        experts(model, layers=[1])
    modular.revert()
    with pytest.raises(ModularizeError, match="dense again, without modes"):
        modular.use("sparse")
    assert len(experts(model, layers=[1]).experts) == 1


def test_a_layer_that_cannot_be_split_is_named_with_the_reason():
    with pytest.raises(ModularizeError, match=r"layer 0 \(model.layers.0\) .* makes both factors"):
        experts(tiny("phi3"))


def test_a_model_without_layers_is_told_so():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    with pytest.raises(ModularizeError, match="this Sequential has no feed-forward network to split: none"):
        experts(model, inputs={"input": torch.randn(2, 3, 6)})


def test_blocks_in_a_row_become_experts():
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Block(nn.ReLU()), Block(nn.ReLU())), nn.LayerNorm(6))
    inputs = {"input": torch.randn(2, 3, 6)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modular = experts(model, inputs=inputs)
    assert list(modular.experts) == ["1.0.one", "1.1.one"]
    modular.use("dense")
    plain = modular.extract(dict.fromkeys(modular.experts, (0, 2)))
    assert plain[1][0].one.out_features == 4
    modular.revert()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
@pytest.mark.parametrize("targets", [["intermediate.dense", "output.dense"], ["query", "value", "dense"]])
def test_adapters_inside_feed_forward_networks_are_named(targets):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny("bert"), peft.LoraConfig(r=2, target_modules=targets))
    with pytest.raises(ModularizeError, match=r"layer 0 .* parts of it have adapters, .* merge them before"):
        experts(adapted)
    assert len(experts(adapted.merge_and_unload()).experts) == 3


def test_adapters_that_hide_all_layers_are_named():
    peft = pytest.importorskip("peft")
    stack = Stack(Block(nn.ReLU()), Block(nn.ReLU()))
    adapted = peft.get_peft_model(stack, peft.LoraConfig(r=2, target_modules=["one", "two"]))
    with pytest.raises(ModularizeError, match=r"this PeftModel has no .* 4 parts of it have adapters"):
        experts(adapted, inputs={"x": torch.randn(2, 3, 6)})


class Peeks(Block):
    """Looks at the activations besides."""

    def forward(self, x):
        return x + self.two(self.between(self.one(x))) + self.between(x)


def test_code_that_uses_a_layer_twice_is_found_by_computing():
    model = Stack(Peeks(nn.ReLU()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = {"x": torch.randn(2, 3, 6)}
    expected = model(**x)
    with pytest.raises(ModularizeError, match=r"differs from the original by .*its layers do not show"):
        experts(model, inputs=x)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(**x), expected)


def test_an_unknown_mode_is_refused():
    modular = experts(tiny("bert"))
    with pytest.raises(ModularizeError, match="mode = 'fast' is unknown; known: dense, masked, sparse"):
        modular.use("fast")


def test_a_dense_model_cannot_be_reverted_again():
    modular = experts(tiny("bert"))
    modular.revert()
    with pytest.raises(ModularizeError, match="dense again already"):
        modular.revert()


def test_the_package_itself_can_be_called():
    modular = brickyard.modularize(tiny("bert"), experts=4, top_k=1, layers=[0])
    assert list(modular.experts) == ["encoder.layer.0.intermediate.dense"]
