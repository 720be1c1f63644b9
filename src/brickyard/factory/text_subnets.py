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
from brickyard.devices.measure import measure_session
from brickyard.devices.runtimes import Session
from brickyard.devices.runtimes.ort import ORT
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
        self.trained, self.threads = trained, threads
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
        return macs_of(self.trained.subnet(self.trained.network.space.largest()), self._inputs)

    @cached_property
    def _inputs(self) -> tuple[Tensor, ...]:
        """One example without padding."""
        network = self.trained.network
        drawn = torch.Generator().manual_seed(0)
        return tuple(
            torch.randint(1, vocab_size, (1, *network.input_shape), generator=drawn)
            for vocab_size in network.vocab_sizes
        )

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
            "macs": macs_of(module, self._inputs),
            "parameters": sum(tensor.numel() for tensor in module.parameters()),
        }
        if self.trained.metric in kinds:
            found[self.trained.metric] = self.trained.evaluate(config, self.labelled)[self.trained.metric]
        if not {"file_bytes", "latency_ms", "energy_mj"} & set(kinds):
            return found
        content = export_texts(module, self._inputs)
        found["file_bytes"] = len(content)
        session = _Fed(ORT.open(content, threads=self.threads), self._inputs)
        if "latency_ms" in kinds:
            found["latency_ms"] = measure_session(session, threads=self.threads).p50
        if "energy_mj" in kinds:
            counter, idle = self._counter
            found["energy_mj"] = measure_energy(session, counter, idle_watts=idle).mj
        return found

    def canonical(self, chosen: Mapping[str, Any]) -> Config:
        """Return the config that computes the same with the decisions of left-out layers at their largest.

        Args:
            chosen: A config of `space`.
        """
        gone: set[str] = set()
        for name, layers in self._layers.items():
            kept = {part for layer in layers[: chosen[name]] for part in layer}
            gone |= {part for layer in layers[chosen[name] :] for part in layer} - kept
        idle = {part.name: part.largest() for part in self.space if part.name in gone - self._outside}
        return Config({**chosen, **idle})

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
            input_names=[f"ids{place}" for place in range(len(inputs))],
            output_names=["scores"],
        )
    return buffer.getvalue()


class _Fed:
    """A session that brings its own inputs, as random numbers would be no ids."""

    def __init__(self, session: Session, inputs: Sequence[Tensor]) -> None:
        self._session = session
        names = [entry.name for entry in session.get_inputs()]
        self._feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}

    def get_inputs(self) -> Sequence[Any]:
        """Tell that nothing has to be fed."""
        return []

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs."""
        return self._session.get_outputs()

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Run on the session's own inputs."""
        return self._session.run(outputs, self._feed)
