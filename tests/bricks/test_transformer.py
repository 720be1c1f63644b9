"""Bricks of transformers against torch's own layers and slow loops."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.bricks import (
    ElasticEmbedding,
    ElasticLayerNorm,
    ElasticLinear,
    ElasticSpan,
    feed_forward,
    multi_head_attention,
)
from brickyard.core.brick import Width
from brickyard.core.decision import Choice
from brickyard.core.network import Network
from brickyard.core.sequence import Attention, Memory, Span


def stream(name: str = "embed_dim", largest: int = 12) -> Width:
    return Width.of(Choice(name, (largest // 2, largest)))


def attention(*, causal: bool = False, memory: Width | None = None) -> Network:
    brick = multi_head_attention(
        stream(), num_heads=Choice("num_heads", (1, 2, 3)), head_dim=4, memory=memory, causal=causal
    )
    for part in brick.children():
        nn.init.normal_(part.bias, std=0.5)
    return Network(brick, input_shape=(5, 12))


def twin(module: Attention, memory_dim: int) -> nn.MultiheadAttention:
    """Torch's attention with the weights of ours; needs as many features as all heads have."""
    theirs = nn.MultiheadAttention(12, 3, kdim=memory_dim, vdim=memory_dim, batch_first=True)
    parts = (module.query, module.key, module.value)
    weights = [part.weight.detach() for part in parts]
    if memory_dim == 12:
        theirs.in_proj_weight.data = torch.cat(weights)
    else:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        for name, weight in zip(names, weights, strict=True):
            getattr(theirs, name).data = weight
    theirs.in_proj_bias.data = torch.cat([part.bias.detach() for part in parts])
    theirs.out_proj.weight.data = module.output.weight.detach()
    theirs.out_proj.bias.data = module.output.bias.detach()
    return theirs


