"""A map of the bricks: which neurons and experts of a trained transformer serve which function.

Configurable Foundation Models (arXiv 2409.02877, section 4): neurons are scored by how well their activity
tells the texts of a function from others, the best ones are switched off, and what that changes on each
function shows whether they serve it alone. Differences to the paper:

- neurons are located on one half of the texts; all that is reported is of the other half;
- neurons are located by `weighted`: their score times how much more they give on the function's texts than on
  others, where the paper takes the score alone (`score`). A neuron that tells functions apart but says little
  is then left alone. Scores are those of the paper either way;
- the same number of random neurons, drawn several times, is switched off for comparison;
- for models without a loss the change is that of the embedding, 1 - cosine;
- a map of a network with fresh weights (`fresh_twin`) is the control of all of it.

Shape suffixes: F functions, N neurons, E experts, K located neurons, R random sets, S shares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brickyard.core.checkpoint import Checkpoint, content_digest
from brickyard.core.errors import DataError, ModularizeError
from brickyard.modularize.function_scores import (
    Enrichment,
    enrichment,
    function_scores,
    overlap,
    split_texts,
    top_neurons,
)
from brickyard.modularize.neurons import NeuronProbe

Locate = Literal["weighted", "score"]
LOCATE: tuple[Locate, ...] = ("weighted", "score")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ALWAYS = ("first_scores", "scores", "located", "output", "value_norms")
_MAYBE = ("experts", "expert_first_scores", "expert_scores")
Progress = Callable[[str, int, int, str], None]
"""Called with a stage, steps done, steps in all, and what is worked on."""


@dataclass(frozen=True, eq=False)
class LayerMap:
    """What was found in one feed-forward network.

    Attributes:
        path: Path of the layer that makes its neurons.
        first_scores: Scores on the texts that neurons are located on.
        scores: Scores on the texts held out.
        located: Located neurons of each function, best first.
        output: Mean of what each neuron gives on the texts of a function (those that neurons are located
            on): absolute activation times the length of its column of the second matrix.
        value_norms: These lengths.
        experts: Expert of each neuron, -1 for none; None without experts.
        expert_first_scores: Scores of experts on the texts that neurons are located on, by the sum of what
            their neurons give; None without experts.
        expert_scores: The same on the texts held out.
        enrichment: How located neurons gather: in the `experts`, and in experts of a `random partition`.
    """

    path: str
    first_scores: Tensor
    scores: Tensor
    located: Tensor
    output: Tensor
    value_norms: Tensor
    experts: Tensor | None
    expert_first_scores: Tensor | None
    expert_scores: Tensor | None
    enrichment: Mapping[str, Enrichment]

    def record(self) -> dict[str, Any]:
        """Return what is no tensor, as JSON values."""
        tests = {name: asdict(test) for name, test in self.enrichment.items()}
        return {"path": self.path, "enrichment": tests}

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors by name, each in memory of its own."""
        found = {name: getattr(self, name) for name in (*_ALWAYS, *_MAYBE)}
        return {f"{prefix}.{name}": value.clone() for name, value in found.items() if value is not None}

    @classmethod
    def load(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str) -> Self:
        """Build it from what `record` and `tensors` gave.

        Raises:
            KeyError: Something is lacking.
            TypeError: Something is too much.
        """
        return cls(
            path=record["path"],
            enrichment={name: Enrichment(**test) for name, test in record["enrichment"].items()},
            **{name: tensors[f"{prefix}.{name}"] for name in _ALWAYS},
            **{name: tensors.get(f"{prefix}.{name}") for name in _MAYBE},  # type: ignore[arg-type]
        )

    def best(self) -> Tensor:
        """Return the held-out score of the neuron that scored best before, `[functions]`."""
        return _chosen_before(self.first_scores, self.scores)

    def best_expert(self) -> Tensor | None:
        """Return the held-out score of the expert that scored best before, `[functions]`; None without."""
        if self.expert_first_scores is None or self.expert_scores is None:
            return None
        return _chosen_before(self.expert_first_scores, self.expert_scores)

    def located_mean(self) -> Tensor:
        """Return for each function the mean held-out score of its located neurons, `[functions]`."""
        return self.scores.gather(1, self.located).mean(1)


