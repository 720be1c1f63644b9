"""Small networks inside a large one, trained with it: so a new task can do with few bricks, too.

Of some pictures each block computes its first bricks alone, a number of them that is drawn anew each time; so
the first bricks learn to do without the others (nested dropout, arXiv 1402.0915; slimmable networks, arXiv
1812.08928). All pictures of a batch are normalised together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.bricks.linear import ElasticLinear
from brickyard.continual import TaskNetwork
from brickyard.core.brick import Width
from brickyard.core.decision import Subset
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network
from brickyard.core.space import block_subsets


class Nested:
    """Switches bricks off while a task is learned.

    Args:
        network: The network that learns, cut out of the modular one with all bricks.
        modular: The modular network, whose bricks are meant; its weights play no part.
        share: Share of the pictures that are computed with some bricks off, 0 to 1.

    Raises:
        ConfigError: The share is out of range.
    """

    def __init__(self, network: TaskNetwork, modular: Network, share: float) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"small_share = {share} must be from 0 to 1", path="small_share", value=share)
        self.share, self.modular = share, modular
        self.subsets = block_subsets(modular.space)
        for path, module in modular.root.named_modules():
            width = getattr(module, "width_in", None)
            if isinstance(width, Width) and width.decision in self.subsets:
                axis = -1 if isinstance(module, ElasticLinear) else 1
                _gate_inputs(network.network.root.get_submodule(path), width, axis)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides which bricks are off, beside the random numbers."""
        return {"small_share": self.share}

    @contextmanager
    def __call__(self, examples: int, generator: torch.Generator) -> Iterator[None]:
        """Draw which bricks are off, for one forward pass."""
        if not self.share:
            yield
            return
        gates = draw_nested(self.subsets, examples, share=self.share, generator=generator)
        device = next(self.modular.parameters()).device
        with self.modular.gated({name: tensor.to(device) for name, tensor in gates.items()}):
            yield


def _gate_inputs(module: nn.Module, width: Width, axis: int) -> None:
    """Let a layer see nothing of the bricks that are off."""

    def gate(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (width.gate(inputs[0], axis=axis), *inputs[1:])

    module.register_forward_pre_hook(gate)


def draw_nested(
    subsets: Sequence[Subset], examples: int, *, share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw how many bricks of each block are on, for each example.

    Args:
        subsets: The blocks.
        examples: Number of examples.
        share: Share of the examples, drawn one by one, that have bricks off.
        generator: Source of the draws, of the CPU.

    Returns:
        Gates `[examples, bricks]` of 0 and 1 by name: the first bricks are on, at least as many as the block
        needs and never none.
    """
    small = torch.rand(examples, 1, generator=generator) < share
    found = {}
    for subset in subsets:
        drawn = (torch.rand(examples, 1, generator=generator) * subset.count).ceil()
        on = torch.arange(subset.count) < drawn.clamp(min=max(1, subset.minimum))
        found[subset.name] = (on | ~small).float()
    return found
