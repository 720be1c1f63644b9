"""The subnets of networks that read tokens, as a search judges them; needs torch.

These have no blueprint: every subnet is exported on its own, for one text as long as the network reads. What
is counted and timed of a translator is one pass over a source and a target of that length; a translation of
so many tokens takes as many passes of the decoder.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from brickyard.bricks.depth import ElasticDepth
from brickyard.core.brick import Brick
from brickyard.core.config import Config
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network
from brickyard.core.space import HEAD_SUBSETS, Space
from brickyard.devices.energy import POWERCAP, EnergyCounter, measure_energy
from brickyard.devices.measure import PATIENCE, measure_session
from brickyard.devices.runtimes import runtime_named
from brickyard.devices.runtimes.base import Fed
from brickyard.export.whole import OPSET

_IDLE_SECONDS = 1.0


class Trained(Protocol):
    """A trained network that judges its subnets, as `brickyard.factory.supernet.load_trained` gives it."""

    @property
    def network(self) -> Network:
        """The network."""

    @property
    def metric(self) -> str:
        """Name of the number that `evaluate` gives."""

    def subnet(self, config: Mapping[str, Any]) -> nn.Module:
        """Cut a subnet out as a plain module in evaluation mode."""

    @property
    def heldout(self) -> Any:
        """Examples that it was not trained on; they have a length and `subset`."""

    def evaluate(self, config: Mapping[str, Any], examples: Any) -> Mapping[str, float]:
        """Judge a subnet on examples: the metric by name."""


class TextSubnets:
    """Judges the subnets of a network that reads tokens; the counterpart of `Subnets`.

    Args:
        trained: The network, and what judges its subnets.
        examples: Most held-out examples that a subnet is judged by; of more, so many are drawn, the same for
            every subnet.
        seed: Seed of that draw.
        threads: Threads of torch and of the runtime.
        runtime: Name of the runtime that subnets are timed with.
        task: Refused, as the network is judged as it was trained.

    Raises:
        ConfigError: A task was given.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        examples: int = 1000,
        seed: int = 0,
        threads: int = 1,
        runtime: str = "ort",
        task: str | None = None,
    ) -> None:
        if task is not None:
            raise ConfigError(
                f"task = {task!r}: subnets of networks that read tokens are judged by all that they were "
                "trained for; leave it out",
                path="task",
                value=task,
            )
        torch.set_num_threads(threads)
        self.trained, self.threads, self._runtime = trained, threads, runtime_named(runtime)
        self._most, self._seed = examples, seed
        space = trained.network.space
        self.space = Space.from_json([part.to_json() for part in space if part.name not in HEAD_SUBSETS])
        self.fixed = {part.name: part.largest() for part in space if part.name in HEAD_SUBSETS}

    @cached_property
    def labelled(self) -> Any:
        """The held-out examples that every subnet is judged by."""
        heldout = self.trained.heldout
        if len(heldout) <= self._most:
            return heldout
        drawn = np.random.default_rng(self._seed).choice(len(heldout), self._most, replace=False)
        return heldout.subset(np.sort(drawn))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of all numbers that `figures` can give."""
        return (self.trained.metric, "macs", "parameters", "file_bytes", "latency_ms", "energy_mj")

    def prepare(self, kinds: Collection[str]) -> None:
        """Open what these numbers need.

        Args:
            kinds: Names, of `numbers`.

        Raises:
            DeviceError: This machine has no energy counter.
        """
        if "energy_mj" in kinds:
            _ = self._counter

    @cached_property
    def _counter(self) -> tuple[EnergyCounter, float]:
        counter = EnergyCounter(POWERCAP)
        return counter, counter.watts(_IDLE_SECONDS)

    def config(self, chosen: Mapping[str, Any]) -> Config:
        """Return the config of the network: what is chosen, and a whole head.

        Args:
            chosen: A config of `space`.

        Raises:
            ConfigError: It is not legal.
        """
        return self.trained.network.space.check({**self.fixed, **chosen})

    @cached_property
    def whole_macs(self) -> int:
        """MACs of the whole network, to which shares refer."""
        return macs_of(self.trained.subnet(self.trained.network.space.largest()), self.full_inputs)

    @cached_property
    def full_inputs(self) -> tuple[Tensor, ...]:
        """Random ids as long as the network reads, without padding: what is counted and timed."""
        network = self.trained.network
        drawn = torch.Generator().manual_seed(0)
        return tuple(
            torch.randint(1, vocab_size, (1, *network.input_shape), generator=drawn)
            for vocab_size in network.vocab_sizes
        )

    @property
    def feed(self) -> dict[str, npt.NDArray[np.int64]]:
        """The same example, by the names of an exported file's inputs."""
        return {
            name: ids.numpy() for name, ids in zip(_names(self.full_inputs), self.full_inputs, strict=True)
        }

    def content(self, config: Config) -> bytes:
        """Export a subnet as ONNX, for texts as long as the network reads.

        Args:
            config: A config of the network.
        """
        return export_texts(self.trained.subnet(config), self.full_inputs)

    def figures(self, config: Config, kinds: Collection[str]) -> dict[str, float]:
        """Count and measure a subnet.

        Args:
            config: A config of the network.
            kinds: Names of the numbers that are wanted besides MACs and parameters, of `numbers`.

        Returns:
            The numbers by name.
        """
        module = self.trained.subnet(config)
        found: dict[str, float] = {
            "macs": macs_of(module, self.full_inputs),
            "parameters": sum(tensor.numel() for tensor in module.parameters()),
        }
        if self.trained.metric in kinds:
            found[self.trained.metric] = self.trained.evaluate(config, self.labelled)[self.trained.metric]
        if not {"file_bytes", "latency_ms", "energy_mj"} & set(kinds):
            return found
        content = export_texts(module, self.full_inputs)
        found["file_bytes"] = len(content)
        session = Fed(self._runtime.open(content, threads=self.threads), self.feed)
        if "latency_ms" in kinds:
            found["latency_ms"] = measure_session(
                session, threads=self.threads, runtime=self._runtime, patience=PATIENCE
            ).p50
        if "energy_mj" in kinds:
            counter, idle = self._counter
            found["energy_mj"] = measure_energy(session, counter, idle_watts=idle).mj
        return found

    def canonical(self, chosen: Mapping[str, Any]) -> Config:
        """Return the config that computes the same with the decisions of left-out layers at their largest.

        Args:
            chosen: A config of `space`.
        """
        names = self.idle(chosen)
        idle = {part.name: part.largest() for part in self.space if part.name in names}
        return Config({**chosen, **idle})

    def idle(self, chosen: Mapping[str, Any]) -> set[str]:
        """Return the names of the decisions that only left-out layers read.

        Args:
            chosen: A config of `space`.
        """
        gone: set[str] = set()
        for name, layers in self._layers.items():
            kept = {part for layer in layers[: chosen[name]] for part in layer}
            gone |= {part for layer in layers[chosen[name] :] for part in layer} - kept
        return gone - self._outside

    @cached_property
    def _layers(self) -> dict[str, list[set[str]]]:
        """For each depth, the decisions of each of its layers."""
        return {
            part.depth.name: [_decisions(layer) for layer in part.children()]
            for part in self.trained.network.root.modules()
            if isinstance(part, ElasticDepth)
        }

    @cached_property
    def _outside(self) -> set[str]:
        """The decisions that some brick outside of layers that can be left out reads."""
        inside = {
            brick
            for part in self.trained.network.root.modules()
            if isinstance(part, ElasticDepth)
            for layer in part.children()
            for brick in layer.modules()
        }
        others = [part for part in self.trained.network.root.modules() if part not in inside]
        return {name for part in others for name in _own_decisions(part)}


def _own_decisions(module: nn.Module) -> set[str]:
    return {decision.name for decision in module.decisions()} if isinstance(module, Brick) else set()


def _decisions(module: nn.Module) -> set[str]:
    return {name for part in module.modules() for name in _own_decisions(part)}


def macs_of(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Count the multiply-accumulate operations of matrix products, those of attention included.

    Args:
        module: A plain module.
        inputs: Its arguments.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # as matrix products, which are counted
        module(*inputs)
    return int(counter.get_total_flops()) // 2


def _names(inputs: Sequence[Tensor]) -> list[str]:
    return [f"ids{place}" for place in range(len(inputs))]


def export_texts(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """Export a plain module that reads ids as ONNX, for inputs of these shapes.

    Args:
        module: A plain module in evaluation mode.
        inputs: Its arguments.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of this exporter, about itself and about static shapes
        torch.onnx.export(
            module,
            inputs,
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=_names(inputs),
            output_names=["scores"],
        )
    return buffer.getvalue()