@dataclass(frozen=True, eq=False)
class BrickMap:
    """A map of a transformer.

    Attributes:
        functions: Names of the functions.
        layers: Its feed-forward networks in the order in which they run.
        measure: What changes are of: `embedding` (1 - cosine) or `perplexity` (relative increase).
        texts: For each function the texts that neurons were located on, and those held out.
        change: Change on the held-out texts of each function (column) without the neurons located for
            another one (row), in all layers at once.
        random: The same without as many random neurons, one row for each draw.
        shares: Shares of neurons of which the least active are set to 0, for each token.
        sparsity: Change on the held-out texts of each function at these shares.
        share: Share of neurons that are located for a function.
        locate: How they are located.
        seed: Seed of the split and of random neurons.
    """

    functions: tuple[str, ...]
    layers: tuple[LayerMap, ...]
    measure: str
    texts: tuple[tuple[int, int], ...]
    change: Tensor
    random: Tensor
    shares: tuple[float, ...]
    sparsity: Tensor
    share: float
    locate: Locate
    seed: int

    def best(self) -> Tensor:
        """Return the held-out scores of the neurons that scored best before, `[layers, functions]`."""
        return torch.stack([layer.best() for layer in self.layers])

    def overlap(self) -> Tensor:
        """Return which share of a function's located neurons serves another too, mean over layers."""
        return torch.stack([overlap(layer.located) for layer in self.layers]).mean(0)

    def chosen(self, functions: Sequence[str]) -> list[int]:
        """Return the places of functions by name.

        Raises:
            ModularizeError: A function is unknown, or none is named.
        """
        unknown = [name for name in functions if name not in self.functions]
        if unknown or not functions:
            raise ModularizeError(
                f"functions {list(functions)} are not all on this map; known: {', '.join(self.functions)}"
            )
        return [self.functions.index(name) for name in functions]

    def diagonal_ratio(self, functions: Sequence[str] | None = None) -> float:
        """Return the mean change on the functions whose neurons are gone over that on the other functions.

        Args:
            functions: Those that count; all if None.
        """
        part = self._part(functions)
        count = len(part)
        return float(part.diag().mean() / ((part.sum() - part.diag().sum()) / (count * count - count)))

    def over_random(self, functions: Sequence[str] | None = None) -> float:
        """Return the mean change on the functions whose neurons are gone over that without random neurons."""
        places = self.chosen(self.functions if functions is None else functions)
        return float(self.change.diag()[places].mean() / self.random[:, places].mean())

    def _part(self, functions: Sequence[str] | None) -> Tensor:
        places = torch.tensor(self.chosen(self.functions if functions is None else functions))
        if len(places) < 2:
            raise ModularizeError(f"functions {functions} cannot be compared; name two or more")
        return self.change[places][:, places]


