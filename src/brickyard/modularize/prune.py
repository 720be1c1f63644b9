"""Cuts a transformer down to the neurons that some functions need.

A map tells what each neuron gives on the texts of each function: the mean absolute activation times the
length of its column of the second matrix, which Configurable Foundation Models (arXiv 2409.02877, section 4)
finds to be the better sign of idle neurons. Those that give most to a wanted function stay, whether they
serve it alone or all functions; the others are cut out for real. What those give on average on the texts of
the wanted functions stays, in the bias of the second matrix, where it has one. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from brickyard.bricks.experts import ExpertSplit
from brickyard.core.decision import Subset
from brickyard.core.errors import DataError, ModularizeError
from brickyard.modularize.brick_map import BrickMap, Changes, Progress, first_of_each, random_neurons
from brickyard.modularize.conversion import Converted, convert_, reorder_, restore_
from brickyard.modularize.function_scores import split_texts
from brickyard.modularize.intake import Anatomy, FeedForward, Inputs, example_inputs, find_anatomy
from brickyard.modularize.neurons import NeuronProbe
from brickyard.modularize.transformer import ModularTransformer, network_of


@dataclass(frozen=True, eq=False)
class Pruned:
    """A transformer that was cut down to some functions.

    Attributes:
        model: The smaller model, which shares nothing with the original.
        kept: Numbers of the neurons that stayed, by the path of the layer that makes them.
        parameters: Parameters of the original, and of the smaller model.
        change: Change on the held-out texts of each function of the map.
        random: The same where as many random neurons stay and the others are set to 0, mean of some draws.
        measure: What the changes are of; see `BrickMap`.
    """

    model: nn.Module
    kept: Mapping[str, Tensor]
    parameters: tuple[int, int]
    change: tuple[float, ...]
    random: tuple[float, ...]
    measure: str


def prune_to(
    probe: NeuronProbe,
    found: BrickMap,
    functions: Sequence[str],
    texts: Sequence[str],
    labels: Sequence[int],
    *,
    share: float = 0.5,
    random_sets: int = 3,
    change_texts: int | None = None,
    progress: Progress = lambda stage, done, total, text: None,
) -> Pruned:
    """Cut a transformer down to what some functions need, and measure what that changes.

    Args:
        probe: The transformer that was mapped; left as it is.
        found: Its map.
        functions: Names of the functions.
        texts: The texts of the map, whose held-out half is measured on.
        labels: Function of each text, from 0.
        share: Share of the neurons (with experts: of the experts) of each layer that stays, in (0, 1).
        random_sets: How often as many random neurons are kept for comparison.
        change_texts: Most held-out texts of a function that changes are measured on; all if None.
        progress: Called after each step.

    Returns:
        The smaller model.

    Raises:
        ModularizeError: A function is unknown, the share is out of range, or the map is of another model.
        DataError: The texts are not split as those of the map.
    """
    kept = needed_neurons(found, functions, share=share)
    _check_model(probe, found)
    first, heldout = _halves(found, labels)
    wanted = set(found.chosen(functions))
    total = 4 + random_sets
    progress("prune", 0, total, "means")
    means = probe.means([texts[place] for place in first if labels[place] in wanted])
    progress("prune", 1, total, "held-out texts")
    few = first_of_each(heldout, labels, change_texts)
    changes = Changes(probe, [texts[place] for place in few], [labels[place] for place in few])
    progress("prune", 2, total, "cut")
    named = {part.keys: mean for part, mean in zip(probe.parts, means, strict=True)}
    small = keep_neurons(probe.model, kept, means=named)
    progress("prune", 3, total, "held-out texts, smaller model")
    change = changes.between(small)
    counts = [part.neurons - len(kept[part.keys]) for part in probe.parts]
    draws: list[Tensor] = []
    for draw in range(random_sets):
        progress("prune", 4 + draw, total, "held-out texts, random neurons")
        draws.append(changes.without(random_neurons(counts, probe, seed=found.seed + draw)))
    progress("prune", total, total, "done")
    before, after = (sum(part.numel() for part in one.parameters()) for one in (probe.model, small))
    return Pruned(
        small,
        kept,
        (before, after),
        tuple(change.tolist()),
        tuple(torch.stack(draws).mean(0).tolist()) if draws else (),
        changes.measure,
    )


def _check_model(probe: NeuronProbe, found: BrickMap) -> None:
    own = [(part.keys, norms) for part, norms in zip(probe.parts, probe.value_norms, strict=True)]
    same = [path for path, _ in own] == [layer.path for layer in found.layers] and all(
        norms.shape == layer.value_norms.shape and torch.allclose(norms, layer.value_norms, rtol=1e-3)
        for (_, norms), layer in zip(own, found.layers, strict=True)
    )
    if not same:
        raise ModularizeError(
            f"the map is of another model than this {type(probe.model).__name__}: layers or weights differ; "
            "give the model that was mapped, or map this one"
        )


def _halves(found: BrickMap, labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split texts as those of a map."""
    first, heldout = split_texts(labels, seed=found.seed)
    for function, wanted in enumerate(found.texts):
        came = tuple([labels[place] for place in half].count(function) for half in (first, heldout))
        if came != wanted:
            raise DataError(
                f"{sum(came)} texts of {found.functions[function]} came, the map is made of {sum(wanted)}; "
                "give the texts of the map"
            )
    return first, heldout


