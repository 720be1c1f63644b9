"""Exits of an encoder: its first layers, and a projection of what they give.

Heads of their own at each exit, and one head that is told the exit by an embedding of the layer, are those of
ModularStarEncoder (arXiv 2503.03008).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.brick import Brick, Extract
from brickyard.core.decision import Choice, Decision

_STD = 0.02  # of fresh layer embeddings, as in BERT (arXiv 1810.04805)


class ExitLayers(Brick, nn.ModuleList):
    """A `ModuleList` of layers that shows only those in front of the exit, so that no others run.

    Code that loops over the list, takes its length or slices it needs no change; names of parameters are
    those of the plain list, which holds the layers behind the exit too.

    Args:
        layers: All layers.
        exit: After how many layers the stream leaves.
    """

    def __init__(self, layers: Iterable[nn.Module], *, exit: Choice) -> None:
        super().__init__()
        self.exit = exit
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)
        assert exit.smallest() >= 1
        assert exit.largest() <= len(self._modules)

    def decisions(self) -> Iterator[Decision]:
        """Yield the exit."""
        yield self.exit

    def _shown(self) -> list[nn.Module]:
        return list(self._modules.values())[: self.exit.value]

    def __len__(self) -> int:
        return len(self._shown())

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._shown())

    def __getitem__(self, index: Any) -> Any:
        found = self._shown()[index]
        return nn.ModuleList(found) if isinstance(index, slice) else found

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build an `nn.ModuleList` of the layers in front of the exit."""
        return nn.ModuleList(recurse(layer) for layer in self)


class ExitHead(Brick):
    """A projection of which every exit has its own, or that all exits share.

    A fresh projection to the same width changes nothing; one to fewer features has orthogonal rows.

    Args:
        in_features: Width of the states.
        out_features: Width of embeddings.
        exit: After how many layers the stream leaves.
        shared: Whether all exits share weight and bias; each then adds a learned vector `[in_features]`, its
            embedding of the layer, to what the head reads.
        seed: Seed of fresh weights.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    layer_embedding: nn.Parameter | None

    def __init__(
        self, in_features: int, out_features: int, *, exit: Choice, shared: bool, seed: int = 0
    ) -> None:
        super().__init__()
        self.exit, self.shared = exit, shared
        generator = torch.Generator().manual_seed(seed)
        weight = torch.empty(out_features, in_features)
        if in_features == out_features:
            nn.init.eye_(weight)
        else:
            nn.init.orthogonal_(weight, generator=generator)
        bias = torch.zeros(out_features)
        count = exit.size
        self.weight = nn.Parameter(weight if shared else weight.repeat(count, 1, 1))
        self.bias = nn.Parameter(bias if shared else bias.repeat(count, 1))
        places = _STD * torch.randn(count, in_features, generator=generator)
        self.register_parameter("layer_embedding", nn.Parameter(places) if shared else None)

    def decisions(self) -> Iterator[Decision]:
        """Yield the exit."""
        yield self.exit

    def active(self) -> dict[str, Tensor | None]:
        """Return weight and bias of the active exit; its embedding of the layer is part of the bias."""
        weight, bias = self.at(self.exit.value)
        return {"weight": weight, "bias": bias}

    def at(self, exit: int) -> tuple[Tensor, Tensor]:
        """Return weight `[out_features, in_features]` and bias `[out_features]` of an exit.

        Args:
            exit: After how many layers the stream leaves; one of the exit's values.
        """
        place = self.exit.values.index(exit)
        if self.layer_embedding is None:
            return self.weight[place], self.bias[place]
        return self.weight, F.linear(self.layer_embedding[place], self.weight, self.bias)

    def project(self, x: Tensor, exit: int) -> Tensor:
        """Map `[..., in_features]`, pooled after `exit` layers, to `[..., out_features]`."""
        return F.linear(x, *self.at(exit))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., in_features]` to `[..., out_features]` by the head of the active exit."""
        return self.project(x, self.exit.value)

    def extract(self, weights: dict[str, Tensor | None], recurse: Extract) -> nn.Module:
        """Build the `nn.Linear` of the active exit."""
        weight, bias = weights["weight"], weights["bias"]
        assert weight is not None
        plain = nn.Linear(1, 1)
        plain.out_features, plain.in_features = weight.shape
        plain.weight = weight
        plain.bias = bias  # type: ignore[assignment]
        return plain
