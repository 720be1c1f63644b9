"""Text encoders: what padding may not change, sizes, errors, and that they learn."""

import random

import pytest
import torch
from torch.nn import functional as F

from brickyard.core.errors import ConfigError
from brickyard.core.sequence import pad
from brickyard.networks import build
from brickyard.testing import sampled_configs


@torch.no_grad()
def test_padding_changes_no_score():
    network = build("text_encoder_pico").eval()
    texts = [[5, 3, 9], [7], [4, 8, 2, 6, 11, 12, 13, 14]]
    for config in sampled_configs(network.space, samples=4):
        plain = network.extract(config)
        alone = torch.cat([plain(torch.tensor([text])) for text in texts])
        torch.testing.assert_close(plain(pad(texts)), alone, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_padding_changes_no_other_token():
    layers = build("text_encoder_pico").eval().root.layers  # type: ignore[union-attr]
    x, real = torch.randn(1, 6, 16), torch.tensor([[True, True, True, False, False, False]])
    other = torch.cat([x[:, :3], torch.randn(1, 3, 16)], dim=1)
    assert torch.allclose(layers(x, real)[:, :3], layers(x[:, :3], real[:, :3]), atol=1e-6)
    assert torch.equal(layers(x, real)[:, :3], layers(other, real)[:, :3])


@torch.no_grad()
def test_an_empty_text_gives_numbers():
    assert torch.isfinite(build("text_encoder_pico").eval()(torch.zeros(1, 4, dtype=torch.long))).all()


def test_space_and_sizes():
    space = build("text_encoder_pico").space
    assert {decision.name for decision in space} == {
        "embed_dim",
        "depth",
        "classes",
        *(f"layer{index}.{name}" for index in (0, 1) for name in ("num_heads", "hidden_dim")),
    }
    small = build("text_encoder_small", num_outputs=4)
    assert 1e6 < sum(parameter.numel() for parameter in small.parameters()) < 3e6
    smallest = small.extract(small.space.smallest())
    assert len(smallest.layers) == 1  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in smallest.parameters()) < 0.6e6


def test_too_long_a_text_is_refused():
    network = build("text_encoder_pico", max_tokens=4)
    with pytest.raises(ConfigError, match="a sequence has 5 tokens; this network reads at most 4; cut it"):
        network(torch.ones(1, 5, dtype=torch.long))


def test_example_inputs_are_ids_with_padding_behind():
    network = build("text_encoder_pico", vocab_size=6)
    (ids,) = network.example_inputs(batch=50, seed=1)
    assert ids.shape == (50, 8)
    assert sorted(ids.unique().tolist()) == [0, 1, 2, 3, 4, 5]
    assert (ids[:, 0] > 0).all()
    lengths = (ids > 0).sum(1)
    assert all((row[:length] > 0).all() for row, length in zip(ids, lengths, strict=True))
    assert set(lengths.tolist()) == set(range(1, 9))
    assert torch.equal(ids, network.example_inputs(batch=50, seed=1)[0])


def test_learns_a_keyword_with_all_sizes():
    """The class is which of three words is in the text; subnets are trained by drawing one per step."""
    rng = random.Random(0)
    network = build("text_encoder_pico")
    space = network.space
    whole = {"classes": space["classes"].largest()}

    def texts(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, labels = [], []
        for _ in range(count):
            label = rng.randrange(3)
            text = [rng.randrange(4, 20) for _ in range(rng.randrange(2, 8))]
            text[rng.randrange(len(text))] = 1 + label
            rows.append(text)
            labels.append(label)
        return pad(rows), torch.tensor(labels)

    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        tokens, labels = texts(32)
        optimizer.zero_grad()
        for config in (space.largest(), space.smallest(), space.sample(rng)):
            with network.configured(config.replace(whole)):
                F.cross_entropy(network(tokens), labels).backward()
        optimizer.step()
    tokens, labels = texts(200)
    network.eval()
    for config in (space.largest(), space.smallest(), space.sample(rng)):
        right = network.extract(config.replace(whole))(tokens).argmax(1) == labels
        assert float(right.float().mean()) > 0.9, config
