"""Contrastive loss of an encoder with exits, from pairs of texts that belong together.

At every exit the symmetric InfoNCE of CLIP (arXiv 2103.00020, figure 3): within a batch each query has to
find its document among all documents, and each document its query. Exits are weighted by depth as in
ModularStarEncoder (arXiv 2503.03008), which calls this self-distillation though nothing is distilled. On
request early exits also learn from the last one, which does not learn from them. A learned scale has no upper
bound, unlike that of CLIP.

Shape suffixes: B pairs, E width of embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.errors import TrainError

Weights = Literal["depth", "depth-squared", "uniform"] | Callable[[int, int], float]
"""Weight of an exit: `depth`, its layers by those of the last one; its square; 1; or from both numbers."""

_POWERS = {"uniform": 0, "depth": 1, "depth-squared": 2}  # of the depth

Distill = Literal["kl", "cosine"]


def exit_weights(exits: Sequence[int], weights: Weights) -> tuple[float, ...]:
    """Return the weight of each exit.

    Args:
        exits: Layers in front of each exit, ascending.
        weights: `depth`, `depth-squared`, `uniform`, or from the layers of an exit and those of the last one
            to its weight.

    Raises:
        TrainError: The name is unknown, a weight is negative or no number, or all are 0.
    """
    if isinstance(weights, str):
        if weights not in _POWERS:
            raise TrainError(
                f"weights = {weights!r} is unknown; known: depth, depth-squared, uniform, or a function"
            )
        found = tuple((exit / exits[-1]) ** _POWERS[weights] for exit in exits)
    else:
        found = tuple(float(weights(exit, exits[-1])) for exit in exits)
    if not all(math.isfinite(weight) and weight >= 0 for weight in found) or not any(found):
        raise TrainError(f"weights of exits {list(exits)} are {list(found)}; none may be negative, not all 0")
    return found


def info_nce(queries_BE: Tensor, documents_BE: Tensor, scale: Tensor | float) -> Tensor:
    """Return the mean cross entropy of finding the document of each query, and the query of each document.

    Args:
        queries_BE: Unit vectors.
        documents_BE: Unit vectors; row i belongs to query i, all others do not.
        scale: What cosines are multiplied by.
    """
    scores_BB = scale * queries_BE @ documents_BE.T
    labels_B = torch.arange(len(scores_BB), device=scores_BB.device)
    return (F.cross_entropy(scores_BB, labels_B) + F.cross_entropy(scores_BB.T, labels_B)) / 2


@dataclass(frozen=True)
class ExitLosses:
    """What a batch costs.

    Attributes:
        total: What is made smaller.
        by_exit: InfoNCE by exit, without weight.
    """

    total: Tensor
    by_exit: dict[int, Tensor]


class ExitLoss(nn.Module):
    """Weighted sum over exits of symmetric InfoNCE and, on request, of the distance to the last exit.

    Args:
        exits: Layers in front of each exit, ascending.
        weights: Weight of each exit; see `exit_weights`.
        scale: What cosines are multiplied by, above 0.
        learn_scale: Whether the scale is learned, from that value on; it is one for all exits.
        distill: What early exits learn from the last one, whose gradients stop there: `kl`, its probabilities
            of documents by query and of queries by document; `cosine`, its embeddings; None for nothing.
        distill_weight: Weight of that beside an exit's InfoNCE, above 0.

    Raises:
        TrainError: A setting is out of range.
    """

    def __init__(
        self,
        exits: Sequence[int],
        *,
        weights: Weights = "depth",
        scale: float = 20.0,
        learn_scale: bool = False,
        distill: Distill | None = None,
        distill_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not scale > 0 or not distill_weight > 0:
            raise TrainError(f"scale = {scale} and distill_weight = {distill_weight} must be above 0")
        if distill is not None and distill not in get_args(Distill):
            raise TrainError(f"distill = {distill!r} is unknown; known: kl, cosine, None")
        self.exits, self.weights = tuple(exits), exit_weights(exits, weights)
        self.distill, self.distill_weight = distill, distill_weight
        logarithm = torch.tensor(math.log(scale))
        self.log_scale: Tensor
        if learn_scale:
            self.log_scale = nn.Parameter(logarithm)
        else:
            self.register_buffer("log_scale", logarithm)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by."""
        return self.log_scale.exp()

    def forward(self, queries: Mapping[int, Tensor], documents: Mapping[int, Tensor]) -> ExitLosses:
        """Compare the embeddings of a batch of pairs.

        Args:
            queries: Unit vectors `[pairs, embed_dim]` by exit.
            documents: Unit vectors `[pairs, embed_dim]` by exit; row i belongs to query i.
        """
        scale, last = self.scale, self.exits[-1]
        by_exit = {exit: info_nce(queries[exit], documents[exit], scale) for exit in self.exits}
        parts = []
        for exit, weight in zip(self.exits, self.weights, strict=True):
            loss = by_exit[exit]
            if self.distill is not None and exit != last:
                pairs = [(queries[exit], queries[last]), (documents[exit], documents[last])]
                distance = self._kl(pairs, scale) if self.distill == "kl" else _cosine(pairs)
                loss = loss + self.distill_weight * distance
            parts.append(weight * loss)
        return ExitLosses(torch.stack(parts).sum(), by_exit)

    @staticmethod
    def _kl(pairs: Sequence[tuple[Tensor, Tensor]], scale: Tensor) -> Tensor:
        """Return the mean divergence of an exit's probabilities from those of the last one, both ways."""
        (queries, last_queries), (documents, last_documents) = pairs
        scores = scale * queries @ documents.T
        goal = (scale * last_queries @ last_documents.T).detach()
        ways = [
            F.kl_div(own.log_softmax(1), other.log_softmax(1), reduction="batchmean", log_target=True)
            for own, other in ((scores, goal), (scores.T, goal.T))
        ]
        return torch.stack(ways).mean()


def _cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mean of one minus the cosine between unit vectors of an exit and of the last one."""
    return torch.stack([1 - (own * last.detach()).sum(1).mean() for own, last in pairs]).mean()
