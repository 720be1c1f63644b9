"""Encoders with exits: an exit runs its layers alone, and a cut encoder gives the same bits."""

import pytest
import torch
from torch import nn

from brickyard.core.errors import ConfigError, DataError, ModularizeError
from brickyard.modularize import add_exits, modularize_transformer
from brickyard.search import run
from brickyard.testing import checks

from .encoders import KINDS, TEXTS, backbone, letters
from .transformers_zoo import tiny

ROWS = [[4, 5, 6, 7], [8, 9], [11, 4, 10, 8, 5]]


def with_exits(kind: str = "bert", **settings):
    return add_exits(
        backbone(kind), **{"exits": (1, 2, 3), "tokenizer": letters(), "max_tokens": 16, **settings}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_encoder_gives_the_same_bits(kind):
    encoder = with_exits(kind, head="shared", embed_dim=8)
    layer = sum(p.numel() for p in encoder._layers[0].parameters())
    sizes = []
    for exit in encoder.exits:
        cut = encoder.truncate(exit)
        found = encoder.encode(TEXTS, exit=exit)
        assert found.shape == (3, 8)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
        assert torch.equal(cut.encode(TEXTS), found)
        assert cut.module.backbone.config.num_hidden_layers == exit
        sizes.append(sum(p.numel() for p in cut.module.parameters()))
    assert encoder.backbone.config.num_hidden_layers == 3
    if kind != "modernbert":  # whose first layer lacks a norm
        assert sizes == [sizes[0] + place * layer for place in range(3)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["own", "shared", "none"])
def test_one_run_gives_all_exits(kind, head):
    encoder = with_exits(kind, head=head)
    batch = encoder.tokens(TEXTS)
    found = encoder.embed(**batch)
    assert list(found) == [1, 2, 3]
    for exit, embeddings in found.items():
        torch.testing.assert_close(embeddings, encoder.encode(TEXTS, exit=exit), atol=1e-5, rtol=1e-5)
    for exit, embeddings in encoder.encode_all(TEXTS, batch_size=2).items():
        torch.testing.assert_close(embeddings, found[exit], atol=1e-5, rtol=1e-5)
    sum(part[:, 0].sum() for part in found.values()).backward()
    assert all(p.grad is not None for p in encoder._layers.parameters())


def test_layers_behind_the_exit_do_not_run():
    encoder = with_exits()
    ran = []
    for place, layer in enumerate(encoder._layers._modules.values()):
        layer.register_forward_hook(lambda *_, place=place: ran.append(place))
    encoder.encode(TEXTS, exit=2)
    assert ran == [0, 1]


def test_without_a_head_an_exit_is_the_mean_state():
    model = backbone()
    ids = torch.tensor(ROWS[:1])
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    encoder = add_exits(model, exits=(1, 3), head="none", max_tokens=16)
    for exit in (1, 3):
        mean = states[exit].mean(1)
        torch.testing.assert_close(encoder.encode(ROWS[:1], exit=exit), mean / mean.norm(dim=1))
    assert encoder.embed_dim == 12


def test_embeddings_do_not_depend_on_batches_and_order():
    encoder = with_exits()
    whole = encoder.encode(TEXTS, batch_size=3)
    torch.testing.assert_close(encoder.encode(TEXTS, batch_size=1), whole)
    torch.testing.assert_close(encoder.encode(TEXTS[::-1], batch_size=2), whole.flip(0))
    assert torch.equal(encoder.encode(ROWS), whole)
    told = []
    encoder.encode(TEXTS, batch_size=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 3), (3, 3)]


def test_encoding_changes_nothing():
    encoder = with_exits()
    encoder.network.train()
    encoder.network.configure({"exit_layer": 2})
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    first = encoder.encode(TEXTS, exit=1)
    assert torch.equal(encoder.encode(TEXTS, exit=1), first)  # no dropout
    assert dict(encoder.network.space.active()) == {"exit_layer": 2}
    assert all(module.training for module in encoder.network.modules())
    assert torch.equal(encoder.encode(TEXTS), encoder.encode(TEXTS, exit=2))
    assert all(torch.equal(before[name], value) for name, value in encoder.network.state_dict().items())


