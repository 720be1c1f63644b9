"""Peers without a task of their own: the generic network behind an output filter, and cuts of it.

Generic means stage 0: trained on all words or classes with nested cores of bricks, before tasks and
assembler come in. For a property task the filter reads every word at every place and says yes where all
words of the task are present; one threshold for all tasks is fitted on scenes of known tasks, which a cut
without fine-tuning would otherwise suffer from.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning
from _alone import BatchPool
from _factories import Kept, settings_of
from _runtime import forward, macs_of
from torch import nn

from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.network import Network
from brickyard.core.space import CLASSES, WORDS, block_subsets
from brickyard.core.task import Task
from brickyard.data.geometry import task_scenes
from brickyard.export.blueprint import Blueprint
from brickyard.factory.quality import rate
from brickyard.train.augment import AUGMENTATIONS
from brickyard.train.backbone import BackboneTraining
from brickyard.train.layout import fast_layout_

Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
_CALIBRATION = 700_000_000


def uniform_config(blueprint: Blueprint, macs: float, head: dict[str, tuple[int, ...]]) -> Config:
    """Open the same share of each block's bricks, the first ones, as far as the MACs go.

    Args:
        blueprint: The network.
        macs: Ceiling.
        head: Values of the head's decision, `head.words` or `classes`.

    Returns:
        The config; depths and kernels at their largest.
    """
    blocks = block_subsets(blueprint.space)
    opened = {block.name: tuple(range(block.minimum)) for block in blocks}
    choices = {d.name: d.largest() for d in blueprint.space if isinstance(d, Choice)}
    bricks = sorted(
        (index / block.count, block.name, index) for block in blocks for index in range(block.count)
    )
    for _, name, index in bricks:
        if index < len(opened[name]):
            continue
        wider = {**opened, name: (*opened[name], index)}
        if blueprint.count({**choices, **wider, **head}).macs > macs:
            break
        opened = wider
    return blueprint.space.check({**choices, **opened, **head})


def head_of(blueprint: Blueprint, task: Task | None, entry: Kept) -> dict[str, tuple[int, ...]]:
    """Return the head's decision for a task, or with everything on."""
    name = WORDS if WORDS in blueprint.space else CLASSES
    if task is None:
        return {name: blueprint.space.largest()[name]}
    return {name: tuple(sorted(entry.vocabulary.index(word) for word in task.words))}


