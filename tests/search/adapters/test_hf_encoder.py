"""Encoders of transformers: cuts compute what the whole computes without the rest, and can be kept."""

import copy

import pytest
import torch

from brickyard.core.errors import ArtifactError, ConfigError
from brickyard.search import run
from brickyard.search.adapters.hf_encoder import (
    HuggingFaceEncoder,
    Importance,
    load_encoder,
    magnitude_importance,
    taylor_importance,
)

transformers = pytest.importorskip("transformers")
SIZES = {
    "vocab_size": 20,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
}
IDS = torch.tensor([[2, 5, 7, 3, 0], [2, 9, 11, 4, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def build(kind: str = "bert", **changes):
    torch.manual_seed(3)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=20, dim=12, n_layers=3, n_heads=3, hidden_dim=16, max_position_embeddings=12
        )
        return transformers.DistilBertForSequenceClassification(config).eval()
    classes = {
        "bert": (transformers.BertConfig, transformers.BertForSequenceClassification),
        "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
        "electra": (transformers.ElectraConfig, transformers.ElectraForMaskedLM),
        "mpnet": (transformers.MPNetConfig, transformers.MPNetModel),
        "gpt2": (transformers.GPT2Config, transformers.GPT2Model),
        "albert": (transformers.AlbertConfig, transformers.AlbertModel),
    }
    config_class, model_class = classes[kind]
    return model_class(config_class(**{**SIZES, **changes})).eval()


def measure(model) -> dict[str, float]:
    assert not model.training
    return {"parameters": sum(p.numel() for p in model.parameters())}


def outputs(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK)[0]


@pytest.fixture
def network() -> HuggingFaceEncoder:
    return HuggingFaceEncoder(build(), evaluate=measure)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_everything_on_is_the_model_itself(kind):
    model = build(kind)
    network = HuggingFaceEncoder(model, evaluate=measure)
    same = network.extract(network.space.largest())
    torch.testing.assert_close(outputs(same), outputs(model), atol=1e-5, rtol=0)
    assert same.config.to_dict() == model.config.to_dict()


def test_the_space(network):
    values = {decision.name: getattr(decision, "values", None) for decision in network.space}
    assert values["layer2.heads"] == (1, 2, 3)
    assert values["layer0.width"] == (4, 8, 12, 16)
    assert network.space["layers"].count == 3
    assert len(values) == 7


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_a_cut_keeps_the_most_important_and_drops_the_rest(kind, tmp_path):
    model = build(kind)
    whole = copy.deepcopy(model)
    for name, parameter in model.named_parameters():  # head 1 and every second neuron count most, by weights
        if any(part in name for part in ("value.weight", "v_lin.weight")):
            parameter.data[4:8] *= 5
        if any(part in name for part in ("intermediate.dense.weight", "lin1.weight")):
            parameter.data[::2] *= 5
    network = HuggingFaceEncoder(model, evaluate=measure)
    assert all(order[0] == 1 for order in network._heads)
    config = network.space.largest().replace({"layers": (0, 2), "layer0.heads": 1, "layer2.width": 8})
    cut = network.extract(config)

    zeroed = copy.deepcopy(model)
    layers = next(part for name, part in zeroed.named_modules() if name.endswith(".layer") or name == "layer")
    outs = [dict(part.named_modules()) for part in layers]
    out = next(
        part for name, part in outs[0].items() if name in ("attention.output.dense", "attention.out_lin")
    )
    down = next(part for name, part in outs[2].items() if name in ("output.dense", "ffn.lin2"))
    with torch.no_grad():
        out.weight[:, :4] = 0
        out.weight[:, 8:] = 0
        down.weight[:, 1::2] = 0
    del layers[1]
    zeroed.config.num_hidden_layers = 2
    torch.testing.assert_close(outputs(cut), outputs(zeroed), atol=1e-5, rtol=1e-5)
    assert measure(cut)["parameters"] < measure(zeroed)["parameters"]
    assert whole.config.to_dict() == model.config.to_dict()

    cut.save_pretrained(tmp_path / "cut")
    again = load_encoder(tmp_path / "cut")
    assert type(again).__name__ == type(model).__name__
    torch.testing.assert_close(outputs(again), outputs(cut))
    again.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(outputs(load_encoder(tmp_path / "again")), outputs(cut))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_what_a_config_can_say_is_loaded_by_transformers_alone(kind, tmp_path):
    network = HuggingFaceEncoder(build(kind), evaluate=measure)
    uniform = {f"layer{index}.width": 8 for index in range(3)}
    cut = network.extract(network.space.largest().replace({"layers": (1, 2), **uniform}))
    cut.save_pretrained(tmp_path / "cut")
    again = type(cut).from_pretrained(tmp_path / "cut").eval()
    torch.testing.assert_close(outputs(again), outputs(cut))
    torch.testing.assert_close(outputs(load_encoder(tmp_path / "cut")), outputs(cut))


def test_transformers_alone_refuses_what_its_config_cannot_say(network, tmp_path):
    network.extract(network.space.smallest()).save_pretrained(tmp_path / "cut")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path / "cut")


def test_cuts_change_nothing_and_learn_on_their_own(network):
    before = copy.deepcopy(network.model.state_dict())
    cut = network.extract(network.space.smallest()).train()
    cut(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.zero_()
    torch.testing.assert_close(network.model.state_dict(), before)
    with pytest.raises(ConfigError, match=r"layer0.heads = 4 is not allowed"):
        network.extract(network.space.largest().replace({"layer0.heads": 4}))
    with pytest.raises(ConfigError, match=r"layers = \(\) is not allowed"):
        network.extract(network.space.largest().replace({"layers": ()}))


def test_a_search_counts_layers_that_are_off_once(network):
    one = network.space.largest().replace({"layers": (1,), "layer0.heads": 1, "layer1.heads": 2})
    assert network.canonical(one) == network.space.largest().replace({"layers": (1,), "layer1.heads": 2})
    result = run(network, objectives=["parameters"], evaluations=6, sampler="random")
    assert result.front[0].metrics == measure(network.extract(network.space.smallest()))


def loss(model, batch):
    ids, mask, labels = batch
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def test_taylor_importance_is_the_change_of_the_loss_to_first_order():
    model, batch = build(), (IDS[:1], MASK[:1], torch.tensor([1]))
    found = taylor_importance(model, [batch], loss=loss)
    assert all(parameter.grad is None for parameter in model.parameters())
    out, small = model.bert.encoder.layer[1].attention.output.dense, 1e-2
    with torch.no_grad():
        for head in range(3):
            values = []
            for sign in (1, -1):
                changed = copy.deepcopy(model).double()
                changed.bert.encoder.layer[1].attention.output.dense.weight[:, 4 * head : 4 * head + 4] *= (
                    1 + sign * small
                )
                values.append(float(loss(changed, batch)))
            slope = abs(values[0] - values[1]) / (2 * small)
            assert float(found.heads[1][head]) == pytest.approx(slope, rel=1e-2, abs=1e-6)
    assert [tuple(row.shape) for row in found.neurons] == [(16,)] * 3
    assert out.weight.shape == (12, 12)


def test_taylor_importance_is_a_mean_over_samples_and_needs_no_trainable_weights():
    model, labels = build().requires_grad_(False), torch.tensor([1, 0])
    singles = [(IDS[i : i + 1], MASK[i : i + 1], labels[i : i + 1]) for i in range(2)]
    together = taylor_importance(model, [(IDS, MASK, labels)], loss=loss)
    apart = taylor_importance(model, singles, loss=loss)
    torch.testing.assert_close(together.heads, apart.heads)
    torch.testing.assert_close(together.neurons, apart.neurons)
    network = HuggingFaceEncoder(model, evaluate=measure, importance=together)
    assert network._heads[0][0] == int(together.heads[0].argmax())
    with pytest.raises(ConfigError, match=r"no batches to rate heads with"):
        taylor_importance(model, [], loss=loss)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {}, r"GPT2Model has 0 lists of num_hidden_layers = 3 layers"),
        ("albert", {}, r"AlbertModel has 0 lists"),
        ("mpnet", {}, r"MPNetModel does not run without some of its heads"),
        ("bert", {"is_decoder": True}, r"BertForSequenceClassification has 1 lists"),
    ],
)
def test_unknown_structures_are_refused(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        HuggingFaceEncoder(build(kind, **changes), evaluate=measure)


def test_other_linear_layers_are_named():
    model = build()
    model.bert.encoder.layer[0].extra = torch.nn.Linear(12, 5)
    with pytest.raises(ConfigError, match=r"'extra': \(12, 5\)}; known are query, key, value and output"):
        HuggingFaceEncoder(model, evaluate=measure)


def test_heads_elsewhere_than_expected_are_noticed(monkeypatch):
    attention = transformers.models.bert.modeling_bert.BertSelfAttention
    forward = attention.forward

    def turned(self, *args, **kwargs):
        out, weights = forward(self, *args, **kwargs)
        return out.roll(2, -1), weights

    monkeypatch.setattr(attention, "forward", turned)
    with pytest.raises(ConfigError, match=r"with fewer heads computes something else"):
        HuggingFaceEncoder(build(), evaluate=measure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": [1, 4]}, r"heads = \[1, 4\]; this model allows 1 to 3"),
        ({"heads": []}, r"heads = \[\]; this model allows 1 to 3"),
        ({"widths": [0, 16]}, r"widths = \[0, 16\]; this model allows 1 to 16"),
        ({"widths": [16, 8]}, r"layer0.width needs ascending values"),
        (
            {"importance": Importance((torch.zeros(3),) * 2, (torch.zeros(16),) * 3)},
            r"importance of heads is \[\[3\], \[3\]\]; this model needs 3 of \[3\]",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        HuggingFaceEncoder(build(), evaluate=measure, **changes)


def test_what_was_cut_is_not_cut_again(network):
    cut = network.extract(network.space.largest().replace({"layer0.heads": 1}))
    with pytest.raises(ConfigError, match=r"a layer of BertForSequenceClassification has linear layers"):
        magnitude_importance(cut)


def test_folders_that_hold_no_model_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"has no config.json"):
        load_encoder(tmp_path)
    config = transformers.BertConfig(**SIZES, architectures=["BertForSong"])
    config.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"of class BertForSong, which transformers does not have"):
        load_encoder(tmp_path)
