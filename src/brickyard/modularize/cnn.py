"""A trained CNN becomes a network of bricks: groups of the inner channels of its blocks can be on or off.

Which layers share channels comes from the dependency graph of torch-pruning (DepGraph, arXiv 2301.12900). A
set of channels that one layer makes and others read is inside a block, and becomes a `Subset`; channels that
several layers add into are the residual stream, which stays whole, as does everything that cannot be cut,
each with its reason. Modules are replaced where they stand and keep their weights, so the code around them
runs on. Inside a block the channels that matter most come first, as for the widths of once-for-all (arXiv
1908.09791, section 3.3), which changes nothing that is computed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.bricks import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear
from brickyard.core.brick import Width
from brickyard.core.decision import Subset
from brickyard.core.errors import MissingExtraError, ModularizeError
from brickyard.core.network import Network
from brickyard.core.space import CLASSES

TOLERANCE = 1e-5
_LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Identity, nn.Dropout)


@dataclass(frozen=True)
class Split:
    """Channels that became bricks.

    Attributes:
        decision: Name of the `Subset`: the path of the layer that makes the channels.
        layers: Paths of all layers that are cut with it, that one first.
        groups: Bricks.
        group_channels: Channels of a brick.
    """

    decision: str
    layers: tuple[str, ...]
    groups: int
    group_channels: int


@dataclass(frozen=True)
class Whole:
    """Channels that stay whole.

    Attributes:
        layers: Paths of the layers that make them.
        channels: How many there are.
        reason: Why they cannot be split.
    """

    layers: tuple[str, ...]
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class Modularized:
    """A modular network and what became of each part.

    Attributes:
        network: The network; with everything on it computes what the original does.
        split: What became bricks.
        whole: What stays whole, with reasons.
        error: Largest difference to the original on random inputs, as a share of the largest output.
    """

    network: Network
    split: tuple[Split, ...]
    whole: tuple[Whole, ...]
    error: float


@dataclass(frozen=True)
class _Member:
    """A layer that shares a set of channels: how it takes part, and whether in the channels' own order."""

    path: str
    module: nn.Module
    makes: bool
    ordered: bool


