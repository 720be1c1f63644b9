"""Rows of two pieces hide what they say they hide, and an encoder learns from them at every exit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from brickyard.core.errors import TrainError
from brickyard.train.context import ContextLoss, ContextTexts
from brickyard.train.exits import ExitSettings, ExitTraining

WORDS = [f"{letter}{number}" for letter in "abc" for number in range(6)]
TEXTS = [
    f"{letter}{one} {letter}{two} {letter}{three}"
    for letter in "abc"
    for one, two, three in ((0, 1, 2), (2, 3, 4), (1, 4, 5), (0, 3, 5))
]
SOURCES = [text[0] for text in TEXTS]


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    rules = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokens = {f"{name}_token": token for name, token in names.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=rules, **tokens)


def encoder_of(tokenizer, **settings):
    import transformers

    from brickyard.modularize import add_exits

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **sizes)
    model = transformers.BertModel(config)
    return add_exits(model, exits=(1, 2), tokenizer=tokenizer, max_tokens=16, **settings)


def test_rows_are_of_one_source_or_of_two_and_half_are_of_one(tokenizer):
    texts = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=64, mask_share=1e-9)
    batch = texts(0)
    assert 0.3 < batch.same.float().mean() < 0.7
    whole = torch.where(batch.hidden == -100, batch.input_ids, batch.hidden)
    for row, same in zip(whole.tolist(), batch.same.tolist(), strict=True):
        assert (row[0], row[4], row[8]) == (2, 3, 3)
        letters = {tokenizer.convert_ids_to_tokens(token)[0] for token in row[1:4] + row[5:8]}
        assert len(letters) == (1 if same else 2)
        assert not same or row[1:4] != row[5:8]


def test_hidden_tokens_are_the_share_that_was_asked_for_and_never_special(tokenizer):
    batch = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=512, mask_share=0.3)(3)
    guessed = batch.hidden != -100
    assert not guessed[:, [0, 4, 8]].any()
    assert guessed.any(1).all()
    assert 0.3 < guessed[:, 1:4].float().mean() < 0.4  # at least one of a row
    shown, true = batch.input_ids[guessed], batch.hidden[guessed]
    assert 0.75 < (shown == tokenizer.mask_token_id).float().mean() < 0.85
    assert 0.07 < (shown == true).float().mean() < 0.15
    same = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=512, mask_share=0.3)(3)
    assert all(torch.equal(one, other) for one, other in zip(batch, same, strict=True))
    assert not torch.equal(
        ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=512, seed=1)(3).input_ids, batch.input_ids
    )


@torch.no_grad()
def test_the_losses_are_cross_entropies_of_shared_heads(tokenizer):
    torch.manual_seed(0)
    table = nn.Embedding(len(tokenizer), 8)
    loss = ContextLoss((1, 2), 12, table)
    assert not any(parameter is table.weight for parameter in loss.parameters())
    batch = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=4)(0)
    states = torch.randn(4, 9, 12)
    found = loss({1: states, 2: states}, batch)
    assert float(found.mlm[1]) != float(found.mlm[2])  # the embedding of the layer tells exits apart
    expected = []
    for row in range(4):
        for place in range(9):
            if batch.hidden[row, place] >= 0:
                scores = table.weight @ loss.guess(states[row, place] + loss.layer_embedding[0])
                expected.append(-(scores + loss.guess_bias).log_softmax(0)[batch.hidden[row, place]])
    assert float(found.mlm[1]) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)
    says = loss.judge(states.mean(1) + loss.layer_embedding[1]).squeeze(1).sigmoid()
    right = torch.where(batch.same == 1, says, 1 - says)
    assert float(found.same_source[2]) == pytest.approx(float(-right.log().mean()), rel=1e-5)


def test_common_sources_are_learned(tokenizer):
    torch.manual_seed(0)
    table = nn.Embedding(len(tokenizer), 16)
    loss = ContextLoss((1, 2), 16, table)
    optimizer = torch.optim.Adam([*table.parameters(), *loss.parameters()], lr=3e-2)
    context, found = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=32), []
    for step in range(100):
        batch = context(step)
        states = 4 * table(batch.input_ids)
        losses = loss({1: states, 2: 1.5 * states}, batch).same_source
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append({exit: float(one.detach()) for exit, one in losses.items()})
    for exit in (1, 2):
        assert found[-1][exit] < 0.5 * found[0][exit]


def test_hidden_tokens_are_learned_at_every_exit_and_runs_go_on(tokenizer, tmp_path):
    settings = ExitSettings(
        steps=24, learning_rate=2e-2, contrast=0.0, mlm=1.0, same_source=0.1, checkpoint_every=12
    )

    def run(folder=None, records=None):
        context = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=16)
        training = ExitTraining(
            encoder_of(tokenizer), batches=None, context=context, settings=settings, folder=folder
        )
        records = [] if records is None else records
        for record in training.run(record_every=6):
            records.append(record)
            if folder is not None and record.step == 12 and not (folder / "stopped").exists():
                (folder / "stopped").touch()
                return training, records
        return training, records

    whole, records = run()
    assert records[0].by_exit == {}
    for exit in (1, 2):
        assert records[-1].mlm[exit] < 0.9 * records[0].mlm[exit]
        assert set(records[-1].same_source) == {1, 2}
    run(tmp_path)
    again, rest = run(tmp_path)
    assert [record.step for record in rest] == [18, 24]
    for part in ("network", "context"):
        state = again.modules[part].state_dict()
        assert all(
            torch.equal(value, state[name]) for name, value in whole.modules[part].state_dict().items()
        )


def test_context_can_stand_beside_pairs(tokenizer):
    from brickyard.train.exits import TextPairs

    encoder = encoder_of(tokenizer)
    pairs = TextPairs(list(zip(TEXTS, reversed(TEXTS), strict=True)), encoder.tokens, batch_size=4)
    context = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=4)
    settings = ExitSettings(steps=1, warmup=0.0, mlm=0.5, same_source=0.0, weights="depth")
    [record] = ExitTraining(encoder, batches=pairs, context=context, settings=settings).run()
    parts = [0.5 * record.by_exit[1] + record.by_exit[2], 0.5 * (0.5 * record.mlm[1] + record.mlm[2])]
    assert record.loss == pytest.approx(sum(parts), rel=1e-5)


def test_bad_settings_are_told(tokenizer):
    with pytest.raises(TrainError, match=r"2 texts and 1 sources came; give each text its source"):
        ContextTexts(["a", "b"], ["x"], tokenizer, batch_size=2)
    for sources in (["x", "y"], ["x", "x"]):
        with pytest.raises(TrainError, match=r"context needs 2 sources or more, of which one has 2 texts"):
            ContextTexts(["a", "b"], sources, tokenizer, batch_size=2)
    with pytest.raises(TrainError, match=r"mask_share = 1 lie in \(0, 1\)"):
        ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=2, mask_share=1)
    with pytest.raises(TrainError, match=r"object has no mask token, so tokens cannot be hidden"):
        ContextTexts(TEXTS, SOURCES, object(), batch_size=2)
    with pytest.raises(TrainError, match=r"contrast, mlm and same_source are all 0"):
        ExitSettings(contrast=0)
    encoder = encoder_of(tokenizer)
    settings = ExitSettings(steps=1)
    with pytest.raises(TrainError, match=r"contrast = 1.0 needs pairs"):
        ExitTraining(encoder, batches=None, settings=settings)
    with pytest.raises(TrainError, match=r"mlm = 1.0 and same_source = 0.0 need context"):
        ExitTraining(encoder, batches=lambda step: None, settings=replace(settings, mlm=1.0))
    with pytest.raises(TrainError, match=r"mlm = 0.0 and same_source = 0.0 have no use for context"):
        ExitTraining(encoder, batches=lambda step: None, context=lambda step: None, settings=settings)


def test_rows_without_a_token_to_hide_are_told(tokenizer):
    texts = ContextTexts(TEXTS, SOURCES, tokenizer, batch_size=4, max_tokens=3)
    with pytest.raises(TrainError, match="rows of step 2 have no tokens to hide; max_tokens = 3 must leave"):
        texts(2)
