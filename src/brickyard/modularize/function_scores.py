"""How well neurons and experts tell functions apart: scores, what they locate, and what chance would give.

The score of a neuron for a function is the average precision of texts ranked by its activity, where the texts
that need the function are the right ones (arXiv 2409.02877, section 4). Chance gives about the share of those
texts. Experts that hold more located neurons than chance explains are told by a hypergeometric test, as in
Modularity-Analysis (arXiv 2305.18390).

Shape suffixes: T texts, N neurons (or experts), F functions, K located neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brickyard.core.errors import DataError, MissingExtraError, ModularizeError

_CHUNK = 1 << 24  # numbers that are sorted at once
_P_VALUE = 1e-3  # of an expert that is no accident


@dataclass(frozen=True)
class Enrichment:
    """How located neurons gather in experts.

    Attributes:
        share: Share of the experts that hold more located neurons of some function than chance explains
            (p <= 0.001 for each function).
        mean: Mean of found / expected neurons over pairs of expert and function that pass; 0 if none does.
    """

    share: float
    mean: float


def function_scores(values_TN: Tensor, labels: Sequence[int], num_functions: int) -> Tensor:
    """Score neurons for functions by average precision; texts of equal activity share a rank.

    Args:
        values_TN: Activity of each neuron on each text.
        labels: Function of each text, from 0.
        num_functions: Number of functions.

    Returns:
        `[functions, neurons]`, in (0, 1].

    Raises:
        DataError: There is not one label for each text, or a function has no texts.
    """
    counts = _counts(labels, num_functions)
    if len(labels) != len(values_TN) or 0 in counts:
        raise DataError(
            f"{len(values_TN)} texts with {len(labels)} labels, by function {counts}, cannot be ranked; give "
            "a label for each text and texts for each function"
        )
    right_TF = torch.nn.functional.one_hot(torch.tensor(labels), num_functions).float()
    step = max(1, _CHUNK // len(values_TN))
    chunks = [_ranked(part, right_TF) for part in values_TN.cpu().split(step, dim=1)]
    return torch.cat(chunks, dim=1)


def _ranked(values_TN: Tensor, right_TF: Tensor) -> Tensor:
    """Return the average precisions `[functions, neurons]` of some neurons."""
    ordered_TN, order_TN = values_TN.sort(dim=0, descending=True)
    count = len(ordered_TN)
    last_TN = torch.ones_like(order_TN, dtype=torch.bool)  # whether the next text has another activity
    last_TN[:-1] = ordered_TN[:-1] != ordered_TN[1:]
    places_TN = torch.arange(count)[:, None].expand_as(order_TN)
    ends_TN = places_TN.masked_fill(~last_TN, count).flip(0).cummin(0).values.flip(0)
    found = []
    for right_T in right_TF.T:
        hit_TN = right_T[order_TN]
        precision_TN = hit_TN.cumsum(0).gather(0, ends_TN) / (ends_TN + 1)
        found.append((hit_TN * precision_TN).sum(0) / right_T.sum())
    return torch.stack(found)


def split_texts(labels: Sequence[int], *, seed: int) -> tuple[list[int], list[int]]:
    """Split texts into a half to locate on and a half to report on, each function alike.

    Args:
        labels: Function of each text, from 0.
        seed: Seed of the split.

    Returns:
        Places of the two halves, ascending.

    Raises:
        DataError: A function has fewer than two texts, or there is only one function.
    """
    counts = _counts(labels, max(labels, default=-1) + 1)
    if len(counts) < 2 or min(counts) < 2:
        raise DataError(
            f"texts by function: {counts}; at least two functions with two texts each are needed, half of "
            "which are held out"
        )
    generator = torch.Generator().manual_seed(seed)
    halves: tuple[list[int], list[int]] = ([], [])
    places = torch.tensor(labels)
    for function in range(len(counts)):
        own = (places == function).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        middle = (len(own) + 1) // 2
        halves[0].extend(own[:middle].tolist())
        halves[1].extend(own[middle:].tolist())
    return sorted(halves[0]), sorted(halves[1])


def top_neurons(scores_FN: Tensor, share: float) -> Tensor:
    """Return the neurons with the highest scores, `[functions, located]`, best first, at least one.

    Args:
        scores_FN: Scores.
        share: Share of the neurons, in (0, 1).
    """
    if not 0 < share < 1:
        raise ModularizeError(f"share = {share} is not allowed; allowed: more than 0 and less than 1")
    return scores_FN.topk(max(1, round(share * scores_FN.shape[1])), dim=1).indices


def overlap(located_FK: Tensor) -> Tensor:
    """Return which share of the neurons of a function (row) is located for another one (column) too.

    By chance that is the share of neurons that is located.
    """
    same = located_FK[:, None, :, None] == located_FK[None, :, None, :]
    return same.any(3).float().mean(2)


def enrichment(located_FK: Tensor, experts_N: Tensor) -> Enrichment:
    """Test in which experts located neurons gather.

    Args:
        located_FK: Located neurons of each function.
        experts_N: Expert of each neuron, from 0; -1 for those of none.

    Returns:
        Share of experts that pass, and by how much.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.stats import hypergeom
    except ImportError:
        raise MissingExtraError("scipy", extra="train") from None
    count = int(experts_N.max()) + 1
    sizes_E = torch.bincount(experts_N[experts_N >= 0], minlength=count)
    own_FK = experts_N[located_FK]
    found_FE = torch.stack([(own_FK == expert).sum(1) for expert in range(count)], dim=1)
    neurons, located = len(experts_N), located_FK.shape[1]
    chance_FE = torch.from_numpy(
        hypergeom.sf(found_FE.numpy() - 1, neurons, located, sizes_E.numpy()[None].repeat(len(found_FE), 0))
    )
    passed_FE = chance_FE <= _P_VALUE
    ratio_FE = found_FE / (located * sizes_E / neurons)
    mean = float(ratio_FE[passed_FE].mean()) if passed_FE.any() else 0.0
    return Enrichment(float(passed_FE.any(0).float().mean()), mean)


def _counts(labels: Sequence[int], num_functions: int) -> list[int]:
    return [list(labels).count(function) for function in range(num_functions)]