class Reader:
    """Answers tasks by a generic network and an output filter.

    Args:
        entry: Factory whose vocabulary it reads.
        module: Plain network with a head for all words or classes.
        scenes: Scenes for each task that the threshold is fitted on.
    """

    def __init__(self, entry: Kept, module: nn.Module, *, scenes: int = 200) -> None:
        self.entry, self.module, self.threshold = entry, module, 0.0
        self.is_property = entry.vocabulary.kind == "properties"
        if self.is_property:
            self.parts = nn.Sequential(
                *(module.get_submodule(name) for name in ("stem", "stages", "head.missing"))
            )
            self._fit(scenes)

    def _scores(self, task: Task, images: Pictures) -> npt.NDArray[np.float64]:
        """Return for each picture how surely all words are at one place."""
        words = [self.entry.vocabulary.index(word) for word in task.words]
        present = -forward(self.parts, self.entry.preprocess.apply(images))[:, words]
        scores: npt.NDArray[np.float64] = present.amin(1).amax((1, 2)).double().numpy()
        return scores

    def _fit(self, count: int) -> None:
        spec = self.entry.factory.folder.geometry
        assert spec is not None
        known, _ = self.entry.pairs()
        scores, labels = [], []
        for number, task in enumerate(known[:: max(1, len(known) // 12)]):
            examples, present = task_scenes(
                spec, task.values(self.entry.vocabulary), count, _CALIBRATION + number
            )
            scores.append(self._scores(task, examples.images))
            labels.append(present)
        flat, right = np.concatenate(scores), np.concatenate(labels)
        candidates = np.quantile(flat, np.linspace(0.02, 0.98, 97))
        rated = [(flat[right] > limit).mean() + (flat[~right] <= limit).mean() for limit in candidates]
        self.threshold = float(candidates[int(np.argmax(rated))])

    def judge(self, task: Task, examples: tuple[Pictures, Labels]) -> float:
        """Return the (balanced) accuracy on labelled pictures."""
        images, labels = examples
        if self.is_property:
            scores = self._scores(task, images) - self.threshold
            return rate(
                task, self.entry.vocabulary, np.stack([-scores, scores], 1).astype(np.float32), labels
            )[0]
        scores_all = forward(self.module, self.entry.preprocess.apply(images))
        allowed = list(task.class_indices(self.entry.vocabulary))
        return rate(task, self.entry.vocabulary, scores_all[:, allowed].numpy(), labels)[0]


def recalibrate_(module: nn.Module, inputs: npt.NDArray[np.float32], *, batch: int = 128) -> None:
    """Re-estimate the statistics of batch normalisation on unlabelled inputs, cumulatively.

    Args:
        module: Changed.
        inputs: Inputs `[N, channels, height, width]`.
        batch: Inputs at a time.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.train()
    with torch.no_grad():
        for start in range(0, len(inputs), batch):
            module(torch.from_numpy(inputs[start : start + batch]))
    for norm in norms:
        norm.momentum = 0.1
    module.eval()


def library_cut(
    module: nn.Module,
    shape: tuple[int, ...],
    share: float,
    *,
    across_layers: bool,
    round_to: int | None = None,
) -> nn.Module:
    """Cut channels by L1 magnitude with torch-pruning.

    Args:
        module: The generic network; left as it is.
        shape: Shape of one input.
        share: Share of the channels to remove.
        across_layers: Rank the channels of all layers together; else each layer loses the same share.
        round_to: Keep multiples of this many channels, which run faster.

    Returns:
        The smaller network.
    """
    cut = copy.deepcopy(module).eval()
    for parameter in cut.parameters():
        parameter.requires_grad_(True)  # the library traces gradients
    pruner = torch_pruning.pruner.MagnitudePruner(
        cut,
        torch.zeros(1, *shape),
        # By the largest of its layer: by the mean, layers that would lose all channels are skipped whole.
        importance=torch_pruning.importance.MagnitudeImportance(p=1, normalizer="max"),
        global_pruning=across_layers,
        pruning_ratio=share,
        max_pruning_ratio=0.95,
        round_to=round_to,
        ignored_layers=_uncut(cut),
    )
    pruner.step()
    return cut


def _uncut(module: nn.Module) -> list[nn.Module]:
    """Return the layers that the library leaves as they are: the head, whose outputs are the answers.

    Of a ResNet for CIFAR also those that write to the shortcuts: these have no parameters and fill up
    channels by zeros, which the library cannot cut. So it cuts inside blocks, as ours does.
    """
    if hasattr(module, "head"):
        return list(module.get_submodule("head").modules())
    return [
        layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or name == "conv1" or name.endswith("conv2")
    ]


_LADDER = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94)


def largest_below(
    make: Callable[[float], nn.Module], fits: Callable[[nn.Module], bool], *, steps: int = 6
) -> nn.Module | None:
    """Find the largest network that fits: the first on a ladder of shares, then by bisection below it.

    The ladder is climbed from below because a library's cut need not shrink with the share: layers that would
    lose all channels, rounded to multiples, are left whole.

    Args:
        make: From a share in [0, 1] that is removed to a network.
        fits: Whether a network is small enough.
        steps: Steps of the bisection.

    Returns:
        The network; None if none on the ladder fits.
    """
    low = 0.0
    for high in _LADDER:
        best = make(high)
        if fits(best):
            break
        low = high
    else:
        return None
    for _ in range(steps):
        middle = (low + high) / 2
        module = make(middle)
        if fits(module):
            best, high = module, middle
        else:
            low = middle
    return best


FIRST = "first channels of stage 0, which was trained for that"


def cutters(
    entry: Kept, network: Network, *, round_to: int | None
) -> dict[str, Callable[[float], nn.Module]]:
    """Return the ways to cut a generic network, by name; each takes the share to remove.

    Args:
        entry: The factory it belongs to.
        network: The generic network that the library cuts; first channels are those of stage 0.
        round_to: Multiples of channels that the library keeps.

    Returns:
        The ways.
    """
    blueprint = entry.factory.folder.blueprint
    head = head_of(blueprint, None, entry)
    nested = entry.backbone() or network
    whole = network.extract(network.space.largest())
    macs = macs_of(whole, network.input_shape)

    def first(share: float) -> nn.Module:
        return nested.extract(uniform_config(blueprint, (1 - share) * macs, head))

    def library(across_layers: bool) -> Callable[[float], nn.Module]:
        return lambda share: library_cut(
            whole, network.input_shape, share, across_layers=across_layers, round_to=round_to
        )

    return {
        FIRST: first,
        "uniform cut, L1 in each layer (torch-pruning)": library(across_layers=False),
        "magnitude cut, L1 across layers (torch-pruning)": library(across_layers=True),
    }


def tune_(entry: Kept, module: nn.Module, *, steps: int) -> float:
    """Fine-tune a cut network on the generic objective, every word or class.

    Args:
        entry: The factory it was cut from.
        module: Changed.
        steps: Optimizer steps.

    Returns:
        Seconds of processor time.
    """
    settings = settings_of(entry.what, entry.seed)
    source = entry.data
    sizes = source.vocabulary.sizes if source.vocabulary.kind == "properties" else None
    training = BackboneTraining(
        Network(fast_layout_(module), input_shape=source.preprocess.shape),
        group_sizes=sizes,
        batches=BatchPool(source.train, source.preprocess, settings.train.batch_size),
        settings=replace(settings.train, steps=steps),
        augment=AUGMENTATIONS[settings.augment],
    )
    started = time.process_time()
    for _ in training.run(record_every=steps):
        pass
    return time.process_time() - started