def test_it_is_a_network_like_others():
    network = with_exits(exits=(1, 2)).network
    checks.check_extract(network)
    checks.check_no_bricks(network)
    checks.check_nothing_shared(network)
    checks.check_config_round_trip(network)
    checks.check_refusal(network)


def test_the_exit_can_be_searched():
    encoder = with_exits()
    last = encoder.encode(TEXTS)

    def measure(config):
        found = encoder.encode(TEXTS, exit=config["exit_layer"])
        return {"agreement": float((found * last).sum(1).mean()), "layers": config["exit_layer"]}

    result = run(
        space=encoder.network.space,
        evaluate=measure,
        objectives=["max:agreement", "min:layers"],
        sampler="exhaustive",
        evaluations=3,
    )
    assert {point.config["exit_layer"] for point in result.points} == {1, 2, 3}
    assert {1, 3} <= {point.config["exit_layer"] for point in result.front}


def test_the_backbone_comes_back():
    model = backbone()
    before, modules = model.state_dict(), dict(model.named_modules())
    encoder = add_exits(model, exits=(1, 3), max_tokens=16)
    assert list(model.state_dict()) == list(before)
    with pytest.raises(ModularizeError, match="this BertModel has exits already; revert its encoder first"):
        add_exits(model, exits=(1,), max_tokens=16)
    assert encoder.revert() is model
    assert type(model.encoder.layer) is nn.ModuleList
    assert {name: part for name, part in model.named_modules() if name != "encoder.layer"} == {
        name: part for name, part in modules.items() if name != "encoder.layer"
    }
    with pytest.raises(ModularizeError, match="was reverted; add exits to its backbone anew"):
        encoder.revert()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_under_checkpointing(reentrant):
    model = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    encoder = add_exits(model, exits=(1, 3), max_tokens=16)
    encoder.network.train()

    def gradients():
        encoder.network.zero_grad()
        (encoder.embed(**encoder.tokens(ROWS))[1][:, 0].sum()).backward()
        found = [layer.get_parameter("output.dense.weight").grad for layer in encoder._layers]
        return [None if grad is None else grad.clone() for grad in found]

    expected = gradients()
    assert [grad is None or not grad.any() for grad in expected] == [False, True, True]
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})
    torch.testing.assert_close(gradients()[0], expected[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exits": ()}, r"exits = \[\] is not allowed; allowed: ascending numbers of 1 to 3"),
        ({"exits": (0, 2)}, "allowed: ascending numbers of 1 to 3"),
        ({"exits": (1, 4)}, "allowed: ascending numbers of 1 to 3"),
        ({"exits": (2, 1)}, "allowed: ascending numbers of 1 to 3"),
        ({"exits": (2, 2)}, "allowed: ascending numbers of 1 to 3"),
        ({"exits": (1.0, 2.0)}, "allowed: ascending numbers of 1 to 3"),
        ({"head": "both"}, "head = 'both' is unknown; known: own, shared, none"),
        ({"head": "none", "embed_dim": 8}, "embed_dim = 8 needs a head; without one it is 12"),
        ({"embed_dim": 0}, "must be above 0"),
        ({"max_tokens": 33}, "gives no states of 33 tokens: .*; lower max_tokens"),
    ],
)
def test_bad_settings_are_refused_and_change_nothing(settings, message):
    model = backbone()
    modules = dict(model.named_modules())
    with pytest.raises(ModularizeError, match=message):
        add_exits(model, **{"exits": (1, 2), "max_tokens": 16, **settings})
    assert dict(model.named_modules()) == modules


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("t5", "has 2 lists of layers .*; exits need one, so give the encoder alone"),
        ("albert", "its config does not say so by num_hidden_layers"),
        ("vit", "lacks hidden_size or vocab_size"),
        ("bert-classifier", "has no last_hidden_state; .* give the backbone that AutoModel loads"),
    ],
)
def test_models_without_exits_are_refused(kind, message):
    model = tiny(kind)
    modules = dict(model.named_modules())
    with pytest.raises(ModularizeError, match=message):
        add_exits(model, exits=(1,), max_tokens=8)
    assert dict(model.named_modules()) == modules