def modularize_cnn(
    module: nn.Module, *, input_shape: tuple[int, ...], group_channels: int = 4, classes: bool = True
) -> Modularized:
    """Turn a trained CNN into a modular network.

    Args:
        module: Maps pictures `[batch, channels, height, width]` to one tensor; left as it is. Its
            convolutions, normalisations and linear layers must be modules.
        input_shape: Shape `[channels, height, width]` of one picture.
        group_channels: Most channels of a brick; the largest number up to it that divides a set of channels
            is taken.
        classes: Whether the last linear layer scores classes, whose rows then become a `Subset` named
            `classes`.

    Returns:
        The network, and what was and was not split.

    Raises:
        ModularizeError: The module cannot be traced, nothing in it can be split, or the result would compute
            something else.
        MissingExtraError: torch-pruning is not installed.
    """
    if group_channels < 1:
        raise ModularizeError(f"group_channels = {group_channels} is not allowed; allowed: 1 or more")
    root = copy.deepcopy(module).cpu().eval()
    paths = {id(part): path for path, part in root.named_modules()}
    image = torch.zeros(1, *input_shape)
    graph = _dependencies(root, image)
    widths: dict[str, tuple[Width | None, Width | None]] = {}
    split: list[Split] = []
    whole: list[Whole] = []
    head = _head(graph, root, paths) if classes else None
    for bundle in _bundles(list(_channel_sets(graph, root, paths))):
        maker = bundle[0][0]
        if maker.path == head:
            channels = _channels(maker.module)
            _assign(widths, bundle[0], Width(Subset(CLASSES, channels, minimum=1), channels))
            continue
        reason = _bundle_obstacle(bundle, graph)
        if reason is None:
            parts = _bricks(bundle, group_channels)
            _sort_(bundle, parts)
            subset = Subset(maker.path, parts, minimum=1)
            for members in bundle:
                channels = _channels(members[0].module)
                _assign(widths, members, Width(subset, channels, channels // parts))
            layers = tuple(dict.fromkeys(member.path for members in bundle for member in members))
            split.append(Split(maker.path, layers, parts, _channels(maker.module) // parts))
        else:
            for members in bundle:
                makers = tuple(member.path for member in members if member.makes)
                whole.append(Whole(makers, _channels(members[0].module), reason))
    if not split:
        reasons = "; ".join(f"{part.layers[0]}: {part.reason}" for part in whole) or "it has no convolutions"
        raise ModularizeError(f"nothing in this network can be split ({reasons})")
    pairs = list(_norm_pairs(graph, paths))
    for path, layer in root.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine and layer.running_mean is not None:
            widths.setdefault(path, (None, None))  # not cut, but it may get several norm sets
    for path, (width_in, width_out) in widths.items():
        root.set_submodule(path, _elastic(root.get_submodule(path), width_in, width_out))
    network = Network(root, input_shape=input_shape, norm_pairs=pairs).eval()
    error = _check(module, network)
    return Modularized(network, tuple(split), tuple(whole), error)


def _dependencies(root: nn.Module, image: Tensor) -> Any:
    try:
        import torch_pruning
    except ImportError:
        raise MissingExtraError("torch_pruning", extra="modularize") from None
    for parameter in root.parameters():
        parameter.requires_grad_(True)  # the graph is read off the gradients
    try:
        with torch.no_grad():
            output = root(image)
        if not isinstance(output, Tensor):
            raise ModularizeError(
                f"the network gives a {type(output).__name__}; wrap it in a module that gives its scores "
                "alone"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of single parameters, which stay whole here
            return torch_pruning.DependencyGraph().build_dependency(root, image)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModularizeError(
            f"the network does not run on an input of shape {[1, *image.shape[1:]]}: {error}"
        ) from error


def _channel_sets(graph: Any, root: nn.Module, paths: Mapping[int, str]) -> Iterator[list[_Member]]:
    """Yield the layers that share each set of channels, the one that makes it first."""
    done: set[int] = set()
    for layer in root.modules():
        if not _makes_channels(layer) or id(layer) in done or layer not in graph.module2node:
            continue
        cut_out = graph.get_pruner_of_module(layer).prune_out_channels
        indices = list(range(_channels(layer)))
        members: dict[int, _Member] = {}
        for dependency, found in graph.get_pruning_group(layer, cut_out, indices):
            target = dependency.target.module
            makes = graph.is_out_channel_pruning_fn(dependency.handler) and _makes_channels(target)
            if makes:
                done.add(id(target))
            before = members.get(id(target))
            members[id(target)] = _Member(
                paths.get(id(target), dependency.target.name),
                target,
                makes or (before is not None and before.makes),
                list(found) == indices,
            )
        yield list(members.values())


def _makes_channels(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and not _is_depthwise(layer))


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and not _is_depthwise(layer)


def _bundles(sets: list[list[_Member]]) -> Iterator[list[list[_Member]]]:
    """Yield the sets of channels that must be cut together, since grouped convolutions join them."""
    while sets:
        bundle, joints = [sets.pop(0)], {""}
        for members in bundle:
            joints |= {member.path for member in members if _is_grouped(member.module)}
            joined = [other for other in sets if any(member.path in joints for member in other)]
            bundle += joined
            sets = [other for other in sets if not any(other is found for found in joined)]
        yield bundle


def _bricks(bundle: Sequence[Sequence[_Member]], group_channels: int) -> int:
    """Return how many bricks a bundle is cut into: as many as group_channels and grouped layers allow."""
    channels = _channels(bundle[0][0].module)
    modules = [member.module for members in bundle for member in members]
    most = min(
        (layer.groups for layer in modules if isinstance(layer, nn.Conv2d) and _is_grouped(layer)),
        default=channels,
    )
    fits = [parts for parts in range(1, most + 1) if most % parts == 0]
    return min((parts for parts in fits if channels // parts <= group_channels), default=most)


@torch.no_grad()
def _sort_(bundle: Sequence[Sequence[_Member]], bricks: int) -> None:
    """Move the most important channels to the front, in place; of bundles whole bricks."""
    units = bricks if len(bundle) > 1 else _channels(bundle[0][0].module)
    importance = sum(_importance(members).reshape(units, -1).square().mean(1) for members in bundle)
    assert isinstance(importance, Tensor)
    order = importance.argsort(descending=True, stable=True)
    for members in bundle:
        entries = torch.arange(_channels(members[0].module)).reshape(units, -1)[order].reshape(-1)
        for member in members:
            for name, tensor in [*member.module.named_parameters(), *member.module.named_buffers()]:
                if tensor.dim() and (member.makes or _per_channel(member.module)):
                    tensor.copy_(tensor[entries])
                elif name == "weight" and not _is_grouped(member.module):
                    tensor.copy_(tensor[:, entries])


def _per_channel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.BatchNorm2d) or (isinstance(layer, nn.Conv2d) and _is_depthwise(layer))


def _importance(members: Sequence[_Member]) -> Tensor:
    """Return what each channel carries: the scale it is made with times the weights that read it.

    A batch normalisation sets the scale, whatever made the channel.
    """
    norms = [member.module for member in members if isinstance(member.module, nn.BatchNorm2d)]
    scale = torch.ones(())
    read = torch.zeros(())
    for member in members:
        weight = member.module.weight if isinstance(member.module, _LAYERS) else None
        if not isinstance(weight, Tensor):
            continue
        if isinstance(member.module, nn.BatchNorm2d) or (member.makes and not norms):
            scale = scale * weight.flatten(1).norm(dim=1) if weight.dim() > 1 else scale * weight.abs()
        elif not member.makes and not _per_channel(member.module) and not _is_grouped(member.module):
            read = read + weight.transpose(0, 1).flatten(1).square().sum(1)
    return scale * read.sqrt() if read.dim() else scale


def _channels(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[0])


def _bundle_obstacle(bundle: Sequence[Sequence[_Member]], graph: Any) -> str | None:
    """Return why sets of channels that belong together cannot be split, None if they can."""
    reason = next(filter(None, (_obstacle(members, graph) for members in bundle)), None)
    joints = {
        member.path: member.module.groups
        for members in bundle
        for member in members
        if isinstance(member.module, nn.Conv2d) and _is_grouped(member.module)
    }
    if reason is None and len(set(joints.values())) > 1:
        reason = "another number of groups joins them as well"
    if reason is None or len(bundle) == 1:
        return reason
    path, groups = next(iter(joints.items()))
    return f"{path} has {groups} groups, which join them to other channels: {reason}"


def _obstacle(members: Sequence[_Member], graph: Any) -> str | None:
    """Return why a set of channels cannot be split, None if it can."""
    makers = [member for member in members if member.makes]
    if len(makers) > 1 and not _only_scaled(members, graph):
        return f"{len(makers)} layers make the same channels (a residual stream)"
    # Operations without a module of their own stand in the graph under names with an underscore.
    layers = [member for member in members if not type(member.module).__name__.startswith("_")]
    found = next(filter(None, map(_layer_obstacle, layers)), None)
    if found is not None:
        return found
    if any(type(member.module).__name__ in ("_ConcatOp", "_SplitOp") for member in members):
        return "the channels are concatenated with others or split"
    if not any(isinstance(member.module, nn.Conv2d | nn.Linear) and not member.makes for member in layers):
        return "no layer reads the channels: they leave the network"
    return None


def _only_scaled(members: Sequence[_Member], graph: Any) -> bool:
    """Tell whether layers of the same channels meet in products alone, as in squeeze-and-excitation."""
    nodes = [graph.module2node[member.module] for member in members if member.module in graph.module2node]
    meet = [node for node in nodes if len(node.inputs) > 1 and type(node.module).__name__ == "_ElementWiseOp"]
    return all("Mul" in node.name for node in meet)


def _layer_obstacle(member: _Member) -> str | None:
    """Return why a layer cannot be cut with a set of channels, None if it can."""
    layer, path = member.module, member.path
    if not isinstance(layer, (*_LAYERS, *_ELEMENTWISE)):
        return f"{path} ({type(layer).__name__}) works across channels or cannot be cut"
    if not member.ordered:
        return f"{path} reads the channels in another order or number (flattened or concatenated)"
    if isinstance(layer, nn.Conv2d):
        found = _unusual(layer)
        return f"{path} has {found}" if found else None
    if isinstance(layer, nn.BatchNorm2d) and (layer.running_mean is None or not layer.affine):
        return f"{path} normalises without running statistics or without weights"
    return None


def _unusual(layer: nn.Conv2d) -> str | None:
    """Return what an elastic convolution does not do, None if it does all that this layer does."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return f"padding {layer.padding!r} of mode {layer.padding_mode!r}"
    for name in ("kernel_size", "stride", "padding", "dilation"):
        first, second = getattr(layer, name)
        if first != second:
            return f"different values of {name} for height and width"
    return f"dilation {layer.dilation[0]}" if layer.dilation[0] != 1 else None


def _head(graph: Any, root: nn.Module, paths: Mapping[int, str]) -> str:
    """Find the last linear layer, whose outputs leave the network."""
    linear = [
        layer for layer in root.modules() if isinstance(layer, nn.Linear) and layer in graph.module2node
    ]
    ends = [layer for layer in linear if not graph.module2node[layer].outputs]
    if len(ends) != 1:
        raise ModularizeError(
            f"the network ends in {len(ends)} linear layers; one that scores the classes is needed"
        )
    return paths[id(ends[0])]


def _norm_pairs(graph: Any, paths: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Yield convolutions with the batch normalisation that alone reads each."""
    for layer, node in graph.module2node.items():
        if isinstance(layer, nn.Conv2d) and len(node.outputs) == 1:
            reader = node.outputs[0].module
            if isinstance(reader, nn.BatchNorm2d) and len(node.outputs[0].inputs) == 1:
                yield paths[id(layer)], paths[id(reader)]


def _assign(
    widths: dict[str, tuple[Width | None, Width | None]], members: Sequence[_Member], width: Width
) -> None:
    """Note for each layer what cuts the channels it reads and those it makes."""
    for member in members:
        if isinstance(member.module, _LAYERS):
            width_in, width_out = widths.get(member.path, (None, None))
            both = _per_channel(member.module)
            widths[member.path] = (
                width_in if member.makes and not both else width,
                width if member.makes or both else width_out,
            )


def _elastic(layer: nn.Module, width_in: Width | None, width_out: Width | None) -> nn.Module:
    """Build the elastic twin of a layer, which takes its tensors over."""
    twin: ElasticConv2d | ElasticLinear | ElasticBatchNorm2d
    if isinstance(layer, nn.BatchNorm2d):
        twin = ElasticBatchNorm2d(
            layer.num_features, width=width_out, eps=layer.eps, momentum=layer.momentum or 0.1
        )
        twin.running_mean, twin.running_var = layer.running_mean, layer.running_var  # type: ignore[assignment]
    elif isinstance(layer, nn.Conv2d):
        assert isinstance(layer.padding, tuple)
        twin = ElasticConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size[0],
            stride=layer.stride[0],
            padding=layer.padding[0],
            groups=layer.groups,
            width_in=width_in,
            width_out=width_out,
        )
    else:
        assert isinstance(layer, nn.Linear)
        twin = ElasticLinear(layer.in_features, layer.out_features, width_in=width_in, width_out=width_out)
    twin.weight = layer.weight  # type: ignore[assignment]
    twin.bias = layer.bias  # type: ignore[assignment]
    return twin


@torch.no_grad()
def _check(original: nn.Module, network: Network) -> float:
    """Compare the network with the original, and a subnet in place with its extracted module.

    Raises:
        ModularizeError: One differs.
    """
    image = torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0))
    mode = original.training
    device = next(original.parameters()).device
    expected = original.eval()(image.to(device)).cpu()
    original.train(mode)
    error = _difference(network(image), expected)
    if not error <= TOLERANCE:
        raise ModularizeError(
            f"with all bricks on, the network differs from the original by {error:.3g} of the largest "
            "output; it computes something that its layers do not show"
        )
    largest = network.space.largest()
    for decision in network.space:
        assert isinstance(decision, Subset)
        half = largest.replace({decision.name: tuple(range(0, decision.count, 2))})
        gates = torch.zeros(len(image), decision.count)
        gates[:, ::2] = 1.0
        cut = network.extract(half)(image)
        with network.configured(half):
            active = network(image)
        apart = _difference(cut, active)
        if decision.name != CLASSES:
            with network.gated({decision.name: gates}):
                apart = max(apart, _difference(cut, network(image)))
        if not apart <= TOLERANCE:
            raise ModularizeError(
                f"half of the bricks of {decision.name!r} compute something else when they are cut out "
                f"({apart:.3g} of the largest output); something in between works across channels"
            )
    return error


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max().clamp(min=1.0))
