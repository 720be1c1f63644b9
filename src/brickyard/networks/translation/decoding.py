"""How a translator writes: the best token at every step, or the best few sentences side by side.

Keys and values of what is written are kept, so a step reads one token.

Shape suffixes: B sources, N beams, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from brickyard.core.errors import ConfigError
from brickyard.core.network import Network
from brickyard.core.sequence import PADDING, Cache, Memory, Translator

START, END = 1, 2
"""Ids of the tokens before the first word of a target and behind its last, unless others are given."""


def _translator(model: nn.Module) -> Translator:
    root = model.root if isinstance(model, Network) else model
    if not isinstance(root, Translator):
        raise ConfigError(
            f"decoding needs a translation network, or what is extracted of one; got a {type(root).__name__}",
            path="model",
        )
    return root


def _next_scores(translator: Translator, token_B: Tensor, memory: Memory, cache: Cache) -> Tensor:
    """Return the log probability of every token but padding behind another, `[batch, vocabulary]`."""
    scores_BV: Tensor = translator.output(translator.decode(token_B[:, None], memory, cache)[:, -1])
    scores_BV[:, PADDING] = -torch.inf
    return scores_BV.log_softmax(-1)


@torch.no_grad()
def greedy_decode(
    model: nn.Module, source_BT: Tensor, *, max_tokens: int, start: int = START, end: int = END
) -> Tensor:
    """Write the likeliest next token at every step.

    Args:
        model: A translation network (its active subnet writes) or what is extracted of one, in evaluation
            mode; left as it is.
        source_BT: Ids of the sources, `[batch, tokens]`, filled up with padding.
        max_tokens: Most tokens to write, the end among them.
        start: Id before the first token.
        end: Id behind the last token.

    Returns:
        Ids `[batch, tokens]` without the start, filled up with padding behind the end.

    Raises:
        ConfigError: The model does not translate, or cannot write that many tokens.
    """
    translator = _translator(model)
    memory = translator.encode(source_BT)
    written_BT = source_BT.new_full((len(source_BT), 1), start)
    open_B = torch.arange(len(source_BT), device=source_BT.device)  # the sentences that have not ended
    cache = Cache()
    for _ in range(max_tokens):
        token_B = written_BT.new_full((len(written_BT),), PADDING)
        token_B[open_B] = _next_scores(translator, written_BT[open_B, -1], memory, cache).argmax(-1)
        written_BT = torch.cat([written_BT, token_B[:, None]], dim=1)
        (stay_B,) = torch.where(token_B[open_B] != end)
        if not len(stay_B):
            break
        if len(stay_B) < len(open_B):
            open_B, memory = open_B[stay_B], memory.select(stay_B)
            cache.select(stay_B)
    return written_BT[:, 1:]


class _Beams(NamedTuple):
    """The sentences that are kept.

    Attributes:
        written: Ids, `[B, N, T]`.
        scores: Summed scores, `[B, N]`.
        ended: Whether each has ended, `[B, N]`.
        before: Which one of the step before each continues, `[B, N]`.
    """

    written: Tensor
    scores: Tensor
    ended: Tensor
    before: Tensor

    def step(self, next_BNV: Tensor, end: int) -> _Beams:
        """Keep the best continuations; `next_BNV` holds the scores of the tokens that may follow."""
        batch, beams, vocabulary = next_BNV.shape
        stay_V = next_BNV.new_full((vocabulary,), -torch.inf)
        stay_V[PADDING] = 0.0
        total_BNV = self.scores[..., None] + torch.where(self.ended[..., None], stay_V, next_BNV)
        scores_BN, place_BN = total_BNV.reshape(batch, -1).topk(beams)
        beam_BN, token_BN = place_BN // vocabulary, place_BN % vocabulary
        before_BNT = self.written.gather(1, beam_BN[..., None].expand(-1, -1, self.written.shape[-1]))
        written_BNT = torch.cat([before_BNT, token_BN[..., None]], dim=-1)
        ended_BN = self.ended.gather(1, beam_BN) | (token_BN == end)
        return _Beams(written_BNT, scores_BN, ended_BN, beam_BN)

    def best(self, length_penalty: float) -> Tensor:
        """Return the best sentence of each source without its start, `[B, T]`."""
        lengths_BN = (self.written[..., 1:] != PADDING).sum(-1)
        ranked_BN = self.scores / lengths_BN**length_penalty
        row_B = ranked_BN.argmax(-1)
        return self.written[torch.arange(len(row_B), device=row_B.device), row_B, 1:]


@torch.no_grad()
def beam_decode(
    model: nn.Module,
    source_BT: Tensor,
    *,
    max_tokens: int,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    start: int = START,
    end: int = END,
) -> Tensor:
    """Write the best of several sentences that are kept side by side.

    A sentence that has ended keeps its place among the beams; the best one is that with the highest sum of
    logarithmic probabilities divided by its length to the power `length_penalty`.

    Args:
        model: A translation network (its active subnet writes) or what is extracted of one, in evaluation
            mode; left as it is.
        source_BT: Ids of the sources, `[batch, tokens]`, filled up with padding.
        max_tokens: Most tokens to write, the end among them.
        num_beams: Number of sentences kept for each source; 1 is greedy decoding.
        length_penalty: Power of the length, 0 for the likeliest sentence.
        start: Id before the first token.
        end: Id behind the last token.

    Returns:
        Ids `[batch, tokens]` without the start, filled up with padding behind the end.

    Raises:
        ConfigError: The model does not translate, or cannot write that many tokens.
    """
    translator, batch = _translator(model), len(source_BT)
    memory = translator.encode(source_BT)
    # Beams of a source lie beside each other; all of them read the same memory, whatever they continue.
    memory = memory.select(torch.arange(batch, device=source_BT.device).repeat_interleave(num_beams))
    scores_BN = torch.full((batch, num_beams), -torch.inf, device=source_BT.device)
    scores_BN[:, 0] = 0.0  # all beams start alike, so only one may be continued
    beams = _Beams(
        source_BT.new_full((batch, num_beams, 1), start),
        scores_BN,
        torch.zeros_like(scores_BN, dtype=torch.bool),
        torch.zeros_like(scores_BN, dtype=torch.long),
    )
    first_B1 = num_beams * torch.arange(batch, device=source_BT.device)[:, None]
    cache = Cache()
    for _ in range(max_tokens):
        next_BNV = _next_scores(translator, beams.written[..., -1].flatten(), memory, cache)
        beams = beams.step(next_BNV.unflatten(0, (batch, num_beams)), end)
        if bool(beams.ended.all()):
            break
        cache.select((first_B1 + beams.before).flatten())
    return beams.best(length_penalty)
