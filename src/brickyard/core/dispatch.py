"""Computes for each token the experts that it uses, and no others: for inference.

Tokens are sorted by expert; each expert then computes its tokens by one product with each of its matrices.
There are five ways, which give the same result up to rounding:

- `local`: expert after expert; tokens are gathered and results added for one expert at a time, so that what
  is worked on stays in the cache;
- `rounded`: expert after expert by oneDNN, on a processor and without gradients. Its float32 products are
  twice as fast as those of `F.linear` on an AMD EPYC. It compiles a kernel for each new number of rows, which
  takes as long as a product; so rows are added until their number is one of few;
- `grouped`: all tokens are gathered at once for torch's grouped products;
- `batched`: the same for batched products, which threads share best: each expert gets as many rows as the one
  with most tokens. Where that adds more than a quarter, as `grouped` or `local`;
- `whole`: all experts for all tokens, and what is not used is multiplied by 0: the fastest where experts are
  so narrow that products of single experts lose more than they save.

Which is fastest depends on shapes, numbers, threads and machine. It is measured at the first call of a kind
and kept for the process.

Shape suffixes: T tokens, D width of the stream, E experts, U neurons of an expert, K experts of a token,
P pairs of token and expert.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import accumulate, repeat
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Way = Literal["local", "rounded", "grouped", "batched", "whole"]
Activation = Callable[[Tensor], Tensor]
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`F.linear` or another that computes the same of inputs, weight and bias."""
_ROUNDS = 5  # timings of each way, of which the least counts
_ALIGNMENT = 16  # bytes that the rows of grouped products must be multiples of
_fastest: dict[tuple[Any, ...], Way] = {}


class Matrices(NamedTuple):
    """The matrices of a feed-forward network, whatever layout their layers keep them in.

    Attributes:
        keys: First matrix `[neurons, width]`; in a gated network the one whose result is activated.
        key_bias: Its bias `[neurons]`.
        values: Second matrix `[width, neurons]`.
        value_bias: Its bias `[width]`.
        gated: Matrix `[neurons, width]` whose result is multiplied with the activated one, if there is one.
        gated_bias: Its bias `[neurons]`.
    """

    keys: Tensor
    key_bias: Tensor | None
    values: Tensor
    value_bias: Tensor | None
    gated: Tensor | None = None
    gated_bias: Tensor | None = None

    def neurons(self, start: int, stop: int) -> Matrices:
        """Return the part of some neurons, without the bias of the second matrix."""
        rows = slice(start, stop)
        return Matrices(
            self.keys[rows],
            None if self.key_bias is None else self.key_bias[rows],
            self.values[:, rows],
            None,
            None if self.gated is None else self.gated[rows],
            None if self.gated_bias is None else self.gated_bias[rows],
        )

    def hidden(self, x: Tensor, activation: Activation, product: Product = F.linear) -> Tensor:
        """Compute the activations `[..., neurons]` of tokens `[..., width]`."""
        hidden = activation(product(x, self.keys, self.key_bias))
        return hidden if self.gated is None else hidden * product(x, self.gated, self.gated_bias)


class _Rows(NamedTuple):
    """Rows that experts compute, a pair of token and expert each, expert after expert.

    Attributes:
        tokens: Token of each row `[rows]`; the first one in rows that belong to no pair.
        of_tokens: Rows of each token `[tokens, used + 1]`, and behind them the number of all rows.
    """

    tokens: Tensor
    of_tokens: Tensor