def test_bad_texts_are_refused():
    encoder = with_exits()
    with pytest.raises(ConfigError, match=r"exit_layer = 4 is not allowed; allowed: one of \[1, 2, 3\]"):
        encoder.encode(TEXTS, exit=4)
    with pytest.raises(ConfigError, match="exit_layer = 0"):
        encoder.truncate(0)
    with pytest.raises(DataError, match="one text came, 'a b'; give a list"):
        encoder.encode("a b")
    with pytest.raises(DataError, match="0 texts in batches of 32"):
        encoder.encode([])
    with pytest.raises(DataError, match="text 1 has 0 tokens; allowed: 1 to max_tokens = 16"):
        encoder.encode(["a", ""])
    with pytest.raises(DataError, match="text 0 has 17 tokens"):
        encoder.encode([[4] * 17])
    assert torch.equal(encoder.encode(["a " * 17]), encoder.encode(["a " * 16]))
    with pytest.raises(DataError, match="no tokenizer"):
        with_exits(tokenizer=None).encode(TEXTS)
    for row, message in (
        ([20], "text 0 has the id 20; allowed: from 0 to 19"),
        ([-1], "text 0 has the id -1; allowed: from 0 to 19"),
        ([1.5], r"text 0 = \[1.5\] is neither a text nor a row of ids"),
        (3, "text 0 = 3 is neither"),
        (None, "text 0 = None is neither"),
    ):
        with pytest.raises(DataError, match=message):
            encoder.encode([row])
    with pytest.raises(DataError, match="text 1 = 'a' is neither a text nor a row of ids; all must be"):
        encoder.encode([[1], "a"])
    with pytest.raises(DataError, match="a text cannot be read by the tokenizer"):
        encoder.encode(["\ud800"])
    assert torch.equal(encoder.encode([torch.tensor([4, 5])]), encoder.encode([[4, 5]]))


@pytest.mark.parametrize("experts_first", [True, False])
def test_an_encoder_has_experts_and_exits(experts_first):
    model = backbone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = add_exits(backbone(), exits=(1, 3), tokenizer=letters(), max_tokens=16)

    def split():
        return modularize_transformer(model, experts=4, top_k=2, layers="all", cache=False)

    modular = split() if experts_first else None
    encoder = add_exits(model, exits=(1, 3), tokenizer=letters(), max_tokens=16)
    modular = modular or split()
    modular.use("sparse")
    found = {exit: encoder.encode(TEXTS, exit=exit) for exit in (1, 3)}
    for exit, embeddings in found.items():
        assert not torch.allclose(embeddings, expected.encode(TEXTS, exit=exit), atol=1e-4)
        assert torch.equal(encoder.truncate(exit).encode(TEXTS), embeddings)
    network = encoder.network if experts_first else modular.network
    name = next(name for name in network.space.active() if name.endswith("dense"))
    network.configure({**network.space.active(), name: (0, 2)})
    few = encoder.encode(TEXTS, exit=3)  # the experts stay as they are chosen
    assert not torch.allclose(few, found[3], atol=1e-4)
    assert torch.equal(encoder.truncate(3).encode(TEXTS), few)
    network.configure(network.space.largest())
    modular.use("dense")
    torch.testing.assert_close(encoder.encode(TEXTS), expected.encode(TEXTS), atol=1e-5, rtol=1e-5)
    modular.revert()
    encoder.revert()
    again = model.state_dict()
    assert list(again) == list(state)
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_layers_in_a_sequential_are_refused():
    model = backbone()
    model.encoder.layer = nn.Sequential(*model.encoder.layer)
    with pytest.raises(ModularizeError, match="keeps its layers in a Sequential; exits need a ModuleList"):
        add_exits(model, exits=(1,), tokenizer=letters(), max_tokens=16)
    assert type(model.encoder.layer) is nn.Sequential
