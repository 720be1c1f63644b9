"""A feed-forward network whose neurons form experts, of which each token uses some. Plain torch.

A neuron is a row of the first matrix (its key) with the column of the second matrix that reads it (its
value). Experts are equal runs of neurons, one after the other; neurons behind them belong to no expert and
are always used. Which experts a token uses is decided by the mean of their keys times the token: that is the
mean of their pre-activations without the bias (avg-k gating of EMoE, arXiv 2310.10908, section 3). Experts
that are used count in full, so no gradient goes through the decision. A learned gate, that paper's ablation,
multiplies their results by its probabilities instead, which sum to 1 over the experts that a token uses.

Shape suffixes: B batch, D width of the stream, F neurons, E experts, K experts of a token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from brickyard.core.dispatch import Activation, Matrices, dispatch, masked

Mode = Literal["dense", "masked", "sparse"]
MODES: tuple[Mode, ...] = ("dense", "masked", "sparse")
Gate = Literal["keys", "lowest", "learned"]
GATES: tuple[Gate, ...] = ("keys", "lowest", "learned")
_kept: Any = WeakIdKeyDictionary()  # by weight, how it was, its first keys and the mean keys


@dataclass(frozen=True)
class Routing:
    """How tokens use experts.

    Attributes:
        num_experts: Experts there are.
        expert_width: Neurons of an expert.
        top_k: Experts that a token uses; all where there are fewer.
        mode: `dense` uses all experts. `masked` computes all and keeps the results of those that are used.
            `sparse` computes those alone; it is `masked` where gradients are recorded, under autocast, while
            dropout is on, and in traced or compiled programs.
        gate: How a token chooses: `keys`, the experts whose mean key agrees with it most; `lowest`, those
            that agree least, a control; `learned`, by a module of its own, which multiplies results too.
    """

    num_experts: int
    expert_width: int
    top_k: int
    mode: Mode
    gate: Gate = "keys"

    @property
    def chooses(self) -> bool:
        """Whether a token leaves some experts out, or multiplies their results."""
        return self.mode != "dense" and (self.gate == "learned" or self.top_k < self.num_experts)


def expert_scores(x: Tensor, keys_FD: Tensor, *, num_experts: int, expert_width: int) -> Tensor:
    """Score the experts for each token.

    Args:
        x: Tokens `[..., width]`.
        keys_FD: Keys of all neurons, experts first.
        num_experts: Number of experts.
        expert_width: Neurons of each.

    Returns:
        `[..., experts]`, without gradient.
    """
    kept = type(x) is Tensor and not torch.is_grad_enabled() and not _traced()
    with torch.no_grad():
        own_EUD = keys_FD[: num_experts * expert_width].unflatten(0, (num_experts, expert_width))
        return F.linear(x, _kept_means(own_EUD) if kept else _means(own_EUD))


def _means(keys_EUD: Tensor) -> Tensor:
    return keys_EUD.sum(1) / keys_EUD.shape[1]  # torch's mean is slow in bfloat16


def _kept_means(keys_EUD: Tensor) -> Tensor:
    """Return the mean keys `[experts, width]`, from the last call if weights are what they were then.

    Changes that torch counts are noticed by their number, others (through `.data`) by the first keys.
    """
    if keys_EUD.is_inference():  # torch does not count their changes
        return _means(keys_EUD)
    weight = keys_EUD if keys_EUD._base is None else keys_EUD._base
    seen = (weight._version, keys_EUD.data_ptr(), keys_EUD.shape, keys_EUD.stride())
    first_ED = keys_EUD[:, 0]
    if weight in _kept and _kept[weight][0] == seen and torch.equal(_kept[weight][1], first_ED):
        kept: Tensor = _kept[weight][2]
        return kept
    means_ED = _means(keys_EUD)
    _kept[weight] = (seen, first_ED.clone(), means_ED)
    return means_ED


def choose(
    x: Tensor,
    keys_FD: Tensor,
    routing: Routing,
    *,
    gate: nn.Module | None = None,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose the experts of each token.

    Args:
        x: Tokens `[..., width]`.
        keys_FD: Keys of all neurons, experts first.
        routing: How tokens use experts.
        gate: Gives learned scores `[..., experts]` of tokens; for routing by `learned` alone.
        factor: Factors `[..., experts]`; experts of factor 0 are chosen last.

    Returns:
        Scores of all experts `[..., experts]`, and the numbers of the chosen ones `[..., top_k]`: of equal
        ones the first, and those whose score is no number before all others.
    """
    if routing.gate == "learned":
        assert gate is not None
        scores = gate(x)
    else:
        scores = expert_scores(x, keys_FD, num_experts=routing.num_experts, expert_width=routing.expert_width)
        scores = -scores if routing.gate == "lowest" else scores
    if factor is not None:
        scores = scores.masked_fill(factor == 0, -torch.inf)
    top_k = min(routing.top_k, routing.num_experts)
    if _traced():  # for the operator that exported programs have
        return scores, scores.topk(top_k, dim=-1, sorted=False).indices
    plain = type(scores) is Tensor and scores.is_cpu and not torch.is_grad_enabled()
    if plain and scores.element_size() <= 4:
        return scores, _largest(scores, top_k)
    return scores, scores.sort(dim=-1, descending=True, stable=True).indices[..., :top_k]


