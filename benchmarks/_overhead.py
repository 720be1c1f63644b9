"""What cutting costs: the made file against the same architecture written by hand and exported."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from _factories import Kept
from _record import Ledger
from _runtime import ratio, session_of
from onnx import numpy_helper
from torch import Tensor, nn

from brickyard.core.config import Config
from brickyard.devices.measure import random_inputs
from brickyard.factory.quality import open_session

Weights = Mapping[str, Tensor]


def _conv(weights: Weights, strides: Mapping[str, int], name: str) -> nn.Conv2d:
    weight = weights[f"{name}.weight"]
    outputs, inputs, kernel, _ = weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel, stride=strides[name], padding=kernel // 2)
    assert conv.bias is not None
    conv.weight.data.copy_(weight)
    conv.bias.data.copy_(weights[f"{name}.bias"])
    return conv


class _Block(nn.Module):
    """A residual block of two convolutions, or what is left of it when it has no channels."""

    def __init__(self, weights: Weights, strides: Mapping[str, int], name: str) -> None:
        super().__init__()
        self.is_empty = f"{name}.body.conv1.weight" not in weights
        if self.is_empty:
            self.register_buffer("constant", weights[f"{name}.body.value"])
        else:
            self.conv1 = _conv(weights, strides, f"{name}.body.conv1")
            self.conv2 = _conv(weights, strides, f"{name}.body.conv2")
        has_shortcut = f"{name}.shortcut.conv.weight" in weights
        self.shortcut = _conv(weights, strides, f"{name}.shortcut.conv") if has_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        side = x if self.shortcut is None else self.shortcut(x)
        body = self.constant if self.is_empty else self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(side + body)  # type: ignore[operator]


class Handmade(nn.Module):
    """A residual CNN with given channel numbers, normalisation folded, as one would write it for one purpose.

    Args:
        weights: Tensors of the model it repeats, by name.
        strides: Stride of each convolution, by name.
        blocks: Names of the blocks in order.
    """

    def __init__(self, weights: Weights, strides: Mapping[str, int], blocks: list[str]) -> None:
        super().__init__()
        self.stem = _conv(weights, strides, "stem.conv")
        self.blocks = nn.Sequential(*(_Block(weights, strides, name) for name in blocks))
        self.is_presence = "head.missing.weight" in weights
        if self.is_presence:
            self.missing, self.score = (
                _conv(weights, strides, f"head.{part}") for part in ("missing", "score")
            )
        last = weights["head.answer.weight" if self.is_presence else "head.linear.weight"]
        self.last = nn.Linear(last.shape[1], last.shape[0])
        self.last.weight.data.copy_(last)
        self.last.bias.data.copy_(weights["head.answer.bias" if self.is_presence else "head.linear.bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Compute the scores."""
        x = self.blocks(torch.relu(self.stem(x)))
        if self.is_presence:
            x = nn.functional.adaptive_max_pool2d(self.score(torch.relu(self.missing(x))), 1)
        else:
            x = nn.functional.adaptive_avg_pool2d(x, 1)
        y: Tensor = self.last(torch.flatten(x, 1))
        return y


def handmade(entry: Kept, model: onnx.ModelProto) -> Handmade:
    """Write the architecture of a made model by hand, with its channel numbers, strides and weights."""
    weights = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    strides = {}
    for node in entry.factory.folder.blueprint.graph.graph.node:
        if node.op_type == "Conv":
            attributes = {attribute.name: attribute for attribute in node.attribute}
            strides[node.input[1].removesuffix(".weight")] = int(attributes["strides"].ints[0])
    names = {name.removesuffix(".body.conv1") for name in strides if name.endswith(".body.conv1")}
    blocks = sorted(names, key=lambda name: [int(part) for part in name.split(".")[1:]])
    return Handmade(weights, strides, blocks).eval()


def overhead(ledger: Ledger, entry: Kept, *, configs: int, threads: int) -> None:
    """Time made files against handmade ones.

    Args:
        ledger: Takes the rows.
        entry: A factory with a residual CNN.
        configs: Configs, made for tasks and random ones by turns.
        threads: Threads of the runtime.

    Raises:
        RuntimeError: A handmade network does not compute what the made model computes.
    """
    blueprint = entry.factory.folder.blueprint
    known, unseen = entry.pairs()
    rng = random.Random(5)
    ratios = []
    for number in range(configs):
        task = (known, unseen)[number % 2][number]
        config: Config = entry.config(task, ("25%", "50%")[number // 2 % 2])
        if number % 3 == 2:
            config = blueprint.space.sample(rng)
        model = blueprint.cut(config)
        shape = entry.preprocess.shape
        made = open_session(model, threads=threads)
        other = session_of(handmade(entry, model), shape, threads=threads)
        given = random_inputs(made)
        error = float(np.abs(made.run(None, given)[0] - other.run(None, given)[0]).max())
        if error > 1e-3:
            raise RuntimeError(f"the handmade network differs from the made model by {error:.3g}")
        ratios.append(ratio(made, other))
    more = {"seed": entry.seed, "count": configs}
    ledger.add(
        "overhead",
        "made file / handmade and exported",
        "ratio of latency, median",
        float(np.median(ratios)),
        **more,
    )
    ledger.add(
        "overhead", "made file / handmade and exported", "ratio of latency, largest", max(ratios), **more
    )
