"""Encoders with exits learn at every exit, and a stopped run goes on exactly."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from brickyard.core.errors import TrainError
from brickyard.modularize import add_exits
from brickyard.train.exits import ExitSettings, ExitTraining, PairBatch, TextPairs

PAIRS = [(f"query {number}", f"document {number}") for number in range(10)]


class Pico:
    """Two residual layers over the sum of embedded tokens, an exit after each."""

    exits = (1, 2)

    def __init__(self, dropout: float = 0.1):
        torch.manual_seed(4)
        self.network = nn.ModuleDict(
            {"table": nn.Embedding(40, 16), "one": nn.Linear(16, 16), "two": nn.Linear(16, 16)}
        )
        self.dropout = dropout

    def embed(self, input_ids, attention_mask):
        found, x = {}, (self.network["table"](input_ids) * attention_mask[..., None]).sum(1)
        for exit, name in zip(self.exits, ("one", "two"), strict=True):
            x = x + F.dropout(torch.tanh(self.network[name](x)), self.dropout, self.network.training)
            found[exit] = F.normalize(x, dim=1)
        return found


def ids(rows):
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}


def letters(step):
    """Pairs of a number and the number plus 20."""
    numbers = torch.randperm(20, generator=torch.Generator().manual_seed(step))[:8, None]
    return PairBatch(ids(numbers), ids(numbers + 20))


SETTINGS = ExitSettings(steps=60, learning_rate=2e-2, scale=10.0)


def small_encoder(head, exits=(1, 3)):
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    model = transformers.BertModel(transformers.BertConfig(**sizes, num_hidden_layers=3))
    return add_exits(model, exits=exits, head=head, max_tokens=8)


@pytest.mark.parametrize("changes", [{}, {"distill": "kl"}, {"distill": "cosine", "learn_scale": True}])
def test_all_exits_learn(changes):
    encoder = Pico()
    training = ExitTraining(encoder, batches=letters, settings=replace(SETTINGS, **changes))
    records = list(training.run(record_every=20))
    assert [record.step for record in records] == [20, 40, 60]
    assert list(records[0].by_exit) == [1, 2]
    for exit in (1, 2):
        assert records[-1].by_exit[exit] < 0.3 * records[0].by_exit[exit]
    assert (records[-1].scale != pytest.approx(10)) == changes.get("learn_scale", False)
    assert not encoder.network.training


def test_an_encoder_of_transformers_learns_at_every_exit(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    settings = replace(SETTINGS, steps=40, learning_rate=1e-2, checkpoint_every=20)

    def make(folder):
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig(**sizes, num_hidden_layers=3))
        encoder = add_exits(model, exits=(1, 3), head="shared", embed_dim=8, max_tokens=8)
        return ExitTraining(encoder, batches=letters, settings=settings, folder=folder)

    def found(training):
        numbers = [[number] for number in range(20)]
        there = training.encoder.encode_all([[number + 20] for (number,) in numbers])
        asked = training.encoder.encode_all(numbers)
        return [
            float(((asked[exit] @ there[exit].T).argmax(1) == torch.arange(20)).float().mean())
            for exit in (1, 3)
        ]

    whole = make(None)
    before = found(whole)
    list(whole.run())
    assert max(before) < 0.3
    assert min(found(whole)) > 0.8
    for _ in make(tmp_path).run(record_every=20):
        break
    again = make(tmp_path)
    list(again.run())
    state = again.encoder.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.encoder.network.state_dict().items())


def test_weights_decide_which_exits_learn():
    encoder = Pico(dropout=0.0)
    before = encoder.network["two"].weight.clone()
    settings = replace(SETTINGS, steps=2, weight_decay=0.0, weights=lambda exit, last: float(exit == 1))
    list(ExitTraining(encoder, batches=letters, settings=settings).run())
    assert torch.equal(encoder.network["two"].weight, before)
    settings = replace(settings, weights="uniform")
    list(ExitTraining(encoder, batches=letters, settings=settings).run())
    assert not torch.equal(encoder.network["two"].weight, before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(precision, tmp_path):
    settings = replace(SETTINGS, steps=6, checkpoint_every=3, precision=precision, learn_scale=True)

    def make(folder):
        return ExitTraining(Pico(), batches=letters, settings=settings, folder=folder)

    whole = make(None)
    list(whole.run())
    for _ in make(tmp_path).run(record_every=3):
        break
    second = make(tmp_path)
    assert [record.step for record in second.run()] == [6]
    pairs = ((whole.encoder.network, second.encoder.network), (whole.loss, second.loss))
    for expected, found in ((one.state_dict(), other.state_dict()) for one, other in pairs):
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert list(make(tmp_path).run()) == []


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    settings = replace(SETTINGS, steps=1)
    list(
        ExitTraining(
            Pico(), batches=letters, settings=settings, folder=tmp_path, identity={"pairs": "a"}
        ).run()
    )
    other = replace(settings, weights="uniform", seed=1)
    run = ExitTraining(Pico(), batches=letters, settings=other, folder=tmp_path, identity={"pairs": "b"})
    with pytest.raises(TrainError, match=r"\(pairs, seed, weights differ\)"):
        list(run.run())


def test_a_loss_that_is_not_finite_ends_the_run():
    encoder = Pico()
    with torch.no_grad():
        encoder.network["one"].weight.fill_(torch.nan)
    with pytest.raises(TrainError, match="the loss is nan at step 0; lower the learning rate"):
        list(ExitTraining(encoder, batches=letters, settings=SETTINGS).run())


def test_every_pair_comes_once_in_an_epoch():
    def tokenize(texts):
        return ids(torch.tensor([[int(text.split()[1])] for text in texts]))

    pairs = TextPairs(PAIRS, tokenize, batch_size=3, seed=2)
    seen = [pairs(step) for step in range(6)]
    assert all(torch.equal(batch.queries["input_ids"], batch.documents["input_ids"]) for batch in seen)
    epochs = [
        torch.cat([batch.queries["input_ids"] for batch in part]).flatten() for part in (seen[:3], seen[3:])
    ]
    assert [len(epoch.unique()) for epoch in epochs] == [9, 9]
    assert not torch.equal(*epochs)
    assert torch.equal(pairs(4).queries["input_ids"], seen[4].queries["input_ids"])
    other = TextPairs(PAIRS, tokenize, batch_size=3, seed=3)
    assert not torch.equal(other(0).queries["input_ids"], seen[0].queries["input_ids"])
    for batch_size in (1, 11):
        with pytest.raises(TrainError, match="allowed: 2 to the number of pairs, 10"):
            TextPairs(PAIRS, tokenize, batch_size=batch_size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps = 0 must be above 0"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0 must be above 0"),
        ({"seed": -1}, "seed = -1 must not be negative"),
        ({"warmup": 1.5}, r"warmup = 1.5 must lie in \[0, 1\]"),
        ({"precision": "fp8"}, "precision = 'fp8' must be"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(TrainError, match=message):
        ExitSettings(**settings)


def test_heads_take_larger_steps_by_their_own_rate():
    pytest.importorskip("transformers")
    moved = {}
    for rate in (1.0, 10.0):
        encoder = small_encoder("own")
        before = {name: one.detach().clone() for name, one in encoder.network.named_parameters()}
        settings = replace(SETTINGS, steps=1, warmup=0, learning_rate=1e-4, weight_decay=0, head_rate=rate)
        list(ExitTraining(encoder, batches=letters, settings=settings).run())
        for name, one in encoder.network.named_parameters():
            moved[name, rate] = float((one - before[name]).detach().abs().max())
    assert moved["root.head.weight", 10.0] == pytest.approx(10 * moved["root.head.weight", 1.0], rel=1e-2)
    [word] = {name for name, _ in moved if name.endswith("word_embeddings.weight")}
    assert moved[word, 10.0] == pytest.approx(moved[word, 1.0], rel=1e-2)


def test_the_last_head_has_a_rate_of_its_own():
    pytest.importorskip("transformers")
    moved = {}
    for rate in (None, 2.0):
        encoder = small_encoder("own")
        head = encoder.network.get_parameter("root.head.weight")
        before = head.detach().clone()
        settings = replace(SETTINGS, steps=1, warmup=0, head_rate=10.0, last_head_rate=rate)
        list(ExitTraining(encoder, batches=letters, settings=settings).run())
        moved[rate] = (head - before).detach()
    assert torch.equal(moved[None][:-1], moved[2.0][:-1])
    assert torch.allclose(0.2 * moved[None][-1], moved[2.0][-1], rtol=1e-2, atol=1e-6)
    with pytest.raises(TrainError, match=r"last_head_rate = 2\.0 needs a head of its own"):
        ExitTraining(small_encoder("shared"), batches=letters, settings=settings)
