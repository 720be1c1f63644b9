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
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Way = Literal["local", "rounded", "grouped", "batched", "whole"]
Activation = Callable[[Tensor], Tensor]
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`F.linear` or another that computes the same of inputs, weight and bias."""
_ROUNDS = 3  # timings of each way, of which the least counts
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
        rows = (self.tokens.shape[1], self.expert_width)
        known = self.tokens.dtype in (torch.float32, torch.bfloat16, torch.float16)
        return known and not any(row * self.tokens.element_size() % _ALIGNMENT for row in rows)

    def can_round(self) -> bool:
        """Tell whether oneDNN may compute."""
        dtype, ops = self.tokens.dtype, torch.ops.mkldnn
        known = self.tokens.is_cpu and torch.backends.mkldnn.is_available() and not torch.is_grad_enabled()
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

    def by_expert(self) -> tuple[Tensor, Tensor]:
        """Return the places of all pairs, sorted by expert, and how many each expert has."""
        use_P = self.use.reshape(-1)
        small = use_P.to(torch.uint8 if self.num_experts <= 256 else torch.int32)  # sorted faster than int64
        if small.is_cpu:  # numpy sorts bytes by counting
            order_P = torch.from_numpy(np.argsort(small.numpy(), kind="stable"))
        else:
            order_P = small.argsort(stable=True)
        return order_P, torch.bincount(use_P, minlength=self.num_experts)

    def sums(self, results: Tensor, order_P: Tensor, rows_P: Tensor | None = None) -> Tensor:
        """Return for each token the sum of what its experts gave, by their shares, and the rest.

        Args:
            results: What experts gave, `[rows, width]`.
            order_P: Places of the pairs, sorted by expert.
            rows_P: Their rows in that order; None for one after the other.
        """
        rows_P = torch.arange(len(order_P), device=order_P.device) if rows_P is None else rows_P
        rows_TK = torch.empty_like(order_P).index_copy_(0, order_P, rows_P).view(self.use.shape)
        y_TD = F.embedding_bag(rows_TK, results, mode="sum", per_sample_weights=self.share)
        rest = self.rest()
        return y_TD if rest is None else y_TD.add_(rest)

    def tokens_of(self, order_P: Tensor) -> Tensor:
        """Return the tokens of pairs."""
        return order_P.div(self.use.shape[1], rounding_mode="floor")

    def gather(self, tokens_P: Tensor) -> Tensor:
        """Return rows of tokens."""
        if torch.is_grad_enabled():
            return self.tokens.index_select(0, tokens_P)
        return F.embedding(tokens_P, _wide(self.tokens)).view(self.tokens.dtype)


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

    possible = {"grouped": work.can_group(), "rounded": work.can_round()}
    ways = [way for way in _WAYS if possible.get(way, True)]
    for way in ways:
        seconds(way)
    # as in use, no two rounds have equally many tokens for an expert
    few = -(-len(work.tokens) // 512)
    left_out = [min(number * few, len(work.tokens) - 1) for number in range(1, _ROUNDS + 1)]
    rounds = [{way: seconds(way, number) for way in ways} for number in left_out]
    return min(ways, key=lambda way: min(times[way] for times in rounds))


def _local(work: _Work) -> Tensor:
    width, y_TD = work.expert_width, work.start()
    order_P, counts_E = work.by_expert()
    share_P1 = None if work.share is None else work.share.reshape(-1, 1).index_select(0, order_P)
    tokens_P = work.tokens_of(order_P)
    ends = counts_E.cumsum(0).tolist()
    for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if start < end:
            tokens = tokens_P[start:end]
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
    return x.view(torch.float64) if x.is_cpu and x.is_contiguous() and even else x


def _rounded(work: _Work) -> Tensor:
    order_P, counts_E = work.by_expert()
    tokens_P, counts = work.tokens_of(order_P), counts_E.tolist()
    experts = _apart(work)
    wide = _wide(work.tokens)
    buffer = wide.new_zeros(_more(max(counts)), wide.shape[1])
    results_PD = work.tokens.new_empty(len(order_P), len(work.matrices.values))
    end = 0
    for own, count in zip(experts, counts, strict=True):
        start, end = end, end + count
        if count:
            torch.index_select(wide, 0, tokens_P[start:end], out=buffer[:count])
            rows = buffer[: _more(count)].view(work.tokens.dtype)
            hidden = own.hidden(rows, work.activation, _onednn)
            results_PD[start:end] = _onednn(hidden, own.values)[:count]
    return work.sums(results_PD, order_P)


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
    sizes = (work.num_experts, work.expert_width)
    order_P, counts_E = work.by_expert()
    ends_E = counts_E.cumsum(0).to(torch.int32)
    own = work.matrices.neurons(0, work.num_experts * work.expert_width)

    def first(x_PD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y_PU = F.grouped_mm(x_PD, weight.unflatten(0, sizes).transpose(1, 2), offs=ends_E)
        return y_PU if bias is None else y_PU.add_(bias.view(sizes).repeat_interleave(counts_E, 0))

    hidden_PU = own.hidden(work.gather(work.tokens_of(order_P)), work.activation, first)
    values_EUD = own.values.unflatten(1, sizes).permute(1, 2, 0)
    result_PD = F.grouped_mm(hidden_PU, values_EUD, offs=ends_E)
    return work.sums(result_PD, order_P)


def _batched(work: _Work) -> Tensor:
    sizes = (work.num_experts, work.expert_width)
    order_P, counts_E = work.by_expert()
    most = _more(int(counts_E.max()), 32)
    if work.num_experts * most > 1.25 * len(order_P):
        return _grouped(work) if work.can_group() else _local(work)
    firsts_E = most * torch.arange(work.num_experts, device=order_P.device)
    less_E = firsts_E + counts_E - counts_E.cumsum(0)  # from places of pairs to rows
    rows_P = torch.arange(len(order_P), device=order_P.device) + less_E.repeat_interleave(counts_E)
    tokens_R = rows_P.new_zeros(work.num_experts * most).index_copy_(0, rows_P, work.tokens_of(order_P))
    own = work.matrices.neurons(0, work.num_experts * work.expert_width)

    def first(x_ERD: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight_EDU = weight.unflatten(0, sizes).transpose(1, 2)
        if bias is None:
            return torch.bmm(x_ERD, weight_EDU)
        return torch.baddbmm(bias.view(sizes)[:, None], x_ERD, weight_EDU)

    gathered_ERD = work.gather(tokens_R).unflatten(0, (work.num_experts, most))
    hidden_ERU = own.hidden(gathered_ERD, work.activation, first)
    result_ERD = torch.bmm(hidden_ERU, own.values.unflatten(1, sizes).permute(1, 2, 0))
    return work.sums(result_ERD.flatten(0, 1), order_P, rows_P)


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