class _Work(NamedTuple):
    """What is to be computed, as `dispatch` takes it."""

    tokens: Tensor
    use: Tensor
    matrices: Matrices
    activation: Activation
    num_experts: int
    expert_width: int
    share: Tensor | None

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the fastest way depends on; numbers of tokens count alike between powers of two."""
        tokens, matrices = self.tokens, self.matrices
        sizes = (*matrices.keys.shape, self.use.shape[1], self.num_experts, self.expert_width)
        layout = (matrices.gated is None, matrices.keys.is_contiguous(), self.share is None)
        return (
            len(tokens).bit_length(),
            *sizes,
            *layout,
            tokens.dtype,
            tokens.device,
            torch.get_num_threads(),
            torch.is_grad_enabled(),
        )

    def can_group(self) -> bool:
        """Tell whether torch's grouped products take these numbers and sizes."""
        keys, _, values, _, gated, _ = self.matrices
        strides = [max(part.stride()) for part in (keys, values, gated) if part is not None]
        steps = (self.tokens.shape[1], self.expert_width, *strides)
        known = self.tokens.dtype in (torch.float32, torch.bfloat16, torch.float16)
        return known and not any(step * self.tokens.element_size() % _ALIGNMENT for step in steps)

    def can_round(self) -> bool:
        """Tell whether oneDNN may compute."""
        dtype, ops = self.tokens.dtype, torch.ops.mkldnn
        known = self.tokens.is_cpu and torch.backends.mkldnn.is_available()
        if not known or not hasattr(ops, "_linear_pointwise"):
            return False
        if dtype == torch.bfloat16:
            return bool(ops._is_mkldnn_bf16_supported())
        return dtype == torch.float32

    def rest(self) -> Tensor | None:
        """Return what no choice changes, `[width]` or `[tokens, width]`.

        That is the bias, and what the neurons behind the experts give; None if there is neither.
        """
        matrices, experts = self.matrices, self.num_experts * self.expert_width
        if experts == len(matrices.keys):
            return matrices.value_bias
        always = matrices.neurons(experts, len(matrices.keys))
        return F.linear(always.hidden(self.tokens, self.activation), always.values, matrices.value_bias)

    def start(self) -> Tensor:
        """Return the same for each token `[tokens, width]`, to add to."""
        rest = self.rest()
        if rest is None:
            return self.tokens.new_zeros(len(self.tokens), len(self.matrices.values))
        return rest.repeat(len(self.tokens), 1) if rest.dim() == 1 else rest

    def counts(self) -> list[int]:
        """Return how many pairs each expert has."""
        counts: list[int] = torch.bincount(self.use.reshape(-1), minlength=self.num_experts).tolist()
        return counts

    def rows(self, counts: list[int], most: int | None = None) -> _Rows:
        """Sort the pairs of token and expert by expert.

        Args:
            counts: How many each expert has.
            most: Rows of each expert; None for as many as it has pairs.
        """
        number = self.use.numel() if most is None else most * self.num_experts
        starts = accumulate([0, *counts[:-1]])
        firsts = [start if most is None else most * expert for expert, start in enumerate(starts)]
        small_TK = self.use.to(torch.uint8 if self.num_experts <= 256 else torch.int32)  # quicker to sort
        return (_rows_by_numpy if small_TK.is_cpu else _rows_by_torch)(small_TK, counts, firsts, number)

    def sums(self, results: Tensor, rows: _Rows, *, free: bool = False) -> Tensor:
        """Return for each token the sum of what its experts gave, by their shares, and the rest.

        Args:
            results: What experts gave, `[rows, width]`.
            rows: The rows that they are of.
            free: Whether there is one row more, which may be written to.
        """
        rest, share, of_tokens = self.rest(), self.share, rows.of_tokens
        if free and rest is not None and rest.dim() == 1:  # as one expert more, which saves a pass
            results[-1] = rest
            share, rest = None if share is None else F.pad(share, (0, 1), value=1), None
        else:
            of_tokens = of_tokens[:, :-1]
        y_TD = F.embedding_bag(of_tokens, results, mode="sum", per_sample_weights=share)
        return y_TD if rest is None else y_TD.add_(rest)

    def gather(self, tokens_P: Tensor) -> Tensor:
        """Return rows of tokens."""
        if torch.is_grad_enabled():
            return self.tokens.index_select(0, tokens_P)
        return _wide(self.tokens).index_select(0, tokens_P).view(self.tokens.dtype)


