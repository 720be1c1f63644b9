"""Plain torch containers for sequences of tokens; like those of `plain`, they know no decisions.

Layers normalise before each part and add its output to the stream (arXiv 2002.04745, figure 1b); attention
and its masks are those of arXiv 1706.03762. Which features are on shows only in the tensors that pass, so the
same containers serve a network of bricks and what is cut out of it.

Shape suffixes: B batch, T tokens, K tokens that are read (keys), D width of the stream, H heads, C width of a
head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.errors import ConfigError

PADDING = 0
"""Id of the token that fills a sequence up; it stands behind the last real token."""


class Layers(nn.Sequential):
    """Layers one after the other, all of which read the same context beside the stream."""

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Apply `layer(x, *context)` for each layer."""
        for layer in self:
            x = layer(x, *context)
        return x


class TokenEmbedding(nn.Module):
    """The sum of what a token and its place in the sequence are embedded as.

    Args:
        tokens: From ids `[batch, tokens]` to vectors.
        positions: From places `[tokens]` to vectors.
        max_tokens: Number of places that `positions` knows.
        dropout: Share of the features that are dropped in training mode.
    """

    def __init__(
        self, tokens: nn.Module, positions: nn.Module, *, max_tokens: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens, self.positions, self.max_tokens = tokens, positions, max_tokens
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BT: Tensor, first: int = 0) -> Tensor:
        """Embed ids as `[batch, tokens, width]`; `first` is the place of the first one.

        Raises:
            ConfigError: There are more tokens than places.
        """
        length = first + tokens_BT.shape[1]
        if length > self.max_tokens:
            raise ConfigError(
                f"a sequence has {int(length)} tokens; this network reads at most {self.max_tokens}; cut it, "
                "or build the network with more",
                path="max_tokens",
                value=int(length),
                allowed=self.max_tokens,
            )
        places_T = torch.arange(first, length, device=tokens_BT.device)
        y: Tensor = self.dropout(self.tokens(tokens_BT) + self.positions(places_T))
        return y


