"""Statistics of batch normalisation for one subnet.

A subnet normalises by means and variances of its own: those of the shared network belong to whichever subnets
were trained last. They are re-estimated on inputs without labels (arXiv 1908.09791 and 1903.05134 do the same
before a subnet is judged), as the plain average over the batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from brickyard.bricks.norm import ElasticBatchNorm2d
from brickyard.core.errors import ConfigError
from brickyard.core.network import Network

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@torch.no_grad()
def calibrate_(module: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> None:
    """Give the normalisations of a module the statistics of these inputs.

    Every batch counts alike, so batches should be of one size; larger ones give truer variances. Only
    normalisation runs in training mode, so nothing is dropped. A module without batch normalisation stays as
    it is.

    Args:
        module: The module; its statistics change, its modes do not.
        batches: Inputs without labels, each the input of the module or a tuple of its inputs.

    Raises:
        ConfigError: There are no batches; then nothing has changed.
    """
    modes = {part: part.training for part in module.modules()}
    norms = [part for part in modes if isinstance(part, (ElasticBatchNorm2d, *_PLAIN))]
    momenta = [norm.momentum for norm in norms]
    count = 0
    try:
        module.eval()
        for norm in norms:
            norm.train()
        for count, batch in enumerate(batches, start=1):
            for norm in norms:
                norm.momentum = 1 / count
            module(*((batch,) if isinstance(batch, Tensor) else batch))
        if not count:
            raise ConfigError("there are no batches to calibrate with; give one or more", path="batches")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes.items():
            part.training = mode


@torch.no_grad()
def extract_calibrated(
    network: Network,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Cut a subnet out with statistics of its own; see `calibrate_`.

    Args:
        network: The network; weights, statistics, modes and active config are afterwards what they were.
        batches: Inputs without labels, each the input of the network or a tuple of its inputs.
        config: The subnet; the active one if None.

    Returns:
        The plain module in evaluation mode.

    Raises:
        ConfigError: The config is not legal, or there are no batches.
        ExtractError: What is left is not connected.
    """
    norms = [part for part in network.modules() if isinstance(part, (ElasticBatchNorm2d, *_PLAIN))]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    with network.configured(network.space.active() if config is None else config):
        try:
            calibrate_(network, batches)
            return network.extract().eval()
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