def needed_neurons(found: BrickMap, functions: Sequence[str], *, share: float) -> dict[str, Tensor]:
    """Return the neurons of each feed-forward network that functions need most.

    On a map with experts whole experts stay; neurons that belong to none always do. Networks that have no
    experts keep as many neurons as those of their size that have, since a model of transformers has one size.

    Args:
        found: The map.
        functions: Names of the functions. A neuron counts by what it gives to the one that it gives most, as
            a share of what all neurons of the network give to that function.
        share: Share of the neurons (with experts: of the experts) of each network that stays, in (0, 1).

    Returns:
        Numbers of neurons, ascending, by the path of the layer that makes them.

    Raises:
        ModularizeError: A function is unknown, or the share is out of range.
    """
    places = found.chosen(functions)
    if not 0 < share < 1:
        raise ModularizeError(f"share = {share} is not allowed; allowed: more than 0 and less than 1")
    kept: dict[str, Tensor] = {}
    sizes: dict[int, int] = {}  # neurons that stay of so many, in networks with experts
    for layer in sorted(found.layers, key=lambda layer: layer.experts is None):
        given_FN = layer.output[places]
        need_N = (given_FN / given_FN.sum(1, keepdim=True).clamp(min=1e-12)).max(0).values
        if layer.experts is None:
            count = sizes.get(len(need_N), max(1, round(share * len(need_N))))
            stays = need_N.topk(count).indices
        else:
            experts_N = layer.experts
            count = int(experts_N.max()) + 1
            need_E = torch.zeros(count).index_add(0, experts_N.clamp(min=0), need_N * (experts_N >= 0))
            wanted = need_E.topk(max(1, round(share * count))).indices
            stays = (torch.isin(experts_N, wanted) | (experts_N < 0)).nonzero().flatten()
            sizes[len(need_N)] = len(stays)
        kept[layer.path] = stays.sort().values
    return {layer.path: kept[layer.path] for layer in found.layers}


def keep_neurons(
    model: nn.Module,
    kept: Mapping[str, Tensor],
    *,
    means: Mapping[str, Tensor] | None = None,
    inputs: Inputs | None = None,
) -> nn.Module:
    """Cut a smaller model out of a transformer, with some of the neurons of its feed-forward networks.

    Args:
        model: The transformer; changed meanwhile, then put back bit for bit.
        kept: Different numbers of the neurons that stay, by the path of the layer that makes them; networks
            that are not named stay whole.
        means: Activation of each neuron to which those that go are fixed, by the same paths: what they then
            give is added to the bias of the second matrix, where it has one. None for 0.
        inputs: Arguments by name of one run of the model; None to make some up.

    Returns:
        A plain model of the same class that shares nothing with it. Where all its feed-forward networks have
        one and the same number of neurons, `save_pretrained` writes what `from_pretrained` reads.

    Raises:
        ModularizeError: A path or a number is not the model's, or nothing would stay.
    """
    inputs = example_inputs(model) if inputs is None else inputs
    anatomy = find_anatomy(model, inputs)
    parts = {part.keys: part for layer in anatomy.layers for part in layer.feed_forwards}
    for path, numbers in kept.items():
        if path not in parts:
            raise ModularizeError(f"{path} makes no neurons of this model; known: {', '.join(parts)}")
        own = set(numbers.tolist())
        if not own or len(own) != len(numbers) or not own <= set(range(parts[path].neurons)):
            raise ModularizeError(
                f"{len(numbers)} neurons of {path} cannot stay; give one or more different numbers below "
                f"{parts[path].neurons}"
            )
    converted: list[Converted] = []
    try:
        for path, numbers in kept.items():
            converted.append(_split(model, parts[path], numbers))
        small = _cut(model, anatomy, converted, inputs, kept)
    finally:
        for done in reversed(converted):
            restore_(model, done)
    for path, mean in (means or {}).items():
        if path in kept:
            _add_means_(small, model, parts[path], kept[path], mean)
    return small


@torch.no_grad()
def _add_means_(small: nn.Module, model: nn.Module, part: FeedForward, kept: Tensor, mean_N: Tensor) -> None:
    """Add what neurons that are gone give on average to the bias of the second matrix."""
    bias = small.get_submodule(part.values)._parameters.get("bias")
    if bias is None:
        return
    weight = model.get_submodule(part.values).get_parameter("weight")
    gone_N = mean_N.to(weight.device, torch.float32).clone()
    gone_N[kept.to(weight.device)] = 0
    values_DN = weight.float().t() if part.transposed else weight.float()
    bias.add_((values_DN @ gone_N).to(bias))


def _split(model: nn.Module, part: FeedForward, kept: Tensor) -> Converted:
    """Let the neurons that stay stand first, in groups of equal size that none of the others is in."""
    kept = kept.sort().values.cpu()
    gone = torch.ones(part.neurons, dtype=torch.bool)
    gone[kept] = False
    order = torch.cat([kept, gone.nonzero().flatten()])
    width = gcd(len(kept), part.neurons)
    split = ExpertSplit(
        Subset(part.keys, part.neurons // width, minimum=1),
        neurons=part.neurons,
        expert_width=width,
        top_k=part.neurons // width,
        transposed=part.transposed,
    )
    split.mode = "dense"
    reorder_(model, part, order)
    return convert_(model, part, split, order=order, gate=None)


def _cut(
    model: nn.Module,
    anatomy: Anatomy,
    converted: list[Converted],
    inputs: Inputs,
    kept: Mapping[str, Tensor],
) -> nn.Module:
    experts = {one.part.keys: one.experts for one in converted}
    modular = ModularTransformer(model, network_of(model, inputs), anatomy, experts, 0.0, converted)
    config = {
        path: tuple(range(len(numbers) // experts[path].split.expert_width)) for path, numbers in kept.items()
    }
    return modular.extract(config)