def map_bricks(
    probe: NeuronProbe,
    texts: Sequence[str],
    labels: Sequence[int],
    functions: Sequence[str],
    *,
    share: float = 0.05,
    locate: Locate = "weighted",
    experts: Sequence[Tensor | None] | None = None,
    shares: Sequence[float] = SHARES,
    random_sets: int = 3,
    change_texts: int | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, done, total, text: None,
    checkpoint: str | Path | None = None,
) -> BrickMap:
    """Map the functions of a transformer's neurons.

    Args:
        probe: The transformer with its tokens.
        texts: Texts that need one function each; half of them are held out.
        labels: Function of each text, from 0.
        functions: Names of the functions.
        share: Share of the neurons of a layer that are located for each function, in (0, 1).
        locate: By what: `weighted`, the score times how much more a neuron gives on the function's texts than
            on others; `score`, the score alone.
        experts: For each feed-forward network the expert of each neuron, from 0 (-1: none), or None where it
            has no experts; None for a map without experts.
        shares: Shares of neurons to leave out per token, each in [0, 1); none for a map without the curve.
        random_sets: How often random neurons are drawn.
        change_texts: Most held-out texts of a function that changes are measured on; all if None.
        seed: Seed of the split and of random neurons.
        progress: Called after each step.
        checkpoint: File that is written when neurons are scored and after each change. Where it is there,
            what was done is not done again; it stays until it is removed.

    Returns:
        The map.

    Raises:
        DataError: A function lacks texts, or names and labels do not fit.
        ModularizeError: A share is out of range, experts do not fit the model, or the checkpoint is of
            another map.
    """
    if len(set(functions)) != len(functions) or set(labels) != set(range(len(functions))):
        raise DataError(
            f"functions {list(functions)} with labels {sorted(set(labels))} do not fit; give different names "
            "and texts for each"
        )
    if locate not in LOCATE:
        raise ModularizeError(f"locate = {locate!r} is unknown; known: {', '.join(LOCATE)}")
    if random_sets < 1 or not all(0 <= part < 1 for part in shares):
        raise ModularizeError(
            f"random_sets = {random_sets} and shares = {list(shares)} are not allowed; allowed: 1 or more, "
            "and shares from 0 to less than 1"
        )
    _check_experts(probe, experts)
    first, heldout = split_texts(labels, seed=seed)
    few = first_of_each(heldout, labels, change_texts)
    kept = None
    if checkpoint is not None:
        identity = {
            "texts": [list(functions), list(texts), list(labels)],
            "model": content_digest(probe.model.state_dict().values()),
            "experts": None if experts is None else content_digest(t for t in experts if t is not None),
            "max_tokens": probe.tokens.max_tokens,
            "batch_size": probe.batch_size,
            "share": share,
            "locate": locate,
            "shares": list(shares),
            "random_sets": random_sets,
            "change_texts": change_texts,
            "seed": seed,
        }
        identity["texts"] = hashlib.sha256(json.dumps(identity["texts"]).encode()).hexdigest()
        kept = Checkpoint(checkpoint, identity, work="a map", error=ModularizeError)
    tensors, told = (None if kept is None else kept.load()) or ({}, {})
    layers = [
        LayerMap.load(record, tensors, f"layers.{place}")
        for place, record in enumerate(told.get("layers", ()))
    ]
    found = list(tensors.get("found", ()))
    if not layers:
        activity = probe.activity(
            texts, progress=lambda done, total: progress("activity", done, total, "texts")
        )
        for place, (part, values) in enumerate(zip(probe.parts, activity, strict=True)):
            layers.append(
                _layer(
                    part.keys,
                    values,
                    probe.value_norms[place],
                    labels,
                    (first, heldout),
                    share=share,
                    locate=locate,
                    experts_N=None if experts is None else experts[place],
                    seed=seed,
                )
            )
            progress("scores", place + 1, len(activity), part.keys)

    def keep() -> None:
        if kept is not None:
            tensors = {"found": torch.stack(found)} if found else {}
            for place, layer in enumerate(layers):
                tensors |= layer.tensors(f"layers.{place}")
            kept.save(tensors, {"layers": [layer.record() for layer in layers]})

    changes = Changes(probe, [texts[place] for place in few], [labels[place] for place in few])
    sets = [[layer.located[place] for layer in layers] for place in range(len(functions))]
    draws = [
        random_neurons([len(one) for one in sets[0]], probe, seed=seed + draw) for draw in range(random_sets)
    ]
    steps: list[tuple[str, Callable[[], Tensor]]] = [
        (name, partial(changes.without, gone))
        for name, gone in zip([*functions, *["random neurons"] * len(draws)], [*sets, *draws], strict=True)
    ]
    steps += [(f"sparsity {gone:g}", partial(changes.sparse, gone)) for gone in shares]
    keep()
    for name, step in steps[len(found) :]:
        found.append(step())
        keep()
        progress("perturbation", len(found), len(steps), name)
    counts = [
        tuple([labels[place] for place in half].count(function) for half in (first, heldout))
        for function in range(len(functions))
    ]
    end = len(sets) + len(draws)
    return BrickMap(
        functions=tuple(functions),
        layers=tuple(layers),
        measure=changes.measure,
        texts=tuple((one, other) for one, other in counts),
        change=torch.stack(found[: len(sets)]),
        random=torch.stack(found[len(sets) : end]),
        shares=tuple(shares),
        sparsity=torch.stack(found[end:]) if shares else torch.zeros(0, len(functions)),
        share=share,
        locate=locate,
        seed=seed,
    )


def first_of_each(places: Sequence[int], labels: Sequence[int], most: int | None) -> list[int]:
    """Return the first places of texts of each function.

    Args:
        places: Places of texts.
        labels: Function of each text, from 0.
        most: Most places of a function; all if None.

    Raises:
        ModularizeError: `most` is below 1.
    """
    if most is not None and most < 1:
        raise ModularizeError(f"change_texts = {most} is not allowed; allowed: 1 or more")
    found: list[int] = []
    for function in range(max(labels) + 1):
        found += [place for place in places if labels[place] == function][:most]
    return found


def _check_experts(probe: NeuronProbe, experts: Sequence[Tensor | None] | None) -> None:
    wanted = [part.neurons for part in probe.parts]
    if experts is None:
        return
    counts = [count if one is None else len(one) for one, count in zip(experts, wanted, strict=False)]
    if len(experts) != len(wanted) or counts != wanted:
        raise ModularizeError(
            f"experts of {counts} neurons came; the model's feed-forward networks have {wanted}"
        )


