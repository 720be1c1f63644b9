"""Finds layers, attention and feed-forward networks of a transformer by what they compute, not by names.

The model runs once on a small input. Of each layer of it that holds no other (a leaf), what went in and came
out is kept, and each attention is noticed. A leaf is a matrix if it computes what its `weight` says, as
`[out, in]` or `[in, out]`. Then:

- a feed-forward network is a matrix whose input came from another one by an activation, and whose output is
  as wide as that one's input; or whose input is the activated output of a second matrix times that of a third
  (gated). An activation is a leaf without weights that acts on each number by itself; a dropout may follow;
- an attention is the matrices with a common input that precede scaled dot-product attention or a softmax over
  `[batch, heads, tokens, keys]`, with a query of another input in front of them if they are two, and the
  matrix that follows;
- a layer is a child of the outermost `ModuleList`, or `Sequential` of blocks of one class, around these.

An `Identity` between them counts for nothing. A second run in which dropout written as a function is active
makes sure that none stands inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from brickyard.core.errors import ModularizeError
from brickyard.modularize.cnn import Whole

Inputs = Mapping[str, Tensor]
_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


@dataclass(frozen=True)
class FeedForward:
    """Paths of the layers of a feed-forward network.

    Attributes:
        keys: Layer of the first matrix; in a gated network the one whose result is activated.
        activation: The activation.
        values: Layer of the second matrix.
        gated: Layer whose result is multiplied with the activated one, None if there is none.
        dropout: Dropout in front of the second matrix, None if there is none.
        neurons: Number of neurons.
        transposed: Whether the layers keep weights as `[in, out]`.
    """

    keys: str
    activation: str
    values: str
    gated: str | None
    dropout: str | None
    neurons: int
    transposed: bool


@dataclass(frozen=True)
class Attention:
    """Paths of the layers of an attention.

    Attributes:
        query: Layer that makes the queries; with one layer for all three, that one.
        key: Layer that makes the keys.
        value: Layer that makes the values.
        output: Layer that reads the heads.
        num_heads: Heads of the queries.
        num_key_value_heads: Heads of keys and values, of which each serves as many heads of the queries.
        head_dim: Width of a head.
    """

    query: str
    key: str
    value: str
    output: str
    num_heads: int
    num_key_value_heads: int
    head_dim: int


@dataclass(frozen=True)
class Layer:
    """A layer of a transformer.

    Attributes:
        path: Its path in the model.
        attentions: Its attentions in the order in which they run.
        feed_forwards: Its feed-forward networks in that order.
    """

    path: str
    attentions: tuple[Attention, ...]
    feed_forwards: tuple[FeedForward, ...]


@dataclass(frozen=True)
class Anatomy:
    """What was found in a transformer.

    Attributes:
        layers: Its layers in the order in which they run.
        whole: Pairs of matrices that could be feed-forward networks and are none that can be split, each
            with its reason.
    """

    layers: tuple[Layer, ...]
    whole: tuple[Whole, ...]


def find_anatomy(model: nn.Module, inputs: Inputs) -> Anatomy:
    """Find the layers of a transformer and what they are made of.

    Args:
        model: The model; it is run twice and left as it is.
        inputs: Arguments by name of one run; a few tokens, or one picture, do.

    Returns:
        The layers.

    Raises:
        ModularizeError: The model does not run on these inputs.
    """
    at_rest, training = _record(model, inputs, dropping=False), _record(model, inputs, dropping=True)
    found, whole = _feed_forwards(at_rest, model)
    again = set(_feed_forwards(training, model)[0])
    ran = {call.path for call in training.calls}
    dropped = [part for part in found if part.values in ran and part not in again]
    why = "a function between them acts in training alone"
    whole += [Whole((part.keys, part.values), part.neurons, why) for part in dropped]
    attentions = list(_attentions(at_rest))
    attends = {path for part in attentions for path in (part.query, part.key, part.value, part.output)}
    whole = [part for part in whole if not attends.intersection(part.layers)]
    layers: dict[str, tuple[list[Attention], list[FeedForward]]] = {}
    order = {call.path: place for place, call in reversed(list(enumerate(at_rest.calls)))}
    parts: list[Attention | FeedForward] = [*attentions, *(part for part in found if part not in dropped)]
    for part in sorted(parts, key=lambda part: order[_first(part)]):
        path = _layer_path(model, _first(part))
        if path is None:
            continue
        into = layers.setdefault(path, ([], []))
        if isinstance(part, Attention):
            into[0].append(part)
        else:
            into[1].append(part)
    return Anatomy(
        tuple(Layer(path, tuple(one), tuple(other)) for path, (one, other) in layers.items()), tuple(whole)
    )


def example_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Return a small input for a model of transformers: eight tokens, or one picture of random pixels.

    Args:
        model: A model with a `config`.

    Returns:
        Arguments by name.

    Raises:
        ModularizeError: Its config tells neither a vocabulary nor a picture size.
    """
    config = getattr(model, "config", None)
    name = getattr(model, "main_input_name", "input_ids")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    vocab_size, image_size = getattr(config, "vocab_size", None), getattr(config, "image_size", None)
    if name == "pixel_values" and image_size is not None:
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(1, getattr(config, "num_channels", 3), *sides, generator=generator)
        return {name: pixels.to(device)}
    if name == "input_ids" and isinstance(vocab_size, int):
        ids = (torch.arange(3, 11) % vocab_size)[None].to(device)
        return {name: ids, **({"decoder_input_ids": ids} if config.is_encoder_decoder else {})}  # type: ignore[union-attr]
    raise ModularizeError(
        f"no input for a {type(model).__name__} can be made up; give inputs={{name: tensor}}, the arguments "
        "of one run"
    )


