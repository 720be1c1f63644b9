"""A feed-forward network as experts, in the places where its layers stood.

A pretrained model calls the layers of its feed-forward network one after the other, from code that stays as
it is. `Experts` takes the place of the first one and computes the whole network; the other layers' places
are taken by bricks that hold their weights and let pass what it gives. So every parameter stays the object
that it was, under its name. The neurons of an expert are a run of rows and columns; those behind all experts
belong to none and always stay.

Routing and modes are those of `brickyard.core.feed_forward` (EMoE, arXiv 2310.10908).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from brickyard.core.brick import Brick, Extract
from brickyard.core.cut import Cut
from brickyard.core.decision import Decision, Subset
from brickyard.core.dispatch import Matrices
from brickyard.core.feed_forward import (
    CosineGate,
    Gate,
    Mode,
    One,
    Passed,
    RoutedFeedForward,
    Routing,
    choose,
    cosine_scores,
    feed_forward,
    matrices_of,
)


class ExpertSplit:
    """What the bricks of one feed-forward network share.

    Args:
        subset: Which experts are there.
        neurons: Neurons of the whole network.
        expert_width: Neurons of an expert; what is left over belongs to none.
        top_k: Experts that a token uses, among those that are there.
        transposed: Whether weights are `[in, out]` instead of `[out, in]`.
        gate: How a token chooses; see `Routing`.

    Attributes:
        mode: How the network is computed; see `Routing`.
    """

    def __init__(
        self,
        subset: Subset,
        *,
        neurons: int,
        expert_width: int,
        top_k: int,
        transposed: bool = False,
        gate: Gate = "keys",
    ) -> None:
        assert 0 < subset.count * expert_width <= neurons
        assert 1 <= top_k <= subset.count
        self.subset, self.neurons, self.expert_width = subset, neurons, expert_width
        self.top_k, self.transposed, self.gate = top_k, transposed, gate
        self.mode: Mode = "masked"

    @property
    def resident(self) -> int:
        """Neurons that belong to no expert."""
        return self.neurons - self.subset.count * self.expert_width

    def routing(self) -> Routing:
        """Return how tokens use the experts that are active."""
        return Routing(len(self.subset.value), self.expert_width, self.top_k, self.mode, self.gate)

    def cut(self, axis: int) -> Cut:
        """Return the cut of an axis of neurons."""
        return Cut(axis, self.subset.name, "subset", self.neurons, self.expert_width, self.resident)


class ExpertMatrix(Brick):
    """Holds the weights of a layer that `Experts` computes; takes its place.

    Args:
        origin: The layer, whose parameters are taken over.
        split: What the bricks of the network share.
        reads: Whether the layer reads the neurons; else it makes them.
    """

    def __init__(self, origin: nn.Module, split: ExpertSplit, *, reads: bool = False) -> None:
        super().__init__()
        self.split, self.reads = split, reads
        self._origin = (origin,)  # inside a tuple it is no child
        for name, parameter in origin._parameters.items():
            self.register_parameter(name, parameter)
        self.training = origin.training

    @property
    def origin(self) -> nn.Module:
        """The layer that stood here."""
        return self._origin[0]

    def decisions(self) -> Iterator[Decision]:
        """Yield which experts are there."""
        yield self.split.subset

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cuts of weight and bias."""
        if self.reads:
            return {"weight": (self.split.cut(0 if self.split.transposed else 1),)}
        return {"weight": (self.split.cut(1 if self.split.transposed else 0),), "bias": (self.split.cut(0),)}

    def forward(self, x: Tensor) -> Tensor:
        """Let pass what `Experts` gave; in the place of a factor give 1."""
        return x if self.reads else x.new_ones(())

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build a layer of the original's class with the active weights; nothing where experts are routed."""
        if self.split.routing().chooses:
            return Passed() if self.reads else One()
        return self.layer(weights)

    def layer(self, weights: dict[str, Tensor | None]) -> nn.Module:
        """Build a layer of the original's class.

        Args:
            weights: Its `weight` and `bias`.
        """
        plain = copy.copy(self.origin)
        tables = {name: value for name, value in vars(plain).items() if isinstance(value, dict | set | list)}
        vars(plain).update({name: copy.copy(value) for name, value in tables.items()})
        plain._parameters = {**weights}  # type: ignore[dict-item]
        weight = weights["weight"]
        assert weight is not None
        sizes = weight.shape if self.split.transposed else reversed(weight.shape)
        names = (("in_features", "nx"), ("out_features", "nf"))
        for size, known in zip(sizes, names, strict=True):
            for name in known:
                if hasattr(plain, name):
                    setattr(plain, name, size)
        return plain


