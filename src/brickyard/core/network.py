"""A network: a tree of plain modules some of whose leaves are bricks, and its space."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from brickyard.core.brick import Brick
from brickyard.core.cut import Cut
from brickyard.core.decision import Subset
from brickyard.core.errors import ConfigError, ExtractError
from brickyard.core.norm_sets import NormSets
from brickyard.core.plain import Constant
from brickyard.core.sequence import PADDING
from brickyard.core.space import Space


class Network(nn.Module):
    """A modular network.

    Args:
        root: Plain modules made of bricks.
        builder: Name of the registered builder that made `root`, if one did.
        arguments: Arguments of that builder, as JSON values.
        input_shape: Shape `[channels, height, width]` (or any shape without the batch) of one input.
        norm_pairs: Paths in `root` of convolutions and of the batch normalisation that alone reads each, so
            that it can be folded; those that stand in a sequence are found without.
        outputs: Names of what `root` gives: one for a tensor, several for a tuple of tensors.
        vocab_sizes: Where `root` reads token ids: for each of its inputs, the number of different ids; every
            input is then `[batch, *input_shape]` and may be filled up with padding.

    Example:
        >>> network = build("residual_cnn_pico")
        >>> with network.configured(network.space.smallest()):
        ...     logits = network(torch.zeros(1, *network.input_shape))
    """

    def __init__(
        self,
        root: nn.Module,
        *,
        input_shape: tuple[int, ...],
        builder: str = "",
        arguments: Mapping[str, Any] | None = None,
        norm_pairs: Iterable[tuple[str, str]] = (),
        outputs: Iterable[str] = ("scores",),
        vocab_sizes: Iterable[int] = (),
    ) -> None:
        super().__init__()
        self.root = root
        self.outputs = tuple(outputs)
        self.norm_pairs = tuple(norm_pairs)
        self.builder = builder
        self.arguments = dict(arguments or {})
        self.input_shape = tuple(input_shape)
        self.vocab_sizes = tuple(vocab_sizes)
        bricks = [module for module in root.modules() if isinstance(module, Brick)]
        self.space = Space(decision for brick in bricks for decision in brick.decisions())
        self.norm_sets: NormSets | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Compute with the active subnet; arguments and result are those of the root."""
        return self.root(*inputs, **named)

    def example_inputs(self, *, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Draw inputs of the right kind and shape: normal numbers, or token ids of random lengths.

        Args:
            batch: Number of samples.
            seed: Seed of the draws.

        Returns:
            The arguments of `forward`.
        """
        generator = torch.Generator().manual_seed(seed)
        if not self.vocab_sizes:
            return (torch.randn(batch, *self.input_shape, generator=generator),)
        inputs = []
        for vocab_size in self.vocab_sizes:
            ids = torch.randint(1, vocab_size, (batch, *self.input_shape), generator=generator)
            lengths = torch.randint(1, ids.shape[-1] + 1, (*ids.shape[:-1], 1), generator=generator)
            inputs.append(ids.masked_fill(torch.arange(ids.shape[-1]) >= lengths, PADDING))
        return tuple(inputs)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Make a subnet active in place; weights are untouched.

        Args:
            config: One value for each decision.

        Raises:
            ConfigError: The config is not legal; then nothing is changed.
        """
        checked = self.space.check(config)
        for decision in self.space:
            decision.value = checked[decision.name]
        if self.norm_sets is not None:
            self._use_norm_set(self.norm_sets.of(checked))

    @contextmanager
    def configured(self, config: Mapping[str, Any]) -> Iterator[Network]:
        """Make a subnet active inside a `with` block and restore the former one behind it."""
        before = self.space.active()
        self.configure(config)
        try:
            yield self
        finally:
            self.configure(before)

    def add_norm_sets(self, norm_sets: NormSets) -> None:
        """Let subnets of different size normalise by numbers of their own, at first all the same.

        Args:
            norm_sets: Which subnet uses which set.

        Raises:
            ConfigError: There are several sets already, or the sets are for another network.
        """
        known = {d.name: d.count for d in self.space if isinstance(d, Subset)}
        strange = [name for name, shares in norm_sets.shares.items() if known.get(name) != len(shares)]
        if self.norm_sets is not None or strange:
            raise ConfigError(
                f"the norm sets name {strange[0]!r}, which is no Subset of this network with as many bricks"
                if strange
                else "this network has norm sets already; build it anew for others",
                path="norm_sets",
            )
        for brick in self._bricks():
            brick.add_norm_sets(norm_sets.count)
        self.norm_sets = norm_sets
        self._use_norm_set(norm_sets.of(self.space.active()))

    def _bricks(self) -> list[Brick]:
        return [module for module in self.root.modules() if isinstance(module, Brick)]

    def _use_norm_set(self, number: int) -> None:
        for brick in self._bricks():
            brick.norm_set = number

    @contextmanager
    def sized(self, limits: npt.NDArray[np.float32]) -> Iterator[Network]:
        """Let every sample of a batch be normalised as subnets of its size are, inside a `with` block.

        Args:
            limits: Share of all MACs of each sample, `[batch]`, descending; ignored without norm sets.
        """
        bricks = self._bricks() if self.norm_sets is not None else []
        parts = None if self.norm_sets is None else self.norm_sets.split(limits)
        try:
            for brick in bricks:
                brick.norm_parts = parts
            yield self
        finally:
            for brick in bricks:
                brick.norm_parts = None

    @contextmanager
    def gated(self, gates: Mapping[str, Tensor]) -> Iterator[Network]:
        """Give every sample of a batch its own subsets inside a `with` block.

        Args:
            gates: For `Subset` decisions, a tensor `[batch, count]` in [0, 1] that multiplies activations.

        Raises:
            ConfigError: A name is no `Subset`, or a tensor has another number of columns.
        """
        for name, tensor in gates.items():
            decision = next((known for known in self.space if known.name == name), None)
            if not isinstance(decision, Subset) or tensor.dim() != 2 or tensor.shape[1] != decision.count:
                raise ConfigError(
                    f"gates for {name!r} have shape {tuple(tensor.shape)}; expected [batch, count] of a "
                    "Subset in the space",
                    path=name,
                )
        try:
            for name, tensor in gates.items():
                self.space[name].gates = tensor  # type: ignore[attr-defined]
            yield self
        finally:
            for name in gates:
                self.space[name].gates = None  # type: ignore[attr-defined]

    def extract(self, config: Mapping[str, Any] | None = None) -> nn.Module:
        """Cut a subnet out as a plain module that shares nothing with this network.

        Args:
            config: The subnet; the active one if None.

        Returns:
            A module without bricks. Branches that no brick is left in become the constant they leave.

        Raises:
            ConfigError: The config is not legal.
            ExtractError: What is left is not connected.
        """
        with self.configured(self.space.active() if config is None else config), torch.no_grad():
            plain = _Extraction().module(self.root)
        for name, parameter in plain.named_parameters():
            if parameter.numel() == 0:
                raise ExtractError(
                    f"{name} is left without channels outside of any branch; give its decision a minimum of 1"
                )
        return plain

    def cuts(self) -> dict[str, tuple[Cut, ...]]:
        """Return how each tensor of the root is cut, by its name in the root's state dict."""
        return {
            f"{path}.{name}" if path else name: cuts
            for path, module in self.root.named_modules()
            if isinstance(module, Brick)
            for name, cuts in module.cuts().items()
        }


class _Extraction:
    """One walk over a tree; keeps what was shared shared."""

    def __init__(self) -> None:
        self.modules: dict[int, nn.Module] = {}
        self.made: set[int] = set()
        self.tensors: dict[tuple[int, tuple[Cut, ...]], Tensor] = {}

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) not in self.modules:
            if isinstance(module, Brick):
                plain = module.extract(self._weights(module), self.module)
            else:
                plain = self._container(module)
            for part in plain.modules():
                if id(part) not in self.made:
                    part.training = module.training
            self.made.update(id(part) for part in plain.modules())
            self.modules[id(module)] = plain
        return self.modules[id(module)]

    def _copy(self, source: Tensor, active: Tensor, cuts: tuple[Cut, ...] = ()) -> Tensor:
        key = (id(source), cuts)
        if key not in self.tensors:
            copied = active.detach().clone(memory_format=torch.contiguous_format)
            is_parameter = isinstance(source, nn.Parameter)
            self.tensors[key] = nn.Parameter(copied, source.requires_grad) if is_parameter else copied
        return self.tensors[key]

    def _weights(self, brick: Brick) -> dict[str, Tensor | None]:
        own = {**brick._parameters, **brick._buffers}
        cuts = brick.cuts()
        weights: dict[str, Tensor | None] = {}
        for name, active in brick.active().items():
            source = own.get(name)
            if active is None or source is None:
                weights[name] = None if active is None else nn.Parameter(active.detach().clone())
            else:
                weights[name] = self._copy(source, active, cuts.get(name, ()))
        return weights

    def _container(self, module: nn.Module) -> nn.Module:
        clone = copy.copy(module)
        tables = {name: value for name, value in vars(module).items() if isinstance(value, dict | set | list)}
        vars(clone).update({name: copy.copy(value) for name, value in tables.items()})
        clone._parameters = {
            name: None if tensor is None else self._copy(tensor, tensor)  # type: ignore[misc]
            for name, tensor in module._parameters.items()
        }
        clone._buffers = {
            name: None if tensor is None else self._copy(tensor, tensor)
            for name, tensor in module._buffers.items()
        }
        clone._modules = {
            name: None if child is None else self.module(child) for name, child in module._modules.items()
        }
        return _constant_if_empty(clone) if isinstance(clone, nn.Sequential) else clone


def _constant_if_empty(sequence: nn.Sequential) -> nn.Module:
    """Replace a sequence in which some layer has no channels by the constant its tail makes of nothing."""
    layers = list(sequence)
    empty = [
        index
        for index, layer in enumerate(layers)
        if any(parameter.numel() == 0 and parameter.dim() > 1 for parameter in layer.parameters())
    ]
    if not empty:
        return sequence
    last = layers[empty[-1]]
    weight, bias = getattr(last, "weight", None), getattr(last, "bias", None)
    if not isinstance(weight, Tensor) or weight.shape[0] == 0:
        return sequence
    value = torch.zeros(weight.shape[0]) if bias is None else bias.detach().clone()
    x = value.to(weight).reshape(1, -1, *([1] * (weight.dim() - 2)))
    training = sequence.training
    sequence.eval()
    for layer in layers[empty[-1] + 1 :]:
        x = layer(x)
    sequence.train(training)
    return Constant(x)