def _largest(scores: Tensor, count: int) -> Tensor:
    """Return where the largest entries of each row are, of equal ones the first; NaN is above all.

    Of many short rows numpy's sort of whole numbers takes less than half the time of torch's.

    Args:
        scores: `[..., number]`, of 16 or 32 bits each; of 16 bits at most 65,536 in a row.
        count: How many.
    """
    half = scores.element_size() == 2
    integer, key = (torch.int16, np.int32) if half else (torch.int32, np.int64)
    width, last = 16 if half else 32, scores.shape[-1] - 1
    infinity = int(torch.tensor(torch.inf, dtype=scores.dtype).view(integer))
    bits = scores.detach().view(integer).numpy()
    sign = bits >> (width - 1)  # -1 for negative floats, whose bits are ordered the other way around
    keys = np.empty(bits.shape, key)
    np.bitwise_xor(bits, sign & ((1 << (width - 1)) - 1), out=keys)
    sign -= infinity
    keys -= sign  # both zeros are equal, the least is 0; of what is no number, one sign is below, one on top
    keys <<= width  # what was below is on top, too, as numbers without sign
    keys |= np.arange(last, -1, -1, dtype=key)
    keys.view(np.uint32 if half else np.uint64).sort(axis=-1)
    largest = keys[..., last + 1 - count :] & ((1 << width) - 1)
    return torch.from_numpy(last - largest.astype(np.int64))


def feed_forward(
    x: Tensor,
    matrices: Matrices,
    activation: Activation,
    routing: Routing,
    *,
    dropout: nn.Module | None = None,
    gate: nn.Module | None = None,
    gates_BE: Tensor | None = None,
) -> Tensor:
    """Compute a feed-forward network with the experts that each token uses.

    Args:
        x: Tokens `[batch, ..., width]`.
        matrices: The network.
        activation: Applied to each pre-activation by itself.
        routing: How tokens use experts.
        dropout: Applied in front of the second matrix.
        gate: Gives learned scores `[..., experts]` of tokens; for routing by `learned` alone.
        gates_BE: For each sample a factor of each expert; those of factor 0 are chosen last.

    Returns:
        `[batch, ..., width]`.
    """
    factor = None
    if gates_BE is not None:
        factor = gates_BE.to(x.dtype).reshape(len(gates_BE), *[1] * (x.dim() - 2), -1)
    if routing.chooses:
        experts, width, share = routing.num_experts, routing.expert_width, None
        scores, use = choose(x, matrices.keys, routing, gate=gate, factor=factor)
        used_each = use.shape[-1]
        if routing.gate == "learned":
            # the same as probabilities of all, brought to a sum of 1
            share = scores.gather(-1, use).softmax(-1).to(x.dtype)
        if routing.mode == "sparse" and factor is None and not _must_be_fixed(x, dropout):
            x_TD, use_TK = x.reshape(-1, x.shape[-1]), use.reshape(-1, used_each)
            y_TD = dispatch(
                x_TD,
                use_TK,
                matrices,
                activation,
                num_experts=experts,
                expert_width=width,
                share_TK=None if share is None else share.reshape(-1, used_each),
            )
            return y_TD.reshape(*x.shape[:-1], y_TD.shape[-1])
        share = torch.ones_like(use, dtype=scores.dtype) if share is None else share
        used = torch.zeros_like(scores, dtype=share.dtype).scatter(-1, use, share)
        factor = used if factor is None else used * factor
    if factor is not None:
        return masked(x, factor, matrices, activation, routing.expert_width, dropout=dropout)
    hidden = matrices.hidden(x, activation)
    hidden = hidden if dropout is None else dropout(hidden)
    return F.linear(hidden, matrices.values, matrices.value_bias)


