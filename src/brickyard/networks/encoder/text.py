"""Encoder-only transformers that classify texts; everything elastic is a `Choice`.

Layers are those of arXiv 1706.03762 with normalisation before each part; heads, hidden units, depth and the
width of the stream are elastic as in HAT (arXiv 2005.14187). The answer comes from the mean over the tokens
rather than from a token of its own.
"""

from __future__ import annotations

from brickyard.bricks import ElasticDepth, ElasticEmbedding, ElasticLayerNorm, ElasticLinear, encoder_layer
from brickyard.core.brick import Width
from brickyard.core.decision import Choice, Subset
from brickyard.core.network import Network
from brickyard.core.sequence import Layers, TextClassifier, TokenEmbedding
from brickyard.networks import NETWORKS


def token_embedding(vocab_size: int, embed: Width, *, max_tokens: int, dropout: float) -> TokenEmbedding:
    """Build the embedding of tokens and their places.

    Args:
        vocab_size: Number of different ids.
        embed: Width of the stream.
        max_tokens: Most tokens of a sequence.
        dropout: Share of features that are dropped in training mode.

    Returns:
        A module from ids `[batch, tokens]` to `[batch, tokens, width]`.
    """
    return TokenEmbedding(
        ElasticEmbedding(vocab_size, embed.full, width=embed),
        ElasticEmbedding(max_tokens, embed.full, width=embed),
        max_tokens=max_tokens,
        dropout=dropout,
    )


def text_encoder(
    *,
    num_outputs: int,
    vocab_size: int,
    max_tokens: int,
    embed_dims: tuple[int, ...],
    head_dim: int,
    num_heads: tuple[int, ...],
    hidden_dims: tuple[int, ...],
    depths: tuple[int, ...],
    dropout: float,
) -> Network:
    """Build a text classifier.

    Every layer owns the `Choice`s `layer<i>.num_heads` and `layer<i>.hidden_dim`; all share `embed_dim`, the
    network has `depth`, and the head a `Subset` `classes`, which the task decides rather than a search.

    Args:
        num_outputs: Number of classes.
        vocab_size: Number of different token ids, among them `brickyard.core.sequence.PADDING`.
        max_tokens: Most tokens of a text.
        embed_dims: Widths of the stream, ascending; a single one keeps it fixed.
        head_dim: Width of an attention head.
        num_heads: Numbers of heads of each layer, ascending.
        hidden_dims: Numbers of hidden units of each layer, ascending.
        depths: Numbers of layers, ascending.
        dropout: Share of features that are dropped in training mode.

    Returns:
        The network: from ids `[batch, tokens]`, filled up with padding, to scores `[batch, classes]`.
    """
    embed = Width.of(Choice("embed_dim", embed_dims))
    layers = [
        encoder_layer(
            embed,
            num_heads=Choice(f"layer{index}.num_heads", num_heads),
            head_dim=head_dim,
            hidden_dim=Choice(f"layer{index}.hidden_dim", hidden_dims),
            dropout=dropout,
        )
        for index in range(max(depths))
    ]
    classes = Width.of(Subset("classes", num_outputs, minimum=1))
    root = TextClassifier(
        token_embedding(vocab_size, embed, max_tokens=max_tokens, dropout=dropout),
        ElasticDepth(layers, depth=Choice("depth", depths), container=Layers),
        ElasticLayerNorm(embed.full, width=embed),
        ElasticLinear(embed.full, num_outputs, width_in=embed, width_out=classes),
    )
    return Network(root, input_shape=(max_tokens,), vocab_sizes=(vocab_size,))


@NETWORKS.add("text_encoder_pico")
def text_encoder_pico(
    *, num_outputs: int = 3, vocab_size: int = 20, max_tokens: int = 8, dropout: float = 0.0
) -> Network:
    """Build a text classifier of five thousand parameters, for tests."""
    return text_encoder(
        num_outputs=num_outputs,
        vocab_size=vocab_size,
        max_tokens=max_tokens,
        embed_dims=(8, 12, 16),
        head_dim=4,
        num_heads=(1, 2, 4),
        hidden_dims=(8, 16, 32),
        depths=(1, 2),
        dropout=dropout,
    )


@NETWORKS.add("text_encoder_tiny")
def text_encoder_tiny(
    *, num_outputs: int = 4, vocab_size: int = 2000, max_tokens: int = 32, dropout: float = 0.1
) -> Network:
    """Build a text classifier of 0.2 M parameters, 0.1 M of them embeddings, for requests and commands."""
    return text_encoder(
        num_outputs=num_outputs,
        vocab_size=vocab_size,
        max_tokens=max_tokens,
        embed_dims=(8, 12, 16, 24, 32, 48),
        head_dim=8,
        num_heads=(1, 2, 4),
        hidden_dims=(16, 32, 64, 128),
        depths=(1, 2, 3, 4),
        dropout=dropout,
    )


@NETWORKS.add("text_encoder_small")
def text_encoder_small(
    *, num_outputs: int = 4, vocab_size: int = 8000, max_tokens: int = 64, dropout: float = 0.1
) -> Network:
    """Build a text classifier of 1.8 M parameters, 1.0 M of them embeddings, for news and reviews."""
    return text_encoder(
        num_outputs=num_outputs,
        vocab_size=vocab_size,
        max_tokens=max_tokens,
        embed_dims=(16, 32, 64, 128),
        head_dim=32,
        num_heads=(1, 2, 3, 4),
        hidden_dims=(64, 128, 256, 512),
        depths=(1, 2, 3, 4),
        dropout=dropout,
    )