def token_limit(model: Any) -> int | None:
    """Return how many tokens of a text a model of transformers takes; None if its config sets no limit.

    Where its table of positions keeps one for padding (RoBERTa), texts start behind that.
    """
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    words = model.get_input_embeddings()
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding) and part is not words]
    pads = [part.padding_idx for part in tables if part.num_embeddings == most]
    return most - max((pad + 1 for pad in pads if pad is not None), default=0)


def _first(part: Attention | FeedForward) -> str:
    return part.query if isinstance(part, Attention) else part.keys


def _layer_path(model: nn.Module, path: str) -> str | None:
    """Return the path of the layer that a leaf is in."""
    names = path.split(".")
    for end in range(len(names)):
        if _holds_layers(model.get_submodule(".".join(names[:end]))):
            return ".".join(names[: end + 1])
    return None


def _holds_layers(module: nn.Module) -> bool:
    """Tell whether a module is a list, or a row of two or more blocks of one class."""
    if not isinstance(module, nn.Sequential):
        return isinstance(module, nn.ModuleList)
    alike = len(module) > 1 and len({type(block) for block in module}) == 1
    return alike and any(True for _ in module[0].children())


@dataclass(eq=False)
class _Call:
    """One run of a leaf."""

    path: str
    module: nn.Module
    x: Tensor
    y: Tensor
    transposed: bool | None  # None for what is no matrix


@dataclass(frozen=True, eq=False)
class _Attend:
    """One attention: after how many calls, heads, width of a head if known, queries, keys and values."""

    after: int
    num_heads: int
    head_dim: int | None
    arguments: tuple[Tensor, ...]


@dataclass
class _Recording:
    calls: list[_Call] = field(default_factory=list)
    attends: list[_Attend] = field(default_factory=list)


