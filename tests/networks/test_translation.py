"""Translation: what padding and later words may not change, decoding against slow searches, the copy task."""

import itertools
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.errors import ConfigError
from brickyard.core.network import Network
from brickyard.core.sequence import PADDING, Cache, pad
from brickyard.networks import build
from brickyard.networks.translation import END, START, beam_decode, greedy_decode, translation_transformer
from brickyard.testing import sampled_configs


def pico(**arguments: int) -> Network:
    """A translator whose scores are far enough apart that decoding has something to choose."""
    network = build("translation_pico", **arguments).eval()
    network.root.target.tokens.weight.data.mul_(3.0)  # type: ignore[union-attr]
    return network


SOURCES = [[5, 3, 9], [7], [4, 8, 2, 6, 11, 3, 3, 5]]


@torch.no_grad()
def test_padding_of_the_source_changes_nothing():
    network, target = pico(), torch.tensor([[START, 4, 6]])
    for config in sampled_configs(network.space, samples=6):
        plain = network.extract(config)
        together = plain(pad(SOURCES), target.expand(3, -1))
        for row, source in enumerate(SOURCES):
            alone = plain(torch.tensor([source]), target)
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_words_to_come_change_no_score():
    network, source = pico(), pad(SOURCES[:1])
    one = network(source, torch.tensor([[START, 4, 6, 7, 8]]))
    other = network(source, torch.tensor([[START, 4, 6, 3, PADDING]]))
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3:], other[:, 3:])


@torch.no_grad()
def test_a_span_reads_the_last_layers_of_the_encoder():
    network, target = pico(), torch.tensor([[START, 4]])
    largest = network.space.largest()
    root, source = network.root, pad(SOURCES[:1])
    spans = {name: 1 for name in largest if name.endswith("span")}
    states = []
    for span in (1, 2, 3):
        config = largest.replace(dict.fromkeys(spans, span))
        plain = network.extract(config)
        memory = plain.encode(source)  # type: ignore[operator]
        assert len(memory.outputs) == 3
        # What a span does not reach may be anything.
        strange = memory._replace(
            outputs=tuple(
                output if index >= 3 - span else torch.randn_like(output)
                for index, output in enumerate(memory.outputs)
            )
        )
        states.append(plain.decode(target, memory))  # type: ignore[operator]
        assert torch.equal(states[-1], plain.decode(target, strange))  # type: ignore[operator]
    assert not torch.allclose(states[0], states[1])
    assert not torch.allclose(states[1], states[2])
    assert len(root.encoder) == 3  # type: ignore[arg-type]


def test_output_and_target_embedding_stay_one():
    network = pico()
    for config in sampled_configs(network.space, samples=3):
        plain = network.extract(config)
        assert plain.output.weight is plain.target.tokens.weight  # type: ignore[union-attr]
        assert plain.output.weight.shape == (12, config["decoder.embed_dim"])  # type: ignore[union-attr]
        assert len(plain.decoder) == config["decoder.depth"]  # type: ignore[arg-type]


def slow_greedy(model: nn.Module, source: list[int], max_tokens: int) -> list[int]:
    written: list[int] = []
    while len(written) < max_tokens and END not in written:
        scores = model(torch.tensor([source]), torch.tensor([[START, *written]]))[0, -1]
        written.append(max(range(1, len(scores)), key=lambda token: float(scores[token])))
    return written


@torch.no_grad()
def test_greedy_equals_one_source_and_token_at_a_time_and_a_beam_of_one():
    network = pico()
    for config in sampled_configs(network.space, samples=6):
        plain = network.extract(config)
        expected = [slow_greedy(plain, source, 6) for source in SOURCES]
        found = greedy_decode(plain, pad(SOURCES), max_tokens=6)
        assert torch.equal(found, pad(expected))
        assert torch.equal(beam_decode(plain, pad(SOURCES), max_tokens=6, num_beams=1), found)
        with network.configured(config):
            assert torch.equal(greedy_decode(network, pad(SOURCES), max_tokens=6), found)


