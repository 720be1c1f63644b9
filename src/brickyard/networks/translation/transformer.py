"""Encoder-decoder transformers after HAT (arXiv 2005.14187); everything elastic is a `Choice`.

As in section 2 of the paper, the widths of both streams, the heads and hidden units of every layer, the depth
of the decoder, and the span of its cross-attention are elastic; the depth of the encoder is not. Heads keep
their width here, layers normalise before each part, and places are embedded by learned vectors.
"""

from __future__ import annotations

from brickyard.bricks import (
    ElasticDepth,
    ElasticLayerNorm,
    ElasticLinear,
    decoder_layer,
    encoder_layer,
)
from brickyard.core.brick import Width
from brickyard.core.decision import Choice
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network
from brickyard.core.sequence import Layers, Translator
from brickyard.networks import NETWORKS
from brickyard.networks.encoder.text import token_embedding


def translation_transformer(
    *,
    source_vocab_size: int,
    target_vocab_size: int,
    max_tokens: int,
    encoder_embed_dims: tuple[int, ...],
    decoder_embed_dims: tuple[int, ...],
    head_dim: int,
    num_heads: tuple[int, ...],
    hidden_dims: tuple[int, ...],
    encoder_depth: int,
    decoder_depths: tuple[int, ...],
    spans: tuple[int, ...],
    dropout: float,
) -> Network:
    """Build an encoder-decoder transformer whose output shares the weights of the target's embedding.

    The `Choice`s are `encoder.embed_dim`, `decoder.embed_dim`, `decoder.depth`; for each layer of the encoder
    `encoder.layer<i>.num_heads` and `.hidden_dim`; for each layer of the decoder
    `decoder.layer<i>.self_heads`, `.cross_heads`, `.hidden_dim` and `.span`.

    Args:
        source_vocab_size: Number of different ids of the source, padding among them.
        target_vocab_size: Number of different ids of the target; padding, start and end among them.
        max_tokens: Most tokens of a source, and of a target.
        encoder_embed_dims: Widths of the encoder's stream, ascending.
        decoder_embed_dims: Widths of the decoder's stream, ascending.
        head_dim: Width of an attention head.
        num_heads: Numbers of heads of each attention, ascending.
        hidden_dims: Numbers of hidden units of each layer, ascending.
        encoder_depth: Layers of the encoder.
        decoder_depths: Numbers of layers of the decoder, ascending.
        spans: Numbers of the encoder's last layers that a cross-attention reads, ascending.
        dropout: Share of features that are dropped in training mode.

    Returns:
        The network: from ids of source and target, both `[batch, tokens]` and filled up with padding, to the
        scores of what follows each token of the target, `[batch, tokens, target_vocab_size]`.

    Raises:
        ConfigError: A span reaches beyond the encoder.
    """
    if max(spans) > encoder_depth:
        raise ConfigError(
            f"spans = {spans!r} reaches beyond the encoder of {encoder_depth} layers; use spans of at most "
            f"{encoder_depth}, or a deeper encoder",
            path="spans",
            value=spans,
            allowed=f"1 to {encoder_depth}",
        )
    memory = Width.of(Choice("encoder.embed_dim", encoder_embed_dims))
    embed = Width.of(Choice("decoder.embed_dim", decoder_embed_dims))
    encoder = [
        encoder_layer(
            memory,
            num_heads=Choice(f"encoder.layer{index}.num_heads", num_heads),
            head_dim=head_dim,
            hidden_dim=Choice(f"encoder.layer{index}.hidden_dim", hidden_dims),
            dropout=dropout,
        )
        for index in range(encoder_depth)
    ]
    decoder = [
        decoder_layer(
            embed,
            memory,
            self_heads=Choice(f"decoder.layer{index}.self_heads", num_heads),
            cross_heads=Choice(f"decoder.layer{index}.cross_heads", num_heads),
            head_dim=head_dim,
            span=Choice(f"decoder.layer{index}.span", spans),
            hidden_dim=Choice(f"decoder.layer{index}.hidden_dim", hidden_dims),
            dropout=dropout,
        )
        for index in range(max(decoder_depths))
    ]
    target = token_embedding(target_vocab_size, embed, max_tokens=max_tokens, dropout=dropout)
    output = ElasticLinear(embed.full, target_vocab_size, bias=False, width_in=embed)
    output.weight = target.tokens.weight  # type: ignore[assignment]
    root = Translator(
        source=token_embedding(source_vocab_size, memory, max_tokens=max_tokens, dropout=dropout),
        encoder=encoder,
        encoder_norm=ElasticLayerNorm(memory.full, width=memory),
        target=target,
        decoder=ElasticDepth(decoder, depth=Choice("decoder.depth", decoder_depths), container=Layers),
        decoder_norm=ElasticLayerNorm(embed.full, width=embed),
        output=output,
        num_outputs=max(spans),
    )
    return Network(root, input_shape=(max_tokens,), vocab_sizes=(source_vocab_size, target_vocab_size))


@NETWORKS.add("translation_pico")
def translation_pico(
    *,
    source_vocab_size: int = 12,
    target_vocab_size: int = 12,
    max_tokens: int = 8,
    dropout: float = 0.0,
) -> Network:
    """Build a translator of 14 thousand parameters, for tests."""
    return translation_transformer(
        source_vocab_size=source_vocab_size,
        target_vocab_size=target_vocab_size,
        max_tokens=max_tokens,
        encoder_embed_dims=(12, 16),
        decoder_embed_dims=(8, 16),
        head_dim=4,
        num_heads=(2, 4),
        hidden_dims=(16, 32),
        encoder_depth=3,
        decoder_depths=(1, 2),
        spans=(1, 2, 3),
        dropout=dropout,
    )


@NETWORKS.add("translation_small")
def translation_small(
    *,
    source_vocab_size: int = 6000,
    target_vocab_size: int = 6000,
    max_tokens: int = 64,
    dropout: float = 0.2,
) -> Network:
    """Build a translator of 2.9 M parameters, 1.6 M of them embeddings, for captions such as Multi30k's."""
    return translation_transformer(
        source_vocab_size=source_vocab_size,
        target_vocab_size=target_vocab_size,
        max_tokens=max_tokens,
        encoder_embed_dims=(64, 96, 128),
        decoder_embed_dims=(64, 96, 128),
        head_dim=32,
        num_heads=(1, 2, 4),
        hidden_dims=(128, 192, 256),
        encoder_depth=4,
        decoder_depths=(1, 2, 3, 4),
        spans=(1, 2, 3),
        dropout=dropout,
    )