def slow(module: Attention, x: Tensor, memory: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Attention by loops over samples, heads and tokens, with rows and columns cut by hand."""

    def project(part: ElasticLinear, row: Tensor) -> Tensor:
        return part.weight[: heads * 4, : len(row)] @ row + part.bias[: heads * 4]

    y = torch.zeros_like(x)
    for sample in range(len(x)):
        keys = [project(module.key, row) for row in memory[sample]]
        values = [project(module.value, row) for row in memory[sample]]
        for token in range(x.shape[1]):
            query, joined = project(module.query, x[sample, token]), []
            for head in range(heads):
                own = slice(head * 4, head * 4 + 4)
                read = [k for k in range(len(keys)) if mask[sample, token, k]]
                scores = [math.exp(float(query[own] @ keys[k][own]) / 2) for k in read]
                joined.append(
                    sum(s * values[k][own] for s, k in zip(scores, read, strict=True)) / sum(scores)
                )
            row = torch.cat(joined)
            weight, bias = module.output.weight, module.output.bias
            y[sample, token] = weight[: x.shape[2], : heads * 4] @ row + bias[: x.shape[2]]
    return y


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_that_of_torch(causal: bool):
    net, x = attention(causal=causal), torch.randn(2, 5, 12)
    order = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = twin(net.root, 12)(x, x, x, attn_mask=order)
    torch.testing.assert_close(net(x), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_masked_attention_equals_that_of_torch(causal: bool):
    net, x = attention(causal=causal), torch.randn(2, 5, 12)
    real = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    order = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    expected, _ = twin(net.root, 12)(x, x, x, attn_mask=order, key_padding_mask=~real)
    torch.testing.assert_close(net(x, None, real), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_cross_attention_equals_that_of_torch():
    net = attention(memory=stream("memory_dim", 10))
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 10)
    real = torch.arange(7) < torch.tensor([[4], [7]])
    expected, _ = twin(net.root, 10)(x, memory, memory, key_padding_mask=~real)
    torch.testing.assert_close(net(x, memory, real), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("embed_dim", [6, 12])
@pytest.mark.parametrize("memory_dim", [5, 10])
def test_fewer_heads_and_narrower_streams_equal_a_slow_loop(heads: int, embed_dim: int, memory_dim: int):
    net = attention(memory=stream("memory_dim", 10))
    config = {"num_heads": heads, "embed_dim": embed_dim, "memory_dim": memory_dim}
    x, memory = torch.randn(2, 3, embed_dim), torch.randn(2, 4, memory_dim)
    real = torch.arange(4) < torch.tensor([[4], [2]])
    expected = slow(net.root, x, memory, heads, real[:, None].expand(2, 3, 4))
    plain = net.extract(config)
    with net.configured(config):
        torch.testing.assert_close(net(x, memory, real), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain(x, memory, real), expected, atol=1e-5, rtol=1e-5)
    assert plain.query.weight.shape == (heads * 4, embed_dim)
    assert plain.key.weight.shape == (heads * 4, memory_dim)
    assert plain.output.weight.shape == (embed_dim, heads * 4)


@torch.no_grad()
def test_causal_attention_does_not_see_what_follows():
    net, x = attention(causal=True), torch.randn(1, 5, 12)
    other = x.clone()
    other[:, 3:] = torch.randn(1, 2, 12)
    assert torch.equal(net(x)[:, :3], net(other)[:, :3])
    assert not torch.allclose(net(x)[:, 3:], net(other)[:, 3:])


@torch.no_grad()
def test_a_sequence_of_padding_alone_gives_numbers():
    net = attention()
    for kind in (torch.float32, torch.bfloat16):
        y = net.to(kind)(torch.randn(1, 5, 12, dtype=kind), None, torch.zeros(1, 5, dtype=torch.bool))
        assert torch.isfinite(y).all()


@torch.no_grad()
@pytest.mark.parametrize("features", [6, 12])
def test_layer_norm_equals_that_of_torch_on_the_first_features(features: int):
    norm = ElasticLayerNorm(12, width=stream())
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    net, x = Network(norm, input_shape=(12,)), torch.randn(3, 4, features)
    expected = F.layer_norm(x, (features,), norm.weight[:features], norm.bias[:features])
    plain = net.extract({"embed_dim": features})
    with net.configured({"embed_dim": features}):
        assert torch.equal(net(x), expected)
    assert repr(plain) == repr(nn.LayerNorm(features))
    assert torch.equal(plain(x), expected)


@torch.no_grad()
def test_embedding_gives_the_first_features():
    net = Network(ElasticEmbedding(7, 12, width=stream()), input_shape=(3,), vocab_sizes=(7,))
    (ids,) = net.example_inputs(batch=2)
    whole, plain = net(ids), net.extract({"embed_dim": 6})
    assert repr(plain) == repr(nn.Embedding(7, 6))
    assert torch.equal(plain(ids), whole[..., :6])


def test_tied_output_stays_tied():
    width = stream()
    embedding, output = ElasticEmbedding(7, 12, width=width), ElasticLinear(12, 7, bias=False, width_in=width)
    output.weight = embedding.weight
    root = nn.Sequential(embedding, output)
    plain = Network(root, input_shape=(3,), vocab_sizes=(7,)).extract({"embed_dim": 6})
    assert plain[0].weight is plain[1].weight  # type: ignore[index]
    assert plain[0].weight.shape == (7, 6)  # type: ignore[index]


@torch.no_grad()
def test_feed_forward_keeps_the_first_hidden_units():
    net = Network(feed_forward(stream(), hidden_dim=Choice("hidden_dim", (3, 8))), input_shape=(12,))
    expand, project, x = net.root.expand, net.root.project, torch.randn(2, 5, 6)  # type: ignore[union-attr]
    expected = F.linear(x, expand.weight[:3, :6], expand.bias[:3]).relu()
    expected = F.linear(expected, project.weight[:6, :3], project.bias[:6])
    assert torch.allclose(net.extract({"embed_dim": 6, "hidden_dim": 3})(x), expected, atol=1e-6)


def test_span_joins_the_last_outputs():
    network = Network(ElasticSpan(span=Choice("span", (1, 2, 3))), input_shape=())
    outputs = tuple(torch.full((2, 4, 3), float(layer)) for layer in range(3))
    mask = torch.arange(4) < torch.tensor([[2], [4]])
    for count in (1, 2, 3):
        plain = network.extract({"span": count})
        assert type(plain) is Span
        read, readable = plain(Memory(outputs, mask))
        assert read[0, :, 0].tolist() == [float(layer) for layer in range(3 - count, 3) for _ in range(4)]
        assert readable.tolist() == [row * count for row in mask.tolist()]