class Cache:
    """Keys and values that attentions computed before, so that a token more costs one token.

    Attributes:
        length: Number of tokens that were written so far.
    """

    def __init__(self) -> None:
        self.length = 0
        self._kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def get(self, owner: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Return an attention's keys and values, `[batch, heads, tokens, head_dim]`, None before any."""
        return self._kept.get(owner)

    def put(self, owner: nn.Module, key_BHKC: Tensor, value_BHKC: Tensor) -> None:
        """Keep keys and values of an attention."""
        self._kept[owner] = key_BHKC, value_BHKC

    def select(self, rows: Tensor) -> None:
        """Go on with some samples, `rows` being their indices; an index may come repeatedly."""
        self._kept = {owner: (key[rows], value[rows]) for owner, (key, value) in self._kept.items()}


class Attention(nn.Module):
    """Multi-head attention (arXiv 1706.03762, section 3.2); the projections say how many heads there are.

    Args:
        query: From the stream to `[..., heads * head_dim]`.
        key: From what is read to `[..., heads * head_dim]`.
        value: From what is read to `[..., heads * head_dim]`.
        output: From `[..., heads * head_dim]` back to the stream.
        head_dim: Width of a head.
        causal: Whether a token reads only itself and those before it.
    """

    def __init__(
        self,
        query: nn.Module,
        key: nn.Module,
        value: nn.Module,
        output: nn.Module,
        *,
        head_dim: int,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = query, key, value, output
        self.head_dim, self.causal = head_dim, causal

    def forward(
        self,
        x_BTD: Tensor,
        memory: Tensor | None = None,
        mask_BK: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Read a sequence.

        Args:
            x_BTD: The stream, `[batch, tokens, width]`; with a cache, that of the token behind the others.
            memory: What is read, `[batch, keys, its width]`; the stream itself if None.
            mask_BK: True at the keys that may be read; all may if None.
            cache: Holds what was read before; a stream is read behind that, a memory only once.

        Returns:
            `[batch, tokens, width]`.
        """
        query_BHTC = self._heads(self.query(x_BTD))
        key_BHKC, value_BHKC = self._read(x_BTD, memory, cache)
        # The mask may not be given beside `is_causal`, so it takes up the order where there is both.
        bias = None if mask_BK is None else self._bias(query_BHTC, mask_BK)
        ordered = self.causal and bias is None and cache is None  # behind a cache there is but one token
        y_BHTC = F.scaled_dot_product_attention(
            query_BHTC, key_BHKC, value_BHKC, attn_mask=bias, is_causal=ordered
        )
        y: Tensor = self.output(y_BHTC.transpose(1, 2).flatten(2))
        return y

    def _read(self, x_BTD: Tensor, memory: Tensor | None, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """Return all keys and values, those before too, `[batch, heads, keys, head_dim]` each."""
        before = None if cache is None else cache.get(self)
        if memory is not None and before is not None:
            return before
        read = x_BTD if memory is None else memory
        key_BHKC, value_BHKC = self._heads(self.key(read)), self._heads(self.value(read))
        if before is not None:
            key_BHKC = torch.cat([before[0], key_BHKC], dim=2)
            value_BHKC = torch.cat([before[1], value_BHKC], dim=2)
        if cache is not None:
            cache.put(self, key_BHKC, value_BHKC)
        return key_BHKC, value_BHKC

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads

    def _bias(self, query_BHTC: Tensor, mask_BK: Tensor) -> Tensor:
        """Return what is added to the scores, `[batch, 1, tokens or 1, keys]`.

        Half of the lowest number, not minus infinity: a sequence of padding alone gives numbers, too.
        """
        mask = mask_BK[:, None, None, :]
        if self.causal:
            shape = query_BHTC.shape[-2], mask_BK.shape[-1]
            mask = mask & torch.ones(shape, dtype=torch.bool, device=mask.device).tril()
        low = torch.finfo(query_BHTC.dtype).min / 2
        bias: Tensor = torch.zeros_like(mask, dtype=query_BHTC.dtype).masked_fill(~mask, low)
        return bias


class EncoderLayer(nn.Module):
    """A layer that reads its own sequence, then feeds each token forward.

    Args:
        norms: Normalisation before attention and before feed-forward.
        attention: An `Attention`.
        feed_forward: From stream to stream.
        dropout: Share of the features of both outputs that are dropped in training mode.
    """

    def __init__(
        self,
        norms: tuple[nn.Module, nn.Module],
        attention: nn.Module,
        feed_forward: nn.Module,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attention, self.feed_forward = attention, feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Compute the stream behind this layer; `mask_BT` is True at real tokens."""
        x_BTD = x_BTD + self.dropout(self.attention(self.norm1(x_BTD), None, mask_BT))
        y: Tensor = x_BTD + self.dropout(self.feed_forward(self.norm2(x_BTD)))
        return y


class DecoderLayer(nn.Module):
    """A layer that reads what was written, then the source, then feeds each token forward.

    Args:
        norms: Normalisation before each of the three parts.
        self_attention: A causal `Attention`.
        span: Gives the sequence and mask that are read of a `Memory`.
        cross_attention: An `Attention` of the memory.
        feed_forward: From stream to stream.
        dropout: Share of the features of the outputs that are dropped in training mode.
    """

    def __init__(
        self,
        norms: tuple[nn.Module, nn.Module, nn.Module],
        self_attention: nn.Module,
        span: nn.Module,
        cross_attention: nn.Module,
        feed_forward: nn.Module,
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = norms
        self.self_attention, self.span, self.cross_attention = self_attention, span, cross_attention
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        """Compute the stream behind this layer; with a cache, that of one token more."""
        x_BTD = x_BTD + self.dropout(self.self_attention(self.norm1(x_BTD), cache=cache))
        read, mask_BK = self.span(memory)
        x_BTD = x_BTD + self.dropout(self.cross_attention(self.norm2(x_BTD), read, mask_BK, cache))
        y: Tensor = x_BTD + self.dropout(self.feed_forward(self.norm3(x_BTD)))
        return y


class Memory(NamedTuple):
    """What an encoder leaves for a decoder.

    Attributes:
        outputs: Outputs of its last layers, each `[batch, tokens, width]`, the last one last.
        mask: True at real tokens, `[batch, tokens]`.
    """

    outputs: tuple[Tensor, ...]
    mask: Tensor

    def select(self, rows: Tensor) -> Memory:
        """Return the memory of some samples, `rows` being their indices; an index may come repeatedly."""
        return Memory(tuple(output[rows] for output in self.outputs), self.mask[rows])

    def last(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the last outputs joined along the tokens, and their mask, `[batch, all tokens, ...]`."""
        if count == 1:
            return self.outputs[-1], self.mask
        return torch.cat(self.outputs[-count:], dim=1), torch.cat([self.mask] * count, dim=1)


class Span(nn.Module):
    """Reads the last few outputs of an encoder as one long sequence (arXiv 2005.14187, section 2).

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return sequence and mask."""
        return memory.last(self.count)


class TextClassifier(nn.Module):
    """From token ids to one score per class, by the mean over the real tokens.

    Args:
        embedding: From ids to the stream.
        layers: Reads the stream and the mask.
        norm: Normalisation behind the last layer.
        head: From the mean `[batch, width]` to the scores.
    """

    def __init__(self, embedding: nn.Module, layers: nn.Module, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.embedding, self.layers, self.norm, self.head = embedding, layers, norm, head

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Compute `[batch, classes]` from ids `[batch, tokens]` that are filled up with `PADDING`."""
        mask_BT = tokens_BT != PADDING
        x_BTD = self.norm(self.layers(self.embedding(tokens_BT), mask_BT))
        share_BT1 = mask_BT[..., None].to(x_BTD.dtype)
        mean_BD = (x_BTD * share_BT1).sum(1) / share_BT1.sum(1).clamp(min=1.0)
        y: Tensor = self.head(mean_BD)
        return y


class Translator(nn.Module):
    """An encoder-decoder transformer.

    Args:
        source: From ids of the source to the encoder's stream.
        encoder: Its layers.
        encoder_norm: Normalisation of every output of the encoder that is read.
        target: From ids of the target to the decoder's stream.
        decoder: Reads the stream and a `Memory`.
        decoder_norm: Normalisation behind its last layer.
        output: From the stream to one score per token of the target's vocabulary.
        num_outputs: Number of last layers of the encoder that can be read.
    """

    def __init__(
        self,
        *,
        source: nn.Module,
        encoder: Iterable[nn.Module],
        encoder_norm: nn.Module,
        target: nn.Module,
        decoder: nn.Module,
        decoder_norm: nn.Module,
        output: nn.Module,
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.source, self.encoder, self.encoder_norm = source, nn.ModuleList(encoder), encoder_norm
        self.target, self.decoder, self.decoder_norm = target, decoder, decoder_norm
        self.output, self.num_outputs = output, num_outputs

    def encode(self, source_BT: Tensor) -> Memory:
        """Read a source, ids `[batch, tokens]` that are filled up with `PADDING`."""
        mask_BT = source_BT != PADDING
        x_BTD = self.source(source_BT)
        outputs: list[Tensor] = []
        for layer in self.encoder:
            x_BTD = layer(x_BTD, mask_BT)
            outputs.append(x_BTD)
        return Memory(tuple(self.encoder_norm(x) for x in outputs[-self.num_outputs :]), mask_BT)

    def decode(self, target_BT: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        """Return the decoder's stream behind what is written so far.

        Args:
            target_BT: Ids `[batch, tokens]`; with a cache only the last token, `[batch, 1]`.
            memory: What the source was read as.
            cache: Holds what was computed of the tokens before; grows by this one.

        Returns:
            `[batch, tokens, width]`.
        """
        if cache is None:
            y: Tensor = self.decoder_norm(self.decoder(self.target(target_BT), memory))
            return y
        y = self.decoder_norm(self.decoder(self.target(target_BT, cache.length), memory, cache))
        cache.length += target_BT.shape[1]
        return y

    def forward(self, source_BT: Tensor, target_BT: Tensor) -> Tensor:
        """Compute the scores of the token behind each of the target, `[batch, tokens, vocabulary]`."""
        y: Tensor = self.output(self.decode(target_BT, self.encode(source_BT)))
        return y


def pad(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return sequences of ids as one tensor `[batch, longest]`, filled up with `PADDING`."""
    longest = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*sequence, *[PADDING] * (longest - len(sequence))] for sequence in sequences])