class _Watch(TorchFunctionMode):
    """Notices attention."""

    def __init__(self, recording: _Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        given = [*args, *(named[name] for name in ("query", "key", "value", "input") if name in named)]
        tensors = tuple(part for part in given if isinstance(part, Tensor))
        after, attends = len(self.recording.calls), self.recording.attends
        if func is F.scaled_dot_product_attention and tensors[0].dim() == 4:
            attends.append(_Attend(after, tensors[0].shape[1], tensors[0].shape[-1], tensors[:3]))
        elif func in _SOFTMAX and tensors[0].dim() == 4:
            attends.append(_Attend(after, tensors[0].shape[1], None, ()))
        return func(*args, **named)


@contextmanager
def _modes(model: nn.Module, *, dropping: bool) -> Iterator[None]:
    """Put leaves into evaluation mode, and what holds others too unless functions shall drop."""
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = dropping and any(True for _ in module.children())
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


@contextmanager
def _watched(recording: _Recording) -> Iterator[None]:
    with torch.no_grad(), _Watch(recording):
        yield


def _record(model: nn.Module, inputs: Inputs, *, dropping: bool) -> _Recording:
    recording = _Recording()

    def hook(path: str) -> Any:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
            if given and isinstance(output, Tensor) and output.is_floating_point():
                kind = _transposed(module, given[0], output)
                recording.calls.append(_Call(path, module, given[0], output, kind))

        return keep

    leaves = [(path, part) for path, part in model.named_modules() if not any(True for _ in part.children())]
    leaves = [(path, leaf) for path, leaf in leaves if not isinstance(leaf, nn.Identity)]
    handles = [leaf.register_forward_hook(hook(path), with_kwargs=True) for path, leaf in leaves]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with _modes(model, dropping=dropping), torch.random.fork_rng(devices), _watched(recording):
            model(**inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ModularizeError(
            f"{type(model).__name__} does not run on {', '.join(inputs)}: {error}; give "
            "inputs={name: tensor}, the arguments of one run"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return recording


def _transposed(module: nn.Module, x: Tensor, y: Tensor) -> bool | None:
    """Return whether a leaf is a matrix that keeps its weight as `[in, out]`; None if it is no matrix."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    others = set(module._parameters) - {"weight", "bias"}
    if not isinstance(weight, Tensor) or weight.dim() != 2 or others:
        return None
    if not weight.dtype == x.dtype == y.dtype:  # ids are read, or numbers are packed or cast on the way
        return None
    sizes = (x.shape[-1], y.shape[-1])
    if tuple(weight.shape) == sizes[::-1] and _close(F.linear(x, weight, bias), y):
        return False
    if tuple(weight.shape) == sizes and _close(F.linear(x, weight.t(), bias), y):
        return True
    return None


def _close(found: Tensor, expected: Tensor) -> bool:
    """Tell whether tensors are equal up to rounding."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    share = 32 * torch.finfo(expected.dtype).eps
    return bool((found - expected).abs().max() <= share * expected.abs().max().clamp(min=1e-6))


def _same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are the same place in memory."""
    return one.shape == other.shape and one.data_ptr() == other.data_ptr()


def _feed_forwards(recording: _Recording, model: nn.Module) -> tuple[list[FeedForward], list[Whole]]:
    """Return what can be split, and what looks alike but cannot."""
    found: dict[str, FeedForward] = {}
    whole: dict[str, Whole] = {}
    shared = _shared(model)
    for place, call in enumerate(recording.calls):
        if call.transposed is None or call.path in found:
            continue
        before = recording.calls[:place]
        part = _match(call, before)
        if part is not None and not shared & {part.keys, part.values, part.gated, part.activation}:
            found[call.path] = part
            continue
        first = next((other for other in reversed(before) if other.transposed is not None), None)
        attends = [attend.after for attend in recording.attends]
        if first is None or any(before.index(first) < after <= place for after in attends):
            continue
        why = (
            "they stand in several places, or share a parameter"
            if part is not None
            else _obstacle(first, call)
        )
        layer = _layer_path(model, call.path)
        if why is not None and layer is not None and layer == _layer_path(model, first.path):
            whole[call.path] = Whole((first.path, call.path), call.x.shape[-1], why)
    return list(found.values()), list(whole.values())


def _obstacle(first: _Call, second: _Call) -> str | None:
    """Return why two matrices that run in turn are no feed-forward network; None if they do not look so."""
    if _same(first.x, second.x) or first.x.shape[-1] != second.y.shape[-1]:
        return None
    if first.y.shape[-1] == second.x.shape[-1]:
        return "no module between them is an activation that acts on each number by itself"
    if first.y.shape[-1] == 2 * second.x.shape[-1]:
        return "one layer makes both factors of a gated network"
    return None


def _shared(model: nn.Module) -> set[str]:
    """Return the paths of leaves that stand at several paths or share a parameter."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if not any(True for _ in module.children()):
            owners.setdefault(id(module), []).append(path)
            for parameter in module._parameters.values():
                if parameter is not None:
                    owners.setdefault(id(parameter), []).append(path)
    return {path for paths in owners.values() if len(paths) > 1 for path in paths}


def _match(values: _Call, before: list[_Call]) -> FeedForward | None:
    """Return the feed-forward network that ends in a matrix."""
    hidden, dropout = values.x, None
    last = _maker(hidden, before)
    if last is not None and isinstance(last.module, nn.Dropout):
        # At rest a dropout gives what it is given, so that its input has the same place in memory.
        hidden, dropout = last.x, last.path
        last = _maker(hidden, [call for call in before if call is not last and call.path != last.path])
    gated = None
    if last is None or not _elementwise(last):
        pair = _product(hidden, before)
        if pair is None:
            return None
        last, gated = pair
    keys = _matrix_of(last.x, before)
    ends = [keys, values] + ([] if gated is None else [gated])
    if keys is None or keys.x.shape[-1] != values.y.shape[-1]:
        return None
    if len({end.transposed for end in ends if end is not None}) > 1:
        return None
    return FeedForward(
        keys.path,
        last.path,
        values.path,
        None if gated is None else gated.path,
        dropout,
        hidden.shape[-1],
        bool(values.transposed),
    )


def _maker(tensor: Tensor, before: list[_Call]) -> _Call | None:
    """Return the last leaf that gave a tensor."""
    return next((call for call in reversed(before) if _same(call.y, tensor)), None)


def _matrix_of(tensor: Tensor, before: list[_Call]) -> _Call | None:
    """Return the last matrix that gave a tensor."""
    return next(
        (call for call in reversed(before) if call.transposed is not None and _same(call.y, tensor)), None
    )


def _product(hidden: Tensor, before: list[_Call]) -> tuple[_Call, _Call] | None:
    """Return an activation and a matrix whose product a tensor is."""
    for active in reversed(before):
        if active.y.shape != hidden.shape or not _elementwise(active):
            continue
        keys = _matrix_of(active.x, before)
        for other in reversed(before):
            fits = keys is not None and other is not keys and other.transposed is not None
            if fits and _same(other.x, keys.x) and _close(active.y * other.y, hidden):  # type: ignore[union-attr]
                return active, other
    return None


def _elementwise(call: _Call) -> bool:
    """Tell whether a leaf without weights acts on each number by itself."""
    idle = isinstance(call.module, nn.Dropout | nn.Identity)
    if call.x.shape != call.y.shape or idle or call.module._parameters or call.module._buffers:
        return False
    part = call.x[..., :2].contiguous()  # of so few, any mean, norm or sum is another one
    with torch.no_grad():
        return _close(call.module(part), call.y[..., :2].contiguous())


def _attentions(recording: _Recording) -> Iterator[Attention]:
    """Yield the attentions whose matrices are told from each other."""
    done: set[str] = set()
    start = 0
    for attend in recording.attends:
        before = [call for call in recording.calls[start : attend.after] if call.transposed is not None]
        start = attend.after
        after = [call for call in recording.calls[attend.after :] if call.transposed is not None]
        if not before or not after:
            continue
        group = [call for call in before if _same(call.x, before[-1].x)]
        if len(group) == 2:  # keys and values read another stream than the query in front of them
            group = before[-3:]
        output = after[0]
        wide = output.x.shape[-1]
        head_dim = attend.head_dim or wide // attend.num_heads
        if len(group) not in (1, 3) or wide != attend.num_heads * head_dim or output.path in done:
            continue
        done.add(output.path)
        if len(group) == 1:
            heads = (group[0].y.shape[-1] // head_dim - attend.num_heads) // 2
            query = key = value = group[0]
        else:
            query, key, value = _roles(group, attend.arguments)
            heads = key.y.shape[-1] // head_dim
        paths = (query.path, key.path, value.path, output.path)
        yield Attention(*paths, attend.num_heads, heads, head_dim)


def _roles(group: list[_Call], arguments: tuple[Tensor, ...]) -> list[_Call]:
    """Return the matrices of queries, keys and values; those that cannot be told stand as they run."""
    held = [argument.untyped_storage().data_ptr() for argument in arguments]
    known = {
        held.index(call.y.untyped_storage().data_ptr()): call
        for call in group
        if call.y.untyped_storage().data_ptr() in held
    }
    rest = iter([call for call in group if call not in known.values()])
    return [known.get(role) or next(rest) for role in range(3)]
