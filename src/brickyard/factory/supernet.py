"""A trained supernet: its folder, its subnets, and how good they are; needs torch.

trained = load_trained("my_supernet")
trained.evaluate(trained.space.smallest())   # {"accuracy": 0.87}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from brickyard.bricks.calibration import extract_calibrated
from brickyard.bricks.norm import ElasticBatchNorm2d
from brickyard.core.config import Config
from brickyard.core.files import read_manifest
from brickyard.core.network import Network
from brickyard.core.space import Space
from brickyard.factory.folder import FORMAT_VERSION
from brickyard.factory.supernet_jobs import Job, read_job
from brickyard.factory.twin import load_network
from brickyard.train.layout import fast_layout_
from brickyard.train.supernet import searched

_NORMS = (ElasticBatchNorm2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class TrainedSupernet:
    """A supernet whose subnets can be judged.

    Attributes:
        network: The network, in evaluation mode, everything on.
        job: What it was trained for; turns examples into inputs.
        calibration: Inputs without labels, each the arguments of the network, from which every subnet's
            normalisation is estimated.
        heldout: Examples that it was not trained on.
    """

    network: Network
    job: Job[Any]
    calibration: list[tuple[Tensor, ...]]
    heldout: Any

    @property
    def space(self) -> Space:
        """What a search decides: the space of the network without the subsets of its head."""
        return searched(self.network.space)

    @property
    def metric(self) -> str:
        """Name of the number that `evaluate` gives: `accuracy` (0 to 1) or `bleu` (0 to 100)."""
        return self.job.metric

    def whole_config(self, config: Mapping[str, Any]) -> Config:
        """Return a config of the network: subsets of the head that are not given stay whole.

        Args:
            config: A config of `space`, or of the network's own space.

        Raises:
            ConfigError: It is not legal.
        """
        return self.network.space.check({**_head(self.network.space), **config})

    def subnet(self, config: Mapping[str, Any]) -> nn.Module:
        """Cut a subnet out, with statistics of normalisation of its own where it normalises by batches.

        Args:
            config: A config of `space`, or of the network's own space.

        Returns:
            A plain module in evaluation mode that shares nothing with the network.

        Raises:
            ConfigError: The config is not legal.
        """
        config = self.whole_config(config)
        if any(isinstance(part, _NORMS) for part in self.network.modules()):
            return extract_calibrated(self.network, self.calibration, config)
        return self.network.extract(config).eval()

    def evaluate(self, config: Mapping[str, Any], examples: Any = None) -> dict[str, float]:
        """Judge a subnet.

        Args:
            config: A config of `space`, or of the network's own space.
            examples: Examples of the kind that the job takes (`Examples`, `Texts` or `Pairs`); those held out
                if None.

        Returns:
            The metric by name.

        Raises:
            ConfigError: The config is not legal.
        """
        examples = self.heldout if examples is None else examples
        return {self.metric: self.job.evaluate(fast_layout_(self.subnet(config)), examples)}


def _head(space: Space) -> dict[str, Any]:
    inner = searched(space)
    return {decision.name: decision.largest() for decision in space if decision.name not in inner}


def load_trained(folder: str | Path) -> TrainedSupernet:
    """Load what `brickyard train supernet` wrote.

    Args:
        folder: The folder; its hashes are verified.

    Raises:
        ArtifactError: The folder is no network folder, or is altered.
    """
    path = Path(folder)
    read_manifest(path, format_version=FORMAT_VERSION, kind="network")
    network = load_network(path)
    job = read_job(path, max_tokens=network.input_shape[0])
    return TrainedSupernet(
        network,
        job,
        job.calibration(job.load_examples(path / "calibration")),
        job.load_examples(path / "heldout"),
    )