class Bypass(Brick):
    """Takes the place of an activation or a dropout that `Experts` computes.

    Args:
        inner: What stood here.
        split: What the bricks of the network share.
    """

    def __init__(self, inner: nn.Module, split: ExpertSplit) -> None:
        super().__init__()
        self.inner, self.split = inner, split
        self.training = inner.training

    def forward(self, x: Tensor) -> Tensor:
        """Let pass what `Experts` gave."""
        return x

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build what stood here; nothing where experts are routed."""
        return nn.Identity() if self.split.routing().chooses else recurse(self.inner)


class ExpertGate(Brick):
    """A learned gate, whose experts can be cut out; see `brickyard.core.feed_forward.CosineGate`.

    Args:
        width: Width of tokens.
        subset: Which experts are there.
        gate_width: Width of the space in which tokens and experts are compared.
        seed: Seed of the first weights.
    """

    project: nn.Parameter
    places: nn.Parameter
    scale: nn.Parameter

    def __init__(self, width: int, subset: Subset, *, gate_width: int = 256, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.subset = subset
        self.project = nn.Parameter(torch.randn(gate_width, width, generator=generator) / width**0.5)
        self.places = nn.Parameter(torch.randn(subset.count, gate_width, generator=generator))
        self.scale = nn.Parameter(torch.tensor(math.log(2.0)))

    def decisions(self) -> Iterator[Decision]:
        """Yield which experts are there."""
        yield self.subset

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return the cut of the experts' places."""
        return {"places": (Cut(0, self.subset.name, "subset", self.subset.count),)}

    def forward(self, x: Tensor) -> Tensor:
        """Score the active experts `[..., experts]` for tokens `[..., width]`."""
        places = self.active()["places"]
        assert places is not None
        return cosine_scores(x, self.project, places, self.scale)

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build a `CosineGate` of the active experts."""
        return CosineGate(weights["project"], weights["places"], weights["scale"])  # type: ignore[arg-type]


class Experts(ExpertMatrix):
    """A feed-forward network whose neurons form experts; takes the place of its first layer.

    Args:
        origin: The layer of the first matrix; in a gated network the one whose result is activated.
        activation: Brick in the place of the activation.
        values: Brick in the place of the layer of the second matrix.
        split: What the bricks share.
        gated: Brick in the place of the layer whose result is multiplied with the activated one.
        dropout: Brick in the place of a dropout in front of the second matrix.
        gate: The gate, where it is learned.
    """

    def __init__(
        self,
        origin: nn.Module,
        activation: Bypass,
        values: ExpertMatrix,
        *,
        split: ExpertSplit,
        gated: ExpertMatrix | None = None,
        dropout: Bypass | None = None,
        gate: ExpertGate | None = None,
    ) -> None:
        super().__init__(origin, split)
        assert (gate is not None) == (split.gate == "learned")
        self.gate = gate
        self._others = (activation, values, gated, dropout)  # they stand in places of their own

    def forward(self, x: Tensor) -> Tensor:
        """Compute `[batch, ..., width]` from tokens of that shape.

        Per-sample gates of the subset multiply the neurons of each expert; experts of gate 0 are not chosen.
        """
        activation, _, _, dropout = self._others
        gates = self.split.subset.gates
        return feed_forward(
            x,
            self._matrices(),
            activation.inner,
            self.split.routing(),
            dropout=None if dropout is None else dropout.inner,
            gate=self.gate,
            gates_BE=None if gates is None else gates[:, list(self.split.subset.value)],
        )

    def _matrices(self) -> Matrices:
        _, values, gated, _ = self._others
        return matrices_of(
            self.active(),
            values.active(),
            None if gated is None else gated.active(),
            transposed=self.split.transposed,
        )

    @torch.no_grad()
    def choices(self, x: Tensor) -> Tensor:
        """Return the experts that tokens choose, in all modes, as numbers among the active ones.

        Args:
            x: Tokens `[..., width]`. Per-sample gates are not regarded.

        Returns:
            Numbers of experts `[..., top_k]`, in no order.
        """
        return choose(x, self._matrices().keys, self.split.routing(), gate=self.gate)[1]

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build the narrower layer, or a `RoutedFeedForward` where tokens still choose among experts."""
        if not self.split.routing().chooses:
            return self.layer(weights)
        activation, values, gated, dropout = self._others
        return RoutedFeedForward(
            self.layer(weights),
            recurse(activation.inner),
            values.layer(_copies(values)),
            routing=self.split.routing(),
            gated=None if gated is None else gated.layer(_copies(gated)),
            dropout=None if dropout is None else recurse(dropout.inner),
            gate=None if self.gate is None else recurse(self.gate),
            transposed=self.split.transposed,
        )


def _copies(brick: ExpertMatrix) -> dict[str, Tensor | None]:
    """Return copies of the active weights, which keep whether they learn."""
    return {
        name: None
        if active is None
        else nn.Parameter(active.detach().clone(), requires_grad=brick._parameters[name].requires_grad)  # type: ignore[union-attr]
        for name, active in brick.active().items()
    }