@torch.no_grad()
def test_a_cache_computes_what_the_whole_sentence_does():
    network, target = pico(), torch.tensor([[START, 4, 6, 7]]).expand(3, -1)
    for config in sampled_configs(network.space, samples=6):
        plain, cache = network.extract(config), Cache()
        memory, decode = plain.encode(pad(SOURCES)), plain.decode  # type: ignore[operator]
        whole = decode(target, memory)
        steps = [decode(target[:, place, None], memory, cache) for place in range(4)]
        torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)
        assert cache.length == 4


@torch.no_grad()
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_wide_beam_finds_what_trying_everything_finds(length_penalty: float):
    network = pico(target_vocab_size=5)
    words = [token for token in range(1, 5) if token != END]
    sentences = [
        [*body, *last]
        for length in range(4)
        for body in itertools.product(words, repeat=length)
        for last in ([[END]] if length < 3 else [[]])
    ]
    rows = pad([[START, *sentence] for sentence in sentences])

    def worth(source: list[int]) -> Tensor:
        scores = network(torch.tensor([source]).expand(len(rows), -1), rows[:, :-1])
        scores[..., PADDING] = -torch.inf
        chosen = scores.log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
        real = rows[:, 1:] != PADDING
        return torch.where(real, chosen, 0.0).sum(1) / real.sum(1) ** length_penalty

    best = [sentences[int(worth(source).argmax())] for source in SOURCES]
    found = beam_decode(
        network, pad(SOURCES), max_tokens=3, num_beams=len(sentences), length_penalty=length_penalty
    )
    assert [[token for token in row if token] for row in found.tolist()] == best


def test_only_translators_decode():
    with pytest.raises(ConfigError, match=r"needs a translation network, .* got a TextClassifier"):
        greedy_decode(build("text_encoder_pico"), torch.ones(1, 3, dtype=torch.long), max_tokens=3)


def test_spans_beyond_the_encoder_are_refused():
    with pytest.raises(ConfigError, match=r"spans = \(1, 3\) reaches beyond the encoder of 2 layers; use"):
        translation_transformer(
            source_vocab_size=5,
            target_vocab_size=5,
            max_tokens=4,
            encoder_embed_dims=(4,),
            decoder_embed_dims=(4,),
            head_dim=2,
            num_heads=(1,),
            hidden_dims=(4,),
            encoder_depth=2,
            decoder_depths=(1,),
            spans=(1, 3),
            dropout=0.0,
        )


def test_space_and_sizes():
    space = build("translation_pico").space
    assert len(space) == 3 + 3 * 2 + 2 * 4
    assert space["decoder.layer1.span"].to_json()["values"] == [1, 2, 3]
    small = build("translation_small")
    largest = sum(parameter.numel() for parameter in small.parameters())
    smallest = sum(p.numel() for p in small.extract(small.space.smallest()).parameters())
    assert 2e6 < largest < 4e6
    assert smallest < 0.5 * largest


def test_learns_to_copy_with_all_sizes():
    """The target is the source; subnets are trained by drawing one per step."""
    rng = random.Random(0)
    network = build("translation_pico")
    space = network.space

    def sentences(count: int) -> list[list[int]]:
        return [[rng.randrange(3, 12) for _ in range(rng.randrange(1, 5))] for _ in range(count)]

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(140):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 20, 2 * (1 - step / 140))
        batch = sentences(32)
        source = pad(batch)
        before, behind = pad([[START, *row] for row in batch]), pad([[*row, END] for row in batch])
        optimizer.zero_grad()
        for config in (space.largest(), space.smallest(), space.sample(rng)):
            with network.configured(config):
                scores = network(source, before)
                F.cross_entropy(scores.flatten(0, 1), behind.flatten(), ignore_index=PADDING).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()
    batch = sentences(100)
    for config in (space.largest(), space.smallest()):
        plain = network.extract(config)
        for decode in (greedy_decode, beam_decode):
            written = decode(plain, pad(batch), max_tokens=6).tolist()
            right = [
                [token for token in row if token] == [*text, END]
                for row, text in zip(written, batch, strict=True)
            ]
            assert sum(right) >= 90, (config, decode, sum(right))
