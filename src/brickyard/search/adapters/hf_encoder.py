"""Encoders of transformers whose heads, feed-forward width and layers are elastic.

A subnet keeps in each layer the most important heads and neurons, and any of the layers; it is cut out as a
smaller model of the same class. Its `save_pretrained` writes it. A config of transformers has one width for
all layers and cannot say that heads are missing:

- with all heads, and one width everywhere, `from_pretrained` of transformers loads the folder;
- else `config.json` has the entry `brickyard_layers`, heads and width of each layer, and `load_encoder` loads
  the folder; transformers alone refuses it because of its shapes.

Which modules are which is told by their shapes: BERT, RoBERTa, MiniLM, ELECTRA, DistilBERT and others with
the same six matrices in each layer are known; the first cut is compared with the whole network.

References:
    Heads by their share in the loss: Michel et al., arXiv 1905.10650, eq. 2.
    Neurons likewise: DynaBERT, arXiv 2004.04037, section 2.1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.core.config import Config
from brickyard.core.decision import Choice, Subset
from brickyard.core.errors import ArtifactError, ConfigError, MissingExtraError
from brickyard.core.space import Space
from brickyard.search.adapters.base import numbers_of

LAYERS = "layers"
_ENTRY = "brickyard_layers"
_HEADS = ("num_attention_heads", "n_heads", "num_heads")  # what attention modules name their heads
_WIDTHS = ("intermediate_size", "hidden_dim")  # what configs name the feed-forward width
_TOLERANCE = 1e-4  # of the outputs' largest value


@dataclass(frozen=True)
class Importance:
    """What is kept first.

    Attributes:
        heads: For each layer a number for each head, `[heads]`.
        neurons: For each layer a number for each neuron, `[width]`.
    """

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]


class HuggingFaceEncoder:
    """An encoder of transformers as a super-network.

    The decisions are `layers`, which layers stay, and for each layer `layer0.heads` and `layer0.width`.

    Args:
        model: A model with an encoder; it stays what it is.
        evaluate: Measures a subnet, a model in evaluation mode: gives numbers by name.
        heads: Numbers of heads that a layer may have, ascending; None for all from 1.
        widths: Widths that a feed-forward network may have, ascending; None for quarters of the whole.
        importance: What is kept first; None for `magnitude_importance`.

    Raises:
        ConfigError: The structure is not known, or a number is out of range.

    Example:
        >>> model = AutoModelForSequenceClassification.from_pretrained(name)
        >>> network = HuggingFaceEncoder(model, evaluate=accuracy_and_latency)
        >>> result = run(network, objectives=["accuracy", "latency_ms"])
        >>> network.extract(result.front[0].config).save_pretrained("small")
        >>> small = load_encoder("small")
    """

    def __init__(
        self,
        model: Any,
        *,
        evaluate: Callable[[Any], Mapping[str, float]],
        heads: Sequence[int] | None = None,
        widths: Sequence[int] | None = None,
        importance: Importance | None = None,
    ) -> None:
        layers = _anatomy(model)
        most, width = layers[0].num_heads, layers[0].up.out_features
        heads = range(1, most + 1) if heads is None else heads
        widths = sorted({max(1, width * part // 4) for part in range(1, 5)}) if widths is None else widths
        _check_range("heads", heads, most)
        _check_range("widths", widths, width)
        self.model, self._evaluate = model, evaluate
        decisions: list[Choice | Subset] = [Subset(LAYERS, len(layers), minimum=1)]
        for index in range(len(layers)):
            decisions += [Choice(f"layer{index}.heads", heads), Choice(f"layer{index}.width", widths)]
        self.space = Space(decisions)
        importance = magnitude_importance(model) if importance is None else importance
        self._heads = _orders("heads", importance.heads, len(layers), most)
        self._neurons = _orders("neurons", importance.neurons, len(layers), width)
        self._check_cut()

    def _check_cut(self) -> None:
        """Compare the smallest subnet of all layers with the network whose other heads and neurons give 0."""
        config = self.space.smallest().replace({LAYERS: self.space[LAYERS].largest()})
        zeroed = copy.deepcopy(self.model).eval()
        with torch.no_grad():
            for index, layer in enumerate(_anatomy(zeroed)):
                heads, neurons = self._kept(config, index)
                gone = sorted(set(range(layer.num_heads)) - set(heads))
                layer.out.weight.view(layer.out.out_features, layer.num_heads, -1)[:, gone] = 0
                layer.down.weight[:, sorted(set(range(layer.down.in_features)) - set(neurons))] = 0
            name = type(self.model).__name__
            try:
                inputs = {name: row.to(zeroed.device) for name, row in self.model.dummy_inputs.items()}
                whole, cut = zeroed(**inputs)[0], self.extract(config)(**inputs)[0]
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise ConfigError(f"{name} does not run without some of its heads: {error}") from error
        if not torch.allclose(whole, cut, atol=_TOLERANCE * float(whole.abs().max()), rtol=0):
            raise ConfigError(
                f"{name} with fewer heads computes something else than with heads that give 0, so its heads "
                "or neurons are not where they are looked for; search it by brickyard.search.Foreign"
            )

    def _kept(self, config: Mapping[str, Any], layer: int) -> tuple[list[int], list[int]]:
        heads = self._heads[layer][: config[f"layer{layer}.heads"]]
        return sorted(heads), sorted(self._neurons[layer][: config[f"layer{layer}.width"]])

    def canonical(self, config: Config) -> Config:
        """Return the config that computes the same and has its largest values in layers that are off."""
        off = set(self.space[LAYERS].largest()) - set(config[LAYERS])
        names = [f"layer{index}.{part}" for index in off for part in ("heads", "width")]
        return config.replace({name: self.space[name].largest() for name in names})

    def evaluate(self, config: Config) -> dict[str, float]:
        """Cut a subnet out and measure it.

        Raises:
            ConfigError: The config is not legal.
        """
        return numbers_of(self._evaluate(self.extract(config)), "evaluate")

    def extract(self, config: Config) -> Any:
        """Cut a subnet out.

        Args:
            config: A config of the space.

        Returns:
            A model of the same class in evaluation mode, which shares nothing with the whole one.

        Raises:
            ConfigError: The config is not legal.
        """
        checked = self.space.check(config)
        kept = {index: self._kept(checked, index) for index in checked[LAYERS]}
        model = copy.deepcopy(self.model).eval()
        whole = _anatomy(model)[0]
        _shrink_(model, kept)
        sizes = [[len(heads), len(neurons)] for heads, neurons in kept.values()]
        widths = {width for _, width in sizes}
        model.config.num_hidden_layers = len(sizes)
        if len(widths) == 1 and all(heads == whole.num_heads for heads, _ in sizes):
            setattr(model.config, _width_name(model), widths.pop())
        else:
            setattr(model.config, _ENTRY, sizes)
        return model


def load_encoder(folder: Path | str) -> Any:
    """Load a subnet that `save_pretrained` wrote.

    Args:
        folder: The folder.

    Returns:
        The model in evaluation mode.

    Raises:
        ArtifactError: There is no such folder, or it holds no model of transformers.
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra="transformers") from None
    if not (Path(folder) / "config.json").is_file():
        raise ArtifactError(f"{folder} has no config.json, so it is no folder of save_pretrained")
    config = transformers.AutoConfig.from_pretrained(folder)
    names = config.architectures or ["none"]
    base = getattr(transformers, names[0], None)
    if base is None:
        raise ArtifactError(f"{folder} is a model of class {names[0]}, which transformers does not have")
    return (_sized(base) if hasattr(config, _ENTRY) else base).from_pretrained(folder).eval()


