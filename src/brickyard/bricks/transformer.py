"""Elastic parts of transformers: attention with a choice of heads, feed-forward, and the layers made of them.

What is elastic is that of HAT (arXiv 2005.14187, section 2): a smaller value keeps the first heads, hidden
units or features. Here heads keep their width, so fewer heads make the projections narrower.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from brickyard.bricks.layer_norm import ElasticLayerNorm
from brickyard.bricks.linear import ElasticLinear
from brickyard.bricks.span import ElasticSpan
from brickyard.core.brick import Width
from brickyard.core.decision import Choice
from brickyard.core.sequence import Attention, DecoderLayer, EncoderLayer


def multi_head_attention(
    embed: Width, *, num_heads: Choice, head_dim: int, memory: Width | None = None, causal: bool = False
) -> Attention:
    """Build multi-head attention with elastic heads and elastic streams.

    Args:
        embed: Width of the stream that asks and is written to.
        num_heads: How many heads stay.
        head_dim: Width of a head.
        memory: Width of the stream that is read (cross-attention); the same as `embed` if None.
        causal: Whether a token reads only itself and those before it.

    Returns:
        A module called with the stream, what is read (None for self-attention) and the mask of the keys.
    """
    read, heads = embed if memory is None else memory, Width.of(num_heads, head_dim)
    return Attention(
        ElasticLinear(embed.full, heads.full, width_in=embed, width_out=heads),
        ElasticLinear(read.full, heads.full, width_in=read, width_out=heads),
        ElasticLinear(read.full, heads.full, width_in=read, width_out=heads),
        ElasticLinear(heads.full, embed.full, width_in=heads, width_out=embed),
        head_dim=head_dim,
        causal=causal,
    )


def feed_forward(embed: Width, *, hidden_dim: Choice, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Build a feed-forward part with elastic hidden units.

    Args:
        embed: Width of the stream.
        hidden_dim: How many hidden units stay.
        activation: Activation of the hidden units.

    Returns:
        A module that keeps the shape of its input.
    """
    hidden = Width.of(hidden_dim)
    return nn.Sequential(
        OrderedDict(
            expand=ElasticLinear(embed.full, hidden.full, width_in=embed, width_out=hidden),
            act=activation(),
            project=ElasticLinear(hidden.full, embed.full, width_in=hidden, width_out=embed),
        )
    )


def encoder_layer(
    embed: Width, *, num_heads: Choice, head_dim: int, hidden_dim: Choice, dropout: float = 0.0
) -> EncoderLayer:
    """Build a layer of an encoder.

    Args:
        embed: Width of the stream.
        num_heads: Heads of its attention.
        head_dim: Width of a head.
        hidden_dim: Hidden units of its feed-forward part.
        dropout: Share of features that are dropped in training mode.

    Returns:
        A module called with the stream and the mask of real tokens.
    """
    return EncoderLayer(
        (ElasticLayerNorm(embed.full, width=embed), ElasticLayerNorm(embed.full, width=embed)),
        multi_head_attention(embed, num_heads=num_heads, head_dim=head_dim),
        feed_forward(embed, hidden_dim=hidden_dim),
        dropout=dropout,
    )


def decoder_layer(
    embed: Width,
    memory: Width,
    *,
    self_heads: Choice,
    cross_heads: Choice,
    head_dim: int,
    span: Choice,
    hidden_dim: Choice,
    dropout: float = 0.0,
) -> DecoderLayer:
    """Build a layer of a decoder.

    Args:
        embed: Width of the decoder's stream.
        memory: Width of the encoder's stream.
        self_heads: Heads of the attention to what is written.
        cross_heads: Heads of the attention to the source.
        head_dim: Width of a head.
        span: How many of the encoder's last layers the attention to the source reads.
        hidden_dim: Hidden units of its feed-forward part.
        dropout: Share of features that are dropped in training mode.

    Returns:
        A module called with the stream and a `Memory`.
    """
    return DecoderLayer(
        (
            ElasticLayerNorm(embed.full, width=embed),
            ElasticLayerNorm(embed.full, width=embed),
            ElasticLayerNorm(embed.full, width=embed),
        ),
        multi_head_attention(embed, num_heads=self_heads, head_dim=head_dim, causal=True),
        ElasticSpan(span=span),
        multi_head_attention(embed, num_heads=cross_heads, head_dim=head_dim, memory=memory),
        feed_forward(embed, hidden_dim=hidden_dim),
        dropout=dropout,
    )
