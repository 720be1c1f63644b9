"""Layers, attention and feed-forward networks are found by what they compute."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brickyard.core.errors import ModularizeError
from brickyard.modularize.intake import example_inputs, find_anatomy, token_limit

from .transformers_zoo import Block, Stack, X, tiny

ENDS = {
    "bert": ("intermediate.dense", None, "output.dense", "intermediate.intermediate_act_fn"),
    "bert-eager": ("intermediate.dense", None, "output.dense", "intermediate.intermediate_act_fn"),
    "bert-classifier": ("intermediate.dense", None, "output.dense", "intermediate.intermediate_act_fn"),
    "roberta": ("intermediate.dense", None, "output.dense", "intermediate.intermediate_act_fn"),
    "gpt2": ("mlp.c_fc", None, "mlp.c_proj", "mlp.act"),
    "llama": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.act_fn"),
    "mistral": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.act_fn"),
    "qwen": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.act_fn"),
    "vit": ("mlp.fc1", None, "mlp.fc2", "mlp.activation_fn"),
    "distilbert": ("ffn.lin1", None, "ffn.lin2", "ffn.activation"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_layers_of_known_models_are_found(kind):
    model = tiny(kind)
    anatomy = find_anatomy(model, example_inputs(model))
    assert len(anatomy.layers) == 3
    assert anatomy.whole == ()
    for number, layer in enumerate(anatomy.layers):
        assert layer.path.endswith(f".{number}")
        [part], [attention] = layer.feed_forwards, layer.attentions
        names = (part.keys, part.gated, part.values, part.activation)
        assert names == tuple(None if name is None else f"{layer.path}.{name}" for name in ENDS[kind])
        assert (part.neurons, part.transposed, part.dropout) == (16, kind == "gpt2", None)
        assert (attention.num_heads, attention.head_dim) == (3, 4)
        assert attention.num_key_value_heads == (1 if kind == "llama" else 3)
        for path in (attention.query, attention.key, attention.value, attention.output):
            assert path.startswith(f"{layer.path}.")


def test_roles_in_attention_are_told_from_each_other():
    model = tiny("bert")
    [attention] = find_anatomy(model, example_inputs(model)).layers[1].attentions
    stem = "encoder.layer.1.attention"
    assert attention.query == f"{stem}.self.query"
    assert attention.key == f"{stem}.self.key"
    assert attention.value == f"{stem}.self.value"
    assert attention.output == f"{stem}.output.dense"


def test_one_layer_for_queries_keys_and_values():
    model = tiny("gpt2")
    [attention] = find_anatomy(model, example_inputs(model)).layers[0].attentions
    assert attention.query == attention.key == attention.value == "transformer.h.0.attn.c_attn"


def test_encoder_and_decoder_with_dropout_inside():
    model = tiny("t5")
    anatomy = find_anatomy(model, example_inputs(model))
    assert anatomy.whole == ()
    layers = anatomy.layers
    assert [layer.path for layer in layers] == [
        "encoder.block.0",
        "encoder.block.1",
        "decoder.block.0",
        "decoder.block.1",
    ]
    own, cross = layers[3].attentions
    stem = "decoder.block.1.layer.1.EncDecAttention"
    assert (cross.query, cross.key, cross.value) == (f"{stem}.q", f"{stem}.k", f"{stem}.v")
    assert (own.output, cross.output) == ("decoder.block.1.layer.0.SelfAttention.o", f"{stem}.o")
    [part] = layers[3].feed_forwards
    stem = "decoder.block.1.layer.2.DenseReluDense"
    assert (part.keys, part.gated, part.values) == (f"{stem}.wi_0", f"{stem}.wi_1", f"{stem}.wo")
    assert part.dropout == f"{stem}.dropout"


def test_a_shared_layer_is_found_once():
    model = tiny("albert")
    assert len(find_anatomy(model, example_inputs(model)).layers) == 1


def test_a_layer_that_makes_both_factors_stays_whole():
    model = tiny("phi3")
    anatomy = find_anatomy(model, example_inputs(model))
    assert [layer.feed_forwards for layer in anatomy.layers] == [(), (), ()]
    assert [part.layers[1] for part in anatomy.whole] == [f"model.layers.{n}.mlp.down_proj" for n in range(3)]
    assert anatomy.whole[0].reason == "one layer makes both factors of a gated network"


def test_models_of_any_class_are_found():
    anatomy = find_anatomy(Stack(Block(nn.ReLU()), Block(nn.Tanh())), X)
    assert [layer.feed_forwards[0].values for layer in anatomy.layers] == ["blocks.0.two", "blocks.1.two"]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Block(nn.LayerNorm(8, elementwise_affine=False)), "acts on each number by itself"),
        (Block(nn.Softmax(-1)), "acts on each number by itself"),
        (Block(nn.Identity()), "acts on each number by itself"),
        (Block(nn.PReLU()), "acts on each number by itself"),
        (Block(nn.GELU(), drop=0.5), "acts in training alone"),
    ],
)
def test_what_cannot_be_split_stays_whole_with_its_reason(block, reason):
    anatomy = find_anatomy(Stack(block, Block(nn.ReLU())), X)
    assert [layer.path for layer in anatomy.layers] == ["blocks.1"]
    [part] = anatomy.whole
    assert part.layers == ("blocks.0.one", "blocks.0.two")
    assert reason in part.reason


def test_shared_parameters_stay_whole():
    one, other = Block(nn.ReLU()), Block(nn.ReLU())
    other.one.weight = one.one.weight
    anatomy = find_anatomy(Stack(one, other), X)
    assert anatomy.layers == ()
    assert {part.reason for part in anatomy.whole} == {"they stand in several places, or share a parameter"}


class Mlp(nn.Module):
    """A feed-forward network with places for what it does not use."""

    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.drop, self.norm = nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.1), nn.Identity()
        self.fc2 = nn.Linear(8, 6)

    def forward(self, x):
        return x + self.fc2(self.norm(self.drop(self.act(self.fc1(x)))))


class Picture(nn.Module):
    """Keeps blocks in a row, between others."""

    def __init__(self, *blocks):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Sequential(*blocks), nn.LayerNorm(6))

    def forward(self, x):
        return self.body(x)


def test_blocks_in_a_row_are_layers():
    anatomy = find_anatomy(Picture(Mlp(), Mlp()), X)
    assert [layer.path for layer in anatomy.layers] == ["body.1.0", "body.1.1"]
    [part] = anatomy.layers[1].feed_forwards
    assert (part.keys, part.dropout, part.values) == ("body.1.1.fc1", "body.1.1.drop", "body.1.1.fc2")
    assert anatomy.whole == ()
    row = find_anatomy(nn.Sequential(Mlp(), Mlp(), Mlp()), {"input": X["x"]})
    assert [layer.path for layer in row.layers] == ["0", "1", "2"]


def test_a_row_of_matrices_is_no_row_of_layers():
    row = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    assert find_anatomy(row, {"input": X["x"]}).layers == ()
    anatomy = find_anatomy(Picture(Block(nn.Sequential(nn.ReLU())), Block(nn.ReLU())), X)
    assert [layer.path for layer in anatomy.layers] == ["body.1.0", "body.1.1"]


@pytest.mark.parametrize(
    ("kind", "changes", "limit"),
    [
        ("bert", {}, 32),
        ("bert", {"vocab_size": 32}, 32),
        ("roberta", {"pad_token_id": 1}, 30),
        ("gpt2", {}, 32),
        ("t5", {}, None),
        ("vit", {}, None),
    ],
)
def test_tokens_that_fit_are_told(kind, changes, limit):
    model = tiny(kind, **changes)
    assert token_limit(model) == limit
    if limit is not None:
        model(input_ids=torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 5))


def test_packed_numbers_are_no_matrix():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 6, dtype=torch.int8), requires_grad=False)

        def forward(self, x):
            return F.linear(x, self.weight.to(x.dtype))

    block = Block(nn.ReLU())
    block.one = Packed()
    anatomy = find_anatomy(Stack(block, Block(nn.ReLU())), X)
    assert [layer.path for layer in anatomy.layers] == ["blocks.1"]


def test_the_model_is_left_as_it_is():
    model = tiny("bert").train()
    model.encoder.layer[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    find_anatomy(model, example_inputs(model))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ModularizeError, match=r"Stack does not run on x: .*give inputs=\{name: tensor\}"):
        find_anatomy(Stack(Block(nn.ReLU())), {"x": torch.zeros(2, 3)})


def test_inputs_that_cannot_be_made_up_are_asked_for():
    with pytest.raises(ModularizeError, match=r"no input for a Stack can be made up; give inputs"):
        example_inputs(Stack(Block(nn.ReLU())))
