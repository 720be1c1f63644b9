"""A dense transformer becomes modular: the neurons of its feed-forward networks form experts.

Emergent mixture of experts (EMoE, arXiv 2310.10908): neurons of a trained feed-forward network are grouped
into experts, a token uses the experts whose keys agree with it most, and nothing is added. A model is trained
so and then taken back to the dense network. Differences to the paper's code:

- the second matrix has one bias, outside of the experts, so that taking back is exact;
- no noise on the gate, no capacity, no auxiliary loss and no dropout of its own;
- neurons that are active for most tokens can stay outside of the experts, and are always used.

The model is changed in place: neurons change their order, layers their class. Parameters stay the objects
that they were, under their names.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.bricks.experts import ExpertGate, Experts, ExpertSplit
from brickyard.core.decision import Subset
from brickyard.core.errors import ModularizeError
from brickyard.core.feed_forward import GATES, MODES, Gate, Mode
from brickyard.core.network import Network
from brickyard.modularize.conversion import Converted, convert_, reorder_, restore_
from brickyard.modularize.intake import Anatomy, FeedForward, Inputs, example_inputs, find_anatomy
from brickyard.modularize.partition import PARTITIONS, Partition, partition_neurons
from brickyard.modularize.text_encoder import at_rest

_WIDTHS = (  # what configs name the number of neurons
    *("intermediate_size", "n_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff"),
    *("hidden_dim", "ffn_hidden_size"),
)
_SAMPLE_TOKENS = 8192  # most tokens of a sample that activity is kept of
_TOLERANCE = 1e-4  # most that outputs may differ by, as a share of the largest
_MAX_SEED = 2**32 - 1  # that scikit-learn takes
_STEPS = 16  # the same for numbers of low precision, in steps of the numbers at 1


@dataclass(eq=False)
class ModularTransformer:
    """A transformer with experts, changed in place.

    Attributes:
        model: The model, the object that was handed in.
        network: The same as a network of bricks: `configure` and `extract` say which experts are there.
        anatomy: What was found in the model.
        experts: Experts by the path of the layer that makes their neurons; also the names of the decisions.
        error: Largest difference to the original's output with all experts, as a share of the largest output.
    """

    model: nn.Module
    network: Network
    anatomy: Anatomy
    experts: dict[str, Experts]
    error: float
    _converted: list[Converted] = field(repr=False)

    def use(self, mode: Mode) -> None:
        """Choose how experts are computed, in all layers.

        Args:
            mode: `dense`: all experts for every token, equal to the original up to rounding, since sums run
                in another order. `masked`: the `top_k` experts of each token, gradients go through those
                alone. `sparse`: the same, computing nothing else, where no gradients are recorded.

        Raises:
            ModularizeError: Unknown mode, or the model is dense again.
        """
        if mode not in MODES:
            raise ModularizeError(f"mode = {mode!r} is unknown; known: {', '.join(MODES)}")
        if not self.experts:
            raise ModularizeError("this model is dense again, without modes; modularize it anew for experts")
        for experts in self.experts.values():
            experts.split.mode = mode

    @contextmanager
    def using(self, mode: Mode) -> Iterator[ModularTransformer]:
        """Choose how experts are computed inside a `with` block."""
        before = {name: experts.split.mode for name, experts in self.experts.items()}
        self.use(mode)
        try:
            yield self
        finally:
            for name, experts in self.experts.items():
                experts.split.mode = before[name]

    def orders(self) -> dict[str, Tensor]:
        """Return for each decision the original numbers of the neurons in the order in which they stand."""
        return {converted.part.keys: converted.order for converted in self._converted}

    def extract(self, config: Mapping[str, Any] | None = None) -> nn.Module:
        """Cut out a model that has only the experts of a config, and no bricks.

        In mode `dense`, or where no more than `top_k` experts of a layer are left, its layers are those of
        the original, but narrower; else, and with a learned gate, a `RoutedFeedForward` stands in the place
        of the first one.

        Args:
            config: Which experts stay; the active ones if None.

        Returns:
            A model of the original's class that shares nothing with it. Where all its feed-forward networks
            have one and the same number of neurons, its config of transformers tells that number, so that
            `save_pretrained` writes a folder which `from_pretrained` reads; else that of the whole model.

        Raises:
            ConfigError: The config is not legal.
        """
        plain = self.network.extract(config)
        with self.network.configured(self.network.space.active() if config is None else config):
            splits = [experts.split for experts in self.experts.values()]
            found = {split.cut(0).length(split.subset.value) for split in splits}
            routed = any(split.routing().chooses for split in splits)
        parts = [part for layer in self.anatomy.layers for part in layer.feed_forwards]
        if len(found) == 1 and not routed and len(parts) == len(splits) and not self.anatomy.whole:
            _tell_width_(plain, {part.neurons for part in parts}, found.pop())
        return plain

    @torch.no_grad()
    def revert(self) -> nn.Module:
        """Make the model dense again, in place, with the weights that it has now.

        Original layers return to their places and neurons to their order: without training in between, the
        state dict is that of the original, bit for bit. Make a new optimizer, whose state has the old order.

        Returns:
            The model.

        Raises:
            ModularizeError: It is dense again already.
        """
        if not self.experts:
            raise ModularizeError("this model is dense again already; modularize it anew for experts")
        for converted in self._converted:
            restore_(self.model, converted)
        self.experts = {}
        return self.model


def modularize_transformer(
    model: nn.Module,
    *,
    experts: int = 64,
    top_k: int = 16,
    layers: str | Sequence[int] = "last-even:2",
    partition: Partition = "kmeans",
    resident: int = 0,
    gate: Gate = "keys",
    inputs: Inputs | None = None,
    sample: Iterable[Inputs] | None = None,
    seed: int = 0,
    cache: bool = True,
) -> ModularTransformer:
    """Turn the feed-forward networks of a transformer into experts, in place.

    Args:
        model: A trained transformer; changed. See `brickyard.modularize.intake` for what is found in it.
        experts: Experts of a layer; must divide its neurons, without the resident ones.
        top_k: Experts that a token uses.
        layers: Which layers, counted from 0 in the order in which they run: their numbers; or `all`, `last:K`
            or `last-even:K`, the last K layers, or the last K with even numbers.
        partition: How neurons are grouped: `kmeans`, `coactivation`, `random` or `sequential`.
        resident: Neurons of a layer that belong to no expert and are always used: those that are active for
            most tokens of the sample.
        gate: How a token chooses: `keys`, the experts whose mean key agrees with it most; `lowest`, those
            that agree least, a control; `learned`, by a gate with weights of its own (named
            `<decision>.gate`) that train with the model and multiply results, the paper's ablation.
        inputs: Arguments by name of one run of the model, by which its parts are found; None to make some up.
        sample: Arguments by name of runs, for `coactivation` and `resident` alone; tokens that an
            `attention_mask` hides do not count.
        seed: Seed of the partition, 0 to 4,294,967,295.
        cache: Whether to read and keep partitions in the user's cache folder.

    Returns:
        The modular model, in mode `masked`.

    Raises:
        ModularizeError: A setting is out of range, a layer cannot be split, or the result computes something
            else; the model is then as it was.
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> modular = modularize_transformer(model, experts=64, top_k=16)
        >>> train(model)
        >>> modular.revert()
    """
    _check_settings(experts, top_k, layers, resident, seed)
    if partition not in PARTITIONS:
        raise ModularizeError(f"partition = {partition!r} is unknown; known: {', '.join(PARTITIONS)}")
    if gate not in GATES:
        raise ModularizeError(f"gate = {gate!r} is unknown; known: {', '.join(GATES)}")
    needs = bool(resident) or partition == "coactivation"
    if needs and sample is None:
        what = f"resident = {resident}" if resident else "partition = 'coactivation'"
        raise ModularizeError(f"{what} needs a sample of inputs; give sample=[inputs, ...]")
    if sample is not None and not needs:
        raise ModularizeError(
            f"partition = {partition!r} without resident neurons reads no sample; leave the sample out, or "
            "choose partition = 'coactivation' or resident neurons"
        )
    if present := [path for path, part in model.named_modules() if isinstance(part, Experts)]:
        raise ModularizeError(
            f"this {type(model).__name__} has experts already, {present[0]} the first; revert it before, and "
            "name all layers at once"
        )
    inputs = example_inputs(model) if inputs is None else inputs
    anatomy = find_anatomy(model, inputs)
    parts = _chosen(model, anatomy, layers)
    for part in parts:
        if resident < 0 or resident >= part.neurons or (part.neurons - resident) % experts:
            raise ModularizeError(
                f"{part.keys} has {part.neurons} neurons, {resident} of them resident; the others cannot be "
                f"split into {experts} experts of equal size; choose a number that divides them"
            )
    active = active_neurons(model, parts, sample or ()) if needs else {}
    before = _output(model, inputs)
    converted: list[Converted] = []
    found: dict[str, Experts] = {}
    try:
        for part in parts:
            seen = active.get(part.activation)
            order = _order(model, part, seen, experts, resident, method=partition, seed=seed, cache=cache)
            split = ExpertSplit(
                Subset(part.keys, experts, minimum=1),
                neurons=part.neurons,
                expert_width=(part.neurons - resident) // experts,
                top_k=top_k,
                transposed=part.transposed,
                gate=gate,
            )
            reorder_(model, part, order)
            learned = ExpertGate(_width(model, part), split.subset, seed=seed) if gate == "learned" else None
            converted.append(convert_(model, part, split, order=order, gate=learned))
            found[part.keys] = converted[-1].experts
        network = network_of(model, inputs)
        modular = ModularTransformer(model, network, anatomy, found, 0.0, converted)
        with modular.using("dense"):
            modular.error = _difference(_output(model, inputs), before)
        allowed = max(_TOLERANCE, _STEPS * torch.finfo(before.dtype).eps)
        if not modular.error <= allowed:
            raise ModularizeError(
                f"with all experts the model differs from the original by {modular.error:.3g} of the largest "
                f"output, allowed: {allowed:.3g}; it computes something that its layers do not show"
            )
    except BaseException:
        for done in reversed(converted):
            restore_(model, done)
        raise
    return modular


def _check_settings(experts: Any, top_k: Any, layers: Any, resident: Any, seed: Any) -> None:
    """Refuse numbers that are none, or out of range."""
    settings = {"experts": (experts, 1), "top_k": (top_k, 1), "resident": (resident, 0), "seed": (seed, 0)}
    for name, (value, least) in settings.items():
        if type(value) is not int or value < least:
            raise ModularizeError(f"{name} = {value!r} is not allowed; allowed: whole numbers from {least}")
    if top_k > experts:
        raise ModularizeError(f"top_k = {top_k} is not allowed; allowed: 1 to experts = {experts}")
    if seed > _MAX_SEED:
        raise ModularizeError(f"seed = {seed} is not allowed; allowed: 0 to {_MAX_SEED}")
    named = isinstance(layers, str)
    if not named and not (isinstance(layers, Sequence) and all(type(number) is int for number in layers)):
        raise ModularizeError(
            f"layers = {layers!r} is not allowed; allowed: a list of whole numbers, or a text: all, last:K, "
            "last-even:K, or numbers with commas between"
        )


def _tell_width_(plain: Any, before: set[int], neurons: int) -> None:
    """Let the config of a model of transformers tell how many neurons its feed-forward networks have now."""
    if hasattr(plain, "config"):
        plain.config = copy.deepcopy(plain.config)
        for name in _WIDTHS:
            if hasattr(plain.config, name) and getattr(plain.config, name) in {*before, None}:
                setattr(plain.config, name, neurons)


def _chosen(model: nn.Module, anatomy: Anatomy, layers: str | Sequence[int]) -> list[FeedForward]:
    """Return the feed-forward networks of the layers that are asked for."""
    count = len(anatomy.layers)
    if not count:
        why = _why_none(model, anatomy, "")
        raise ModularizeError(f"this {type(model).__name__} has no feed-forward network to split: {why}")
    numbers = _numbers(layers, count)
    if not numbers or not all(0 <= number < count for number in numbers):
        raise ModularizeError(f"layers = {layers!r} names no layers of this model; it has {count}, from 0")
    parts: list[FeedForward] = []
    for number in numbers:
        layer = anatomy.layers[number]
        if not layer.feed_forwards:
            why = _why_none(model, anatomy, f"{layer.path}.")
            raise ModularizeError(
                f"layer {number} ({layer.path}) has no feed-forward network to split: {why}"
            )
        parts += layer.feed_forwards
    return parts


def adapters(model: nn.Module) -> list[str]:
    """Return the paths of the parts of a model that have adapters of peft."""
    return [path for path, part in model.named_modules() if "base_layer" in part._modules]


def _why_none(model: nn.Module, anatomy: Anatomy, start: str) -> str:
    """Return why no feed-forward network is found at paths of this start."""
    adapted = [path for path in adapters(model) if path.startswith(start)]
    inside = [part for part in anatomy.whole if part.layers[0].startswith(start)]
    inside = [part for part in inside if not part.layers[0].startswith(tuple(f"{path}." for path in adapted))]
    if inside:
        return inside[0].reason
    if adapted:
        return (
            f"{len(adapted)} parts of it have adapters, {adapted[0]} the first, and feed-forward networks "
            "with adapters are not recognised; merge them before (merge_and_unload), or put adapters on the "
            "attention alone, after modularize"
        )
    where = "" if start else " in a ModuleList, or in a Sequential of blocks of one class"
    return f"none was found{where}"


def _numbers(layers: str | Sequence[int], count: int) -> list[int]:
    """Return the numbers of layers that a text or a list names."""
    if not isinstance(layers, str):
        return sorted(set(layers))
    kind, _, last = layers.partition(":")
    known = {"last": list(range(count)), "last-even": list(range(0, count, 2))}
    if layers == "all":
        return list(range(count))
    if kind in known and last.isdecimal() and 1 <= int(last) <= len(known[kind]):
        return known[kind][-int(last) :]
    try:
        return sorted({int(part) for part in layers.split(",")})
    except ValueError:
        raise ModularizeError(
            f"layers = {layers!r} is not allowed for {count} layers; allowed: all, last:K, last-even:K with "
            "K up to the number of such layers, or numbers with commas between"
        ) from None


def _width(model: nn.Module, part: FeedForward) -> int:
    """Return the width of the tokens that a feed-forward network reads."""
    return model.get_submodule(part.keys).get_parameter("weight").numel() // part.neurons


def _order(
    model: nn.Module,
    part: FeedForward,
    active_TF: Tensor | None,
    experts: int,
    resident: int,
    *,
    method: Partition,
    seed: int,
    cache: bool,
) -> Tensor:
    """Return the order of neurons in which experts stand one after the other, resident neurons last."""
    weight = model.get_submodule(part.keys).get_parameter("weight").detach()
    keys_FD = weight.t() if part.transposed else weight
    always = torch.zeros(part.neurons, dtype=torch.bool)
    if resident:
        assert active_TF is not None
        often = active_TF.float().mean(0).argsort(descending=True, stable=True)
        always[often[:resident]] = True
    rest = (~always).nonzero().flatten()
    labels = partition_neurons(
        keys_FD[rest.to(keys_FD.device)],
        experts,
        method=method,
        active_TF=None if active_TF is None or method != "coactivation" else active_TF[:, rest],
        seed=seed,
        cache=cache,
    )
    return torch.cat([rest[labels.argsort(stable=True)], always.nonzero().flatten()])


def active_neurons(
    model: nn.Module, parts: Sequence[FeedForward], sample: Iterable[Inputs]
) -> dict[str, Tensor]:
    """Return for each activation which neurons it leaves positive, `[tokens, neurons]`.

    Args:
        model: The model.
        parts: Its feed-forward networks.
        sample: Arguments by name of runs; tokens that an `attention_mask` leaves out do not count.

    Raises:
        ModularizeError: The sample has no tokens, or the model does not run on it.
    """
    kept: dict[str, list[Tensor]] = {part.activation: [] for part in parts}
    real: Tensor | None = None

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            rows = output.flatten(0, -2)
            if real is not None and real.numel() == len(rows):
                rows = rows[real.flatten().bool()]
            kept[path].append((rows > 0).cpu())

        return hook

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in kept]
    tokens = 0
    try:
        with at_rest(model):
            for inputs in sample:
                real = inputs.get("attention_mask")
                try:
                    model(**inputs)
                except (RuntimeError, TypeError, ValueError, IndexError) as error:
                    raise ModularizeError(
                        f"{type(model).__name__} does not run on a sample of {', '.join(inputs)}: {error}; "
                        "give each run all arguments that the model needs"
                    ) from error
                tokens = min(sum(len(rows) for rows in found) for found in kept.values())
                if tokens >= _SAMPLE_TOKENS:
                    break
    finally:
        for handle in handles:
            handle.remove()
    if not tokens:
        raise ModularizeError("the sample has no tokens; give sample=[inputs, ...]")
    return {path: torch.cat(found)[:_SAMPLE_TOKENS] for path, found in kept.items()}


def network_of(model: nn.Module, inputs: Inputs) -> Network:
    """Return a model that holds bricks as a network.

    Args:
        model: The model.
        inputs: Arguments by name of one run, whose first tells the shape of inputs.
    """
    first = next(iter(inputs.values()))
    ids = not first.is_floating_point()
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    sizes = (int(vocab_size),) if ids and vocab_size is not None else ()
    return Network(model, input_shape=tuple(first.shape[1:]), vocab_sizes=sizes)


def _output(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the first tensor of numbers that a model gives in evaluation mode."""
    with at_rest(model):
        given = model(**inputs)
    parts = [given] if isinstance(given, Tensor) else given.values() if isinstance(given, Mapping) else given
    found = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    if not found:
        raise ModularizeError(f"{type(model).__name__} gives no tensor of numbers to compare")
    return found[0]


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