def _sized(base: Any) -> Any:
    """Return a class of a model whose layers have the sizes that its config says."""

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)
        sizes = enumerate(getattr(config, _ENTRY))
        _shrink_(self, {index: (list(range(heads)), list(range(width))) for index, (heads, width) in sizes})

    return type(base.__name__, (base,), {"__init__": build, "__module__": base.__module__})


def magnitude_importance(model: Any) -> Importance:
    """Rate heads and neurons by their weights alone.

    A head by the Frobenius norm of its value matrix times that of its output matrix; a neuron by the norm of
    the weights that lead to it times that of those that lead on.

    Args:
        model: The model.

    Raises:
        ConfigError: The structure is not known.
    """
    heads, neurons = [], []
    for layer in _anatomy(model):
        value = layer.value.weight.detach().reshape(layer.num_heads, -1).norm(dim=1)
        out = layer.out.weight.detach().view(layer.out.out_features, layer.num_heads, -1)
        heads.append(value * out.transpose(0, 1).flatten(1).norm(dim=1))
        neurons.append(layer.up.weight.detach().norm(dim=1) * layer.down.weight.detach().norm(dim=0))
    return Importance(tuple(heads), tuple(neurons))


def taylor_importance(
    model: Any, batches: Iterable[Any], *, loss: Callable[[Any, Any], Tensor]
) -> Importance:
    """Rate heads and neurons by what the loss would change, to first order, if they gave 0.

    That is the absolute value of output times gradient, summed over the positions of a sample, its mean over
    samples.

    Args:
        model: The model; in evaluation mode while this runs, and without gradients afterwards.
        batches: What `loss` takes.
        loss: From model and batch to a mean over samples.

    Raises:
        ConfigError: The structure is not known, or there are no batches.
    """
    layers = _anatomy(model)
    heads = [torch.zeros(layer.num_heads) for layer in layers]
    neurons = [torch.zeros(layer.down.in_features) for layer in layers]
    gates: dict[nn.Module, Tensor] = {}

    def gate(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        gates[module] = torch.ones_like(inputs[0][:, :1], requires_grad=True)
        return inputs[0] * gates[module]

    ends = [part for layer in layers for part in (layer.out, layer.down)]
    handles, mode, samples = [part.register_forward_pre_hook(gate) for part in ends], model.training, 0
    try:
        model.eval()
        for batch in batches:
            slopes = torch.autograd.grad(loss(model, batch), [gates[part] for part in ends])
            found = [slope.cpu() for slope in slopes]
            samples += len(found[0])
            for index, layer in enumerate(layers):
                shares = found[2 * index].reshape(len(found[0]), layer.num_heads, -1).sum(2)
                heads[index] += shares.abs().sum(0) * len(found[0])
                neurons[index] += found[2 * index + 1].flatten(1).abs().sum(0) * len(found[0])
    finally:
        model.train(mode)
        for handle in handles:
            handle.remove()
    if not samples:
        raise ConfigError("there are no batches to rate heads with; give one or more", path="batches")
    return Importance(tuple(row / samples for row in heads), tuple(row / samples for row in neurons))


@dataclass(frozen=True)
class _Layer:
    """The matrices of one layer."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    up: nn.Linear
    down: nn.Linear
    attention: nn.Module
    num_heads: int


def _layer_list(model: Any) -> nn.ModuleList:
    count = getattr(model.config, "num_hidden_layers", None)
    lists = [
        part
        for part in model.modules()
        if isinstance(part, nn.ModuleList)
        and len(part) == count
        and any(isinstance(inner, nn.Linear) for inner in part.modules())
    ]
    if len(lists) != 1 or getattr(model.config, "is_decoder", False):
        raise ConfigError(
            f"{type(model).__name__} has {len(lists)} lists of num_hidden_layers = {count} layers; known are "
            "encoders with one, such as BERT, RoBERTa, DistilBERT. Search others by brickyard.search.Foreign",
            path="model",
        )
    return lists[0]


def _anatomy(model: Any) -> list[_Layer]:
    """Find the matrices of each layer of a model that was not cut.

    Raises:
        ConfigError: They are not those of a known encoder.
    """
    hidden, heads = model.config.hidden_size, model.config.num_attention_heads
    found = []
    for layer in _layer_list(model):
        names = [name for name, part in layer.named_modules() if isinstance(part, nn.Linear)]
        parts: list[Any] = [layer.get_submodule(name) for name in names]
        shapes = [(part.in_features, part.out_features) for part in parts]
        width = shapes[4][1] if len(shapes) == 6 else 0
        if shapes != [*[(hidden, hidden)] * 4, (hidden, width), (width, hidden)] or hidden % heads:
            there = dict(zip(names, shapes, strict=True))
            raise ConfigError(
                f"a layer of {type(model).__name__} has linear layers {there}; known are query, key, value "
                f"and output of {hidden} x {hidden}, then two of the feed-forward network. Search others by "
                "brickyard.search.Foreign",
                path="model",
            )
        attention = layer.get_submodule(names[0].rpartition(".")[0])
        query, key, value, out, up, down = parts
        found.append(_Layer(query, key, value, out, up, down, attention, heads))
    if len({layer.up.out_features for layer in found}) != 1:
        raise ConfigError(
            f"layers of {type(model).__name__} differ in width; was it cut before?", path="model"
        )
    return found


def _width_name(model: Any) -> str:
    return next(name for name in _WIDTHS if hasattr(model.config, name))


def _shrink_(model: Any, kept: Mapping[int, tuple[list[int], list[int]]]) -> None:
    """Cut a whole model to some layers, and in each to some heads and neurons."""
    layers, whole = _anatomy(model), _layer_list(model)
    for index, (heads, neurons) in kept.items():
        layer = layers[index]
        size = layer.out.in_features // layer.num_heads
        columns = torch.tensor([head * size + place for head in heads for place in range(size)])
        for part in (layer.query, layer.key, layer.value):
            _keep_(part, outputs=columns)
        _keep_(layer.out, inputs=columns)
        _keep_(layer.up, outputs=torch.tensor(neurons))
        _keep_(layer.down, inputs=torch.tensor(neurons))
        for name in _HEADS:
            if hasattr(layer.attention, name):
                setattr(layer.attention, name, len(heads))
        if hasattr(layer.attention, "all_head_size"):
            layer.attention.all_head_size = len(columns)  # type: ignore[assignment]
    stay = [whole[index] for index in kept]
    while len(whole):
        del whole[len(whole) - 1]
    whole.extend(stay)


def _keep_(linear: nn.Linear, *, inputs: Tensor | None = None, outputs: Tensor | None = None) -> None:
    """Keep some inputs or outputs of a linear layer."""
    axis, places = (1, inputs) if inputs is not None else (0, outputs)
    assert places is not None
    places = places.to(linear.weight.device)
    learns = linear.weight.requires_grad
    linear.weight = nn.Parameter(linear.weight.detach().index_select(axis, places), requires_grad=learns)
    if outputs is not None and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[places], requires_grad=learns)
    linear.out_features, linear.in_features = linear.weight.shape


def _check_range(name: str, values: Sequence[int], most: int) -> None:
    if not values or min(values) < 1 or max(values) > most:
        raise ConfigError(
            f"{name} = {list(values)}; this model allows 1 to {most}", path=name, value=values, allowed=most
        )


def _orders(name: str, rows: Sequence[Tensor], layers: int, count: int) -> list[list[int]]:
    """Return for each layer the places, most important first."""
    if [tuple(row.shape) for row in rows] != [(count,)] * layers:
        shapes = [list(row.shape) for row in rows]
        raise ConfigError(
            f"importance of {name} is {shapes}; this model needs {layers} of [{count}]",
            path="importance",
        )
    return [row.argsort(descending=True, stable=True).tolist() for row in rows]