def _rows_by_numpy(use_TK: Tensor, counts: list[int], firsts: list[int], number: int) -> _Rows:
    """Lay out rows on a processor, where it takes less than half as long as by torch.

    Args:
        use_TK: Experts of each token.
        counts: Pairs of each expert.
        firsts: The first row of each.
        number: Number of rows.
    """
    tokens, used = use_TK.shape
    place_P = np.argsort(use_TK.numpy().reshape(-1), kind="stable")  # sorts bytes by counting
    token_P = (place_P // used).astype(np.int32)
    place_P += token_P  # each token has one place more
    token_R, row_R = np.zeros(number, np.int32), np.arange(number, dtype=np.int32)
    rows = np.full(tokens * (used + 1), number, np.int32)
    end = 0
    for first, count in zip(firsts, counts, strict=True):
        start, end, behind = end, end + count, first + count
        token_R[first:behind] = token_P[start:end]
        rows[place_P[start:end]] = row_R[first:behind]
    return _Rows(torch.from_numpy(token_R), torch.from_numpy(rows.reshape(tokens, used + 1)))


def _rows_by_torch(use_TK: Tensor, counts: list[int], firsts: list[int], number: int) -> _Rows:
    """Do the same on any device."""
    (tokens, used), pairs, device = use_TK.shape, use_TK.numel(), use_TK.device
    order_P = use_TK.reshape(-1).argsort(stable=True)
    token_P = order_P // used
    first_E, count_E = torch.tensor([firsts, counts], device=device)
    moved_E = first_E + count_E - count_E.cumsum(0)
    row_P = torch.arange(pairs, device=device) + moved_E.repeat_interleave(count_E, output_size=pairs)
    token_R = order_P.new_zeros(number).index_copy_(0, row_P, token_P)
    rows_TK = order_P.new_full((tokens, used + 1), number)
    rows_TK.view(-1).index_copy_(0, order_P + token_P, row_P)
    return _Rows(token_R, rows_TK)


def dispatch(
    x_TD: Tensor,
    use_TK: Tensor,
    matrices: Matrices,
    activation: Activation,
    *,
    num_experts: int,
    expert_width: int,
    share_TK: Tensor | None = None,
    way: Way | None = None,
) -> Tensor:
    """Compute a feed-forward network with the experts that each token uses.

    Args:
        x_TD: Tokens.
        use_TK: Different experts of each token, as indices.
        matrices: The network: experts one after the other, then neurons that all tokens use.
        activation: Applied to each pre-activation by itself.
        num_experts: Number of experts.
        expert_width: Neurons of each.
        share_TK: What the result of each expert is multiplied by; None for 1.
        way: How to compute; None for the fastest, which the first call of a kind measures.

    Returns:
        `[tokens, width]`.
    """
    work = _Work(x_TD, use_TK, matrices, activation, num_experts, expert_width, share_TK)
    if way is None:
        kind = work.kind
        if kind not in _fastest:
            _fastest[kind] = _measure(work)
        way = _fastest[kind]
    return _WAYS[way](work)


def _measure(work: _Work) -> Way:
    """Return the way that takes least time."""

    def seconds(way: Way, left_out: int = 0) -> float:
        part = work._replace(
            tokens=work.tokens[left_out:],
            use=work.use[left_out:],
            share=None if work.share is None else work.share[left_out:],
        )
        start = time.perf_counter()
        _WAYS[way](part)
        if work.tokens.is_cuda:
            torch.cuda.synchronize(work.tokens.device)
        return time.perf_counter() - start

    plain = not torch.is_grad_enabled()
    possible = {"grouped": work.can_group(), "rounded": plain and work.can_round(), "batched": plain}
    ways = [way for way in _WAYS if possible.get(way, True)]
    for way in ways:
        seconds(way)
    # as in use, no two rounds have equally many tokens for an expert
    few = -(-len(work.tokens) // 512)
    left_out = [min(number * few, len(work.tokens) - 1) for number in range(1, _ROUNDS + 1)]
    rounds = [{way: seconds(way, number) for way in ways} for number in left_out]
    return min(ways, key=lambda way: min(times[way] for times in rounds))


def _local(work: _Work) -> Tensor:
    width, y_TD, counts = work.expert_width, work.start(), work.counts()
    rows, share_P1 = work.rows(counts), None
    if work.share is not None:
        share = work.share.reshape(-1, 1)
        share_P1 = torch.zeros_like(share).index_copy(0, rows.of_tokens[:, :-1].reshape(-1).long(), share)
    end = 0
    for expert, count in enumerate(counts):
        start, end = end, end + count
        if count:
            tokens = rows.tokens[start:end]
            own = work.matrices.neurons(expert * width, (expert + 1) * width)
            hidden = own.hidden(work.gather(tokens), work.activation)
            hidden = hidden if share_P1 is None else hidden * share_P1[start:end]
            y_TD.index_add_(0, tokens, F.linear(hidden, own.values))
    return y_TD


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a linear layer by oneDNN."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _more(rows: int, many: int = 16) -> int:
    """Return the next number of which there are few: so many in each power of two, a power of two itself."""
    step = 1 << max(0, rows.bit_length() - many.bit_length())
    return -(-rows // step) * step


def _wide(x: Tensor) -> Tensor:
    """View rows as few wide numbers, which a processor copies faster than many narrow ones."""
    bytes_before, bytes_of_row = (number * x.element_size() for number in (x.storage_offset(), x.shape[-1]))
    even = bytes_before % 8 == 0 and bytes_of_row % 8 == 0
    close = x.stride() == (x.shape[1], 1)  # also where there is one row alone
    return x.view(torch.float64) if x.is_cpu and close and even else x


def _rounded(work: _Work) -> Tensor:
    counts, experts = work.counts(), _apart(work)
    rows, wide = work.rows(counts), _wide(work.tokens)
    buffer = wide.new_zeros(_more(max(counts)), wide.shape[1])
    results_PD = work.tokens.new_empty(len(rows.tokens) + 1, len(work.matrices.values))
    end = 0
    for own, count in zip(experts, counts, strict=True):
        start, end = end, end + count
        if count:
            torch.index_select(wide, 0, rows.tokens[start:end], out=buffer[:count])
            few = buffer[: _more(count)].view(work.tokens.dtype)
            results_PD[start:end] = _onednn(own.hidden(few, work.activation, _onednn), own.values)[:count]
    return work.sums(results_PD, rows, free=True)


def _apart(work: _Work) -> list[Matrices]:
    """Return the matrices of each expert, contiguous: oneDNN has no fast kernel for rows that lie apart."""
    number, width = work.num_experts, work.expert_width
    own = work.matrices.neurons(0, number * width)
    values = own.values.unflatten(1, (number, width)).transpose(0, 1).contiguous()

    def parts(whole: Tensor | None) -> Iterable[Tensor | None]:
        return repeat(None, number) if whole is None else whole.contiguous().split(width)

    firsts, gated = (parts(own.keys), parts(own.key_bias)), (parts(own.gated), parts(own.gated_bias))
    return list(map(Matrices, *firsts, values, repeat(None), *gated))


def _grouped(work: _Work) -> Tensor:
    sizes, counts = (work.num_experts, work.expert_width), work.counts()
    rows, counts_E = work.rows(counts), work.use.new_tensor(counts)
    ends_E = counts_E.cumsum(0).to(torch.int32)
    own = work.matrices.neurons(0, work.num_experts * work.expert_width)

    def first(x_PD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y_PU = F.grouped_mm(x_PD, weight.unflatten(0, sizes).transpose(1, 2), offs=ends_E)
        return y_PU if bias is None else y_PU.add_(bias.view(sizes).repeat_interleave(counts_E, 0))

    hidden_PU = own.hidden(work.gather(rows.tokens), work.activation, first)
    values_EUD = own.values.unflatten(1, sizes).permute(1, 2, 0)
    return work.sums(F.grouped_mm(hidden_PU, values_EUD, offs=ends_E), rows)


def _batched(work: _Work) -> Tensor:
    sizes, counts = (work.num_experts, work.expert_width), work.counts()
    most = _more(max(counts), 64)
    if work.num_experts * most > 1.25 * work.use.numel():
        return _grouped(work) if work.can_group() else _local(work)
    rows, wide = work.rows(counts, most), _wide(work.tokens)
    own = work.matrices.neurons(0, work.num_experts * work.expert_width)

    def first(x_ERD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight_EDU = weight.unflatten(0, sizes).transpose(1, 2)
        if bias is None:
            return torch.bmm(x_ERD, weight_EDU)
        return torch.baddbmm(bias.view(sizes)[:, None], x_ERD, weight_EDU)

    buffer = wide.new_empty(len(rows.tokens) + 1, wide.shape[1])
    torch.index_select(wide, 0, rows.tokens, out=buffer[:-1])
    results_RD = buffer.view(work.tokens.dtype)
    x_ERD = results_RD[:-1].unflatten(0, (work.num_experts, most))
    hidden_ERU = own.hidden(x_ERD, work.activation, first)
    torch.bmm(hidden_ERU, own.values.unflatten(1, sizes).permute(1, 2, 0), out=x_ERD)  # not needed any more
    return work.sums(results_RD, rows, free=True)


def _whole(work: _Work) -> Tensor:
    used_TE = work.tokens.new_zeros(len(work.tokens), work.num_experts)
    share_TK = torch.ones_like(work.use, dtype=used_TE.dtype) if work.share is None else work.share
    used_TE.scatter_(1, work.use, share_TK)
    return masked(work.tokens, used_TE, work.matrices, work.activation, work.expert_width)


def masked(
    x: Tensor,
    factor: Tensor,
    matrices: Matrices,
    activation: Activation,
    expert_width: int,
    *,
    dropout: Activation | None = None,
) -> Tensor:
    """Compute all neurons, and multiply those of each expert by a factor.

    Args:
        x: Tokens `[..., width]`.
        factor: Factors `[..., experts]`.
        matrices: The network: experts one after the other, then neurons that have no factor.
        activation: Applied to each pre-activation by itself.
        expert_width: Neurons of an expert.
        dropout: Applied in front of the second matrix.

    Returns:
        `[..., width]`.
    """
    hidden = matrices.hidden(x, activation)
    num_experts = factor.shape[-1]
    experts = num_experts * expert_width
    scaled = (hidden[..., :experts].unflatten(-1, (num_experts, expert_width)) * factor[..., None]).flatten(
        -2
    )
    if experts < hidden.shape[-1]:
        scaled = torch.cat([scaled, hidden[..., experts:]], -1)
    scaled = scaled if dropout is None else dropout(scaled)
    return F.linear(scaled, matrices.values, matrices.value_bias)


_WAYS: dict[Way, Callable[[_Work], Tensor]] = {
    "local": _local,
    "rounded": _rounded,
    "grouped": _grouped,
    "batched": _batched,
    "whole": _whole,
}