def _must_be_fixed(x: Tensor, dropout: nn.Module | None) -> bool:
    """Tell whether what is computed must not depend on the choice: it is recorded, cast or dropped from."""
    dropped = dropout is not None and dropout.training
    return torch.is_grad_enabled() or _traced() or dropped or torch.is_autocast_enabled(x.device.type)


def _traced() -> bool:
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return tracing or torch.compiler.is_compiling()


def matrices_of(
    keys: Mapping[str, Tensor | None],
    values: Mapping[str, Tensor | None],
    gated: Mapping[str, Tensor | None] | None,
    *,
    transposed: bool,
) -> Matrices:
    """Return the matrices of layers by their `weight` and `bias`.

    Args:
        keys: Tensors of the layer of the first matrix.
        values: Tensors of the layer of the second matrix.
        gated: Tensors of the layer whose result is multiplied with the activated one, if there is one.
        transposed: Whether weights are `[in, out]` instead of `[out, in]`.
    """

    def weight(tensors: Mapping[str, Tensor | None]) -> Tensor:
        found = tensors["weight"]
        assert found is not None
        return found.t() if transposed else found

    return Matrices(
        weight(keys),
        keys.get("bias"),
        weight(values),
        values.get("bias"),
        None if gated is None else weight(gated),
        None if gated is None else gated.get("bias"),
    )


def cosine_scores(x: Tensor, project_PD: Tensor, places_EP: Tensor, scale: Tensor) -> Tensor:
    """Score experts by the angle between a token and a place for each of them, both in a space of its own.

    Args:
        x: Tokens `[..., width]`.
        project_PD: From tokens to that space.
        places_EP: Places of the experts in it.
        scale: Logarithm of what cosines are multiplied by, at most 100.

    Returns:
        `[..., experts]`.
    """
    token = F.normalize(F.linear(x, project_PD), dim=-1)
    scores: Tensor = F.linear(token, F.normalize(places_EP, dim=-1)) * scale.clamp(max=math.log(100.0)).exp()
    return scores


class CosineGate(nn.Module):
    """A learned gate (EMoE-learn, arXiv 2310.10908; the cosine router of arXiv 2206.03382).

    Args:
        project: From tokens to the space of the gate, `[gate width, width]`.
        places: Places of the experts, `[experts, gate width]`.
        scale: Logarithm of what cosines are multiplied by.
    """

    def __init__(self, project: nn.Parameter, places: nn.Parameter, scale: nn.Parameter) -> None:
        super().__init__()
        self.project, self.places, self.scale = project, places, scale

    def forward(self, x: Tensor) -> Tensor:
        """Score the experts `[..., experts]` for tokens `[..., width]`."""
        return cosine_scores(x, self.project, self.places, self.scale)


class One(nn.Module):
    """Gives the number 1, whatever it is called with: what is multiplied with it stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a 1 without axes."""
        return x.new_ones(())


class Passed(nn.Identity):
    """Stands in the place of a layer that another one computes; it has no weights, if code asks for them."""

    weight: None = None
    bias: None = None


class RoutedFeedForward(nn.Module):
    """A feed-forward network with experts, on its own.

    Args:
        keys: Layer of the first matrix.
        activation: Between the matrices.
        values: Layer of the second matrix.
        routing: How tokens use experts.
        gated: Layer whose result is multiplied with the activated one, if there is one.
        dropout: In front of the second matrix, if there is one.
        gate: Gives learned scores of the experts; for routing by `learned` alone.
        transposed: Whether the layers keep their weights as `[in, out]`, as `Conv1D` of GPT-2 does.
    """

    def __init__(
        self,
        keys: nn.Module,
        activation: nn.Module,
        values: nn.Module,
        *,
        routing: Routing,
        gated: nn.Module | None = None,
        dropout: nn.Module | None = None,
        gate: nn.Module | None = None,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.keys, self.activation, self.values = keys, activation, values
        self.gated, self.dropout, self.gate = gated, dropout, gate
        self.routing, self.transposed = routing, transposed

    def forward(self, x: Tensor) -> Tensor:
        """Compute `[batch, ..., width]` from tokens of the same shape."""
        matrices = matrices_of(
            self.keys._parameters,
            self.values._parameters,
            None if self.gated is None else self.gated._parameters,
            transposed=self.transposed,
        )
        return feed_forward(x, matrices, self.activation, self.routing, dropout=self.dropout, gate=self.gate)