def _layer(
    path: str,
    values_TN: Tensor,
    norms_N: Tensor,
    labels: Sequence[int],
    halves: tuple[list[int], list[int]],
    *,
    share: float,
    locate: Locate,
    experts_N: Tensor | None,
    seed: int,
) -> LayerMap:
    """Score, locate and test in one feed-forward network."""
    count = max(labels) + 1
    own = [[labels[place] for place in half] for half in halves]
    first_FN, scores_FN = (
        function_scores(values_TN[half], own[number], count) for number, half in enumerate(halves)
    )
    given_TN = values_TN[halves[0]] * norms_N
    right_TF = F.one_hot(torch.tensor(own[0]), count).float()
    output_FN, others_FN = ((part / part.sum(0)).T @ given_TN for part in (right_TF, 1 - right_TF))
    worth_FN = first_FN * (output_FN - others_FN) if locate == "weighted" else first_FN
    located_FK = top_neurons(worth_FN, share)
    expert_first, expert_scores, tests = None, None, {}
    if experts_N is not None:
        member_NE = F.one_hot(experts_N.clamp(min=0)).float() * (experts_N >= 0)[:, None]
        expert_first, expert_scores = (
            function_scores((values_TN[half] * norms_N) @ member_NE, own[number], count)
            for number, half in enumerate(halves)
        )
        mixed = experts_N[torch.randperm(len(experts_N), generator=torch.Generator().manual_seed(seed))]
        tests = {
            "experts": enrichment(located_FK, experts_N),
            "random partition": enrichment(located_FK, mixed),
        }
    return LayerMap(
        path=path,
        first_scores=first_FN,
        scores=scores_FN,
        located=located_FK,
        output=output_FN,
        value_norms=norms_N,
        experts=experts_N,
        expert_first_scores=expert_first,
        expert_scores=expert_scores,
        enrichment=tests,
    )


def _chosen_before(first_FN: Tensor, heldout_FN: Tensor) -> Tensor:
    """Return for each function the held-out score of what scored best on the first texts."""
    return heldout_FN.gather(1, first_FN.argmax(1, keepdim=True))[:, 0]


class Changes:
    """What switching neurons off changes on texts.

    Args:
        probe: The transformer.
        texts: The texts.
        labels: Function of each text, from 0.

    Attributes:
        measure: `embedding`, the mean of 1 - cosine over a function's texts, or `perplexity`, the relative
            increase of the perplexity of a function's tokens.
    """

    def __init__(self, probe: NeuronProbe, texts: Sequence[str], labels: Sequence[int]) -> None:
        self.measure = "perplexity" if probe.causal else "embedding"
        self._probe, self._labels = probe, torch.tensor(labels)
        self._rows = probe.tokens.ids(texts)
        if probe.causal and min(len(row) for row in self._rows) < 2:
            raise DataError("a text has one token, of which a language model predicts none; leave it out")
        self._before = probe.says(self._rows)

    def without(self, neurons: Sequence[Tensor]) -> Tensor:
        """Return the change by function without some neurons of each feed-forward network."""
        with self._probe.without(neurons):
            return self._change(self._probe.says(self._rows))

    def sparse(self, share: float) -> Tensor:
        """Return the change by function without the share of neurons that give least to each token."""
        with self._probe.sparse(share):
            return self._change(self._probe.says(self._rows))

    def between(self, model: nn.Module) -> Tensor:
        """Return the change by function to another model that reads the same ids."""
        other = NeuronProbe(model, self._probe.tokens, batch_size=self._probe.batch_size)
        return self._change(other.says(self._rows))

    def _change(self, after: Tensor) -> Tensor:
        found = []
        for function in range(int(self._labels.max()) + 1):
            one, two = (given[self._labels == function].double() for given in (self._before, after))
            if self.measure == "embedding":
                found.append((1 - torch.cosine_similarity(one, two, dim=1)).mean())
            else:
                loss = [given[:, 0].sum() / given[:, 1].sum() for given in (one, two)]
                found.append((loss[1] - loss[0]).expm1())
        return torch.stack(found).float()


def random_neurons(counts: Sequence[int], probe: NeuronProbe, *, seed: int) -> list[Tensor]:
    """Draw neurons of each feed-forward network.

    Args:
        counts: How many of each.
        probe: The transformer.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randperm(part.neurons, generator=generator)[:count]
        for part, count in zip(probe.parts, counts, strict=True)
    ]
