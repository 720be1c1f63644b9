"""Teaches a factory a new task without touching what it has: ExSSNeT on its network; needs torch.

The tasks of a factory share one pool of weights, which starts as a copy of those that the factory was trained
to; a task's mask selects from it, and weights that no earlier task's mask holds are trained (arXiv
2210.10209). The network of a task, cut out of the pool, becomes a factory of its own beside the masks, from
which `make` slices models as from any other. Its bricks are ranked by what the loss of the new task tells of
them, so that limits can be met; what that costs in quality is measured and kept.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from brickyard.assemble.assembler import initial_weights
from brickyard.assemble.assembly import Assembly
from brickyard.continual import Learned, Learner, LearnSettings, TaskFolder, TaskNetwork, masked
from brickyard.continual.store import FirstTask
from brickyard.core.errors import ArtifactError, ConfigError, DataError, TaskError
from brickyard.core.files import write_json, write_manifest
from brickyard.core.network import Network
from brickyard.core.space import block_subsets
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.source import DataSource
from brickyard.export.whole import export_blueprint
from brickyard.factory.batches import batches
from brickyard.factory.boxes import detects, judge_of
from brickyard.factory.evaluate import load_fitting, with_channels
from brickyard.factory.folder import FORMAT_VERSION, FactoryFolder, versions
from brickyard.factory.learned import FACTORY, LEARNED, learned_folders
from brickyard.factory.nested import Nested
from brickyard.factory.parts import write_parts
from brickyard.factory.quality import measure_curve
from brickyard.factory.start import brick_costs
from brickyard.factory.twin import load_network
from brickyard.networks import build
from brickyard.train.joint import TrainSettings
from brickyard.train.ranking import fisher_ranking

Progress = Callable[[str, int, int, str], None]
"""Called with stage, steps done, steps in all, and a short text."""

DENSITY = 0.3
_NAME = re.compile(r"\w[\w .+-]*\w|\w")
_BATCH = 64  # pictures of a batch by which bricks are ranked


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Everything that decides how a factory learns a task, beside its data.

    Attributes:
        density: Share of each layer's weights that a mask keeps, above 0, up to 1; all tasks of a factory
            share it. None for that of the earlier tasks, or 0.3 for the first.
        small_share: Share of the pictures of a step that are computed with some of the bricks off, 0 to 1, so
            that small models lose less; see `brickyard.factory.nested`.
        threads: Threads of torch.
        learn: How the mask and the weights are learned; the arm is `exssnet` or `supsup`.
    """

    density: float | None = None
    small_share: float = 0.5
    threads: int = 1
    learn: LearnSettings = field(default_factory=lambda: LearnSettings(weight_rate=3e-3))


def load_new_task(path: Path, data: str, *, heldout_share: float, seed: int, **columns: Any) -> DataSource:
    """Load the data of a new task in the size and channels that a factory reads.

    Args:
        path: The factory folder.
        data: What `brickyard.data.load_data` takes.
        heldout_share: Share held out where the data have no validation or test split.
        seed: Seed of the split.
        **columns: Names of columns, `label` and `image`.

    Raises:
        ArtifactError: The folder is no factory, or is altered.
        DataError: The data are missing or malformed, of another size, or have no classes.
    """
    wanted = FactoryFolder.open(path).preprocess
    source = load_fitting(
        data, wanted, seed=seed, job="classify", scenes=1, heldout_share=heldout_share, **columns
    )
    if source.vocabulary.kind != "classes":
        raise DataError(
            f"{data} has {source.vocabulary.kind}; a new task has classes. The values of a new property are "
            "such: name its column by --label"
        )

    shape = source.train.images.shape[1:3]
    if shape != (wanted.height, wanted.width):
        raise DataError(
            f"pictures of {data} are {shape[0]} x {shape[1]} and cannot be brought to {wanted.height} x "
            f"{wanted.width}, which {path} reads; give them as a folder of class folders"
        )

    def fitted(examples: Examples) -> Examples:
        return Examples(with_channels(examples.images, wanted.channels), examples.objects)

    parts = {"train": fitted(source.train), "heldout": fitted(source.heldout)}
    return DataSource(source.name, source.vocabulary, wanted, **parts, spec=source.spec)


def learn_task(
    path: Path, name: str, source: DataSource, settings: TaskSettings, *, progress: Progress
) -> Learned:
    """Let a factory learn a task, all or nothing.

    After each epoch `<factory>.learning` is written, from which the same call goes on to the same bits; it is
    removed when the task is learned. Nothing is written into the factory before.

    Args:
        path: The factory folder; its own files are not touched.
        name: Name of the task, by which `make` knows it.
        source: Its data, see `load_new_task`.
        settings: How it is learned.
        progress: Called while it is learned.

    Returns:
        How it went.

    Raises:
        ArtifactError: The folder is no factory, cannot learn tasks, or what it learned before is damaged.
        TaskError: The name is taken or malformed.
        ConfigError: The density is not that of the earlier tasks, the arm would change them, or a share is
            out of range.
        TrainError: The loss is not finite, or a checkpoint is of another run.
    """
    torch.set_num_threads(settings.threads)
    folder = FactoryFolder.open(path)
    check_task(folder, name, settings)
    root, whole = path / LEARNED, path.resolve()
    work = whole.with_name(whole.name + ".learning")
    earlier = TaskFolder(root) if root.is_dir() else None
    density = _density(earlier, settings.density)
    network = task_network(path, density)
    nested = Nested(network, _headed(path, 2), settings.small_share)
    store: TaskFolder | FirstTask
    if earlier is None:
        store = FirstTask(root, notes={"factory": folder.name, "density": density})
    else:
        store = earlier
        earlier.load_(network)
    settings_json = {**settings.learn.to_json(), "density": density, **nested.identity}
    epochs = settings.learn.mask_epochs + settings.learn.weight_epochs
    steps_of_mask = settings.learn.mask_epochs / epochs

    def follow(done: int, steps: int, loss: float) -> None:
        phase = "mask" if done <= steps * steps_of_mask else "weights"
        progress("learn", done, steps, f"{phase}, loss {loss:.3f}")

    def beside(place: Path) -> None:
        whole = _modular(path, network.extract(name), num_outputs=len(source.vocabulary.words))
        (place / FACTORY).mkdir()
        _write_factory(
            place / FACTORY,
            name=f"{folder.name}: {name}",
            source=source,
            network=whole,
            limits=folder.quality["limits"],
            settings=settings_json,
            seed=settings.learn.seed,
            progress=progress,
        )

    learner = Learner(network, settings=settings.learn, folder=store, beside=beside)
    return learner.learn(
        name,
        _Pictures(source.train, source.preprocess),
        num_classes=len(source.vocabulary.words),
        progress=follow,
        checkpoint=work,
        around=nested,
    )


def task_network(path: Path, density: float) -> TaskNetwork:
    """Make the network that learns the tasks of a factory: all its bricks, masked, without tasks.

    Args:
        path: The factory folder.
        density: Share of each layer's weights that a mask keeps.

    Raises:
        ArtifactError: The factory's network cannot get another head.
        ConfigError: The density is out of range, or the network cannot be masked.
    """
    network = _headed(path, 2)
    plain = network.extract(network.space.largest())
    return masked(plain, input_shape=network.input_shape, density=density, heads="own", weights="kept")


def check_task(folder: FactoryFolder, name: str, settings: TaskSettings) -> None:
    """Refuse what cannot be learned before anything is loaded or trained.

    Args:
        folder: The factory.
        name: Name of the task.
        settings: How it is to be learned.

    Raises:
        TaskError: The name is taken or malformed.
        ConfigError: The arm would change earlier tasks.
        ArtifactError: The factory cannot learn tasks.
    """
    if not _NAME.fullmatch(name) or name.casefold() == "all":
        raise TaskError(
            f"task name {name!r} is not allowed; give letters, digits, spaces and any of . _ + - between them"
        )
    known = {other.casefold(): other for other in learned_folders(folder.path)}
    if name.casefold() in known:
        raise TaskError(
            f"{folder.path} has a task {known[name.casefold()]!r} already; choose another name. It has: "
            + ", ".join(known.values())
        )
    try:
        folder.vocabulary.parse(name)
    except TaskError:
        pass
    else:
        raise TaskError(
            f"{name!r} is a task in the factory's own words, {', '.join(folder.vocabulary.words[:12])}, ...; "
            "choose a name that is none"
        )
    if settings.learn.arm == "ssnet":
        raise ConfigError("arm = 'ssnet' changes earlier tasks; take exssnet or supsup", path="arm")
    if detects(folder.blueprint.outputs):
        raise ArtifactError(f"{folder.path} detects; tasks can be added to factories that classify")


def _density(earlier: TaskFolder | None, wanted: float | None) -> float:
    """Return the density of a factory's tasks, which is that of the earlier ones."""
    if earlier is None:
        return DENSITY if wanted is None else wanted
    kept = earlier.notes.get("density")
    if not isinstance(kept, int | float):
        raise ArtifactError(f"{earlier.path}/manifest.json tells no density; copy the whole folder again")
    if wanted not in (None, kept):
        hint = "" if len(earlier) else f", or remove {earlier.path}, which has no task yet"
        raise ConfigError(
            f"density = {wanted} is not that of the earlier tasks, {kept}, which all share; leave it out"
            + hint,
            path="density",
            value=wanted,
        )
    return float(kept)


def _headed(path: Path, num_outputs: int) -> Network:
    """Build a factory's network with its weights, but with a fresh head of classes."""
    base = load_network(path)
    arguments = {**base.arguments, "num_outputs": num_outputs, "head_kind": "classes"}
    if base.builder is None or not {"num_outputs", "head_kind"} <= set(base.arguments):
        raise ArtifactError(
            f"the network of {path} is no registered one that can be given another head; tasks can be added "
            "to factories of registered networks"
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = build(base.builder, **arguments)
        other = build(base.builder, **{**arguments, "num_outputs": num_outputs + 1})
    sizes = {name: tensor.shape for name, tensor in other.root.state_dict().items()}
    state, known = network.root.state_dict(), base.root.state_dict()
    heads = {name.rpartition(".")[0] for name, tensor in state.items() if tensor.shape != sizes[name]}
    for name, tensor in state.items():
        if name.rpartition(".")[0] not in heads:
            tensor.copy_(known[name])
    return network.eval()


def _modular(path: Path, plain: nn.Module, *, num_outputs: int) -> Network:
    """Put the weights of a task's plain network back into the modular one, whose bricks can be left out."""
    network = _headed(path, num_outputs)
    found = plain.state_dict()
    for name, tensor in network.root.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(found[name])
    return network


class _Pictures(TensorDataset):
    """Pictures with class indices, preprocessed when they are read."""

    def __init__(self, examples: Examples, preprocess: Preprocess) -> None:
        classes = torch.from_numpy(examples.classes.astype(np.int64))
        super().__init__(torch.from_numpy(examples.images), classes)
        self.preprocess = preprocess

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        images, labels = (tensor[index] for tensor in self.tensors)
        return torch.from_numpy(self.preprocess.apply(images.numpy())), labels


def _write_factory(
    place: Path,
    *,
    name: str,
    source: DataSource,
    network: Network,
    limits: list[float],
    settings: dict[str, Any],
    seed: int,
    progress: Progress,
) -> None:
    blueprint = export_blueprint(network)
    costs, fixed_cost = brick_costs(blueprint)
    assembly = _assembly(source, network, costs, fixed_cost, seed=seed, progress=progress)
    curve = measure_curve(
        judge_of(
            blueprint,
            source.vocabulary,
            source.preprocess,
            heldout=source.heldout,
            geometry=None,
        ),
        blueprint,
        assembly,
        vocabulary=source.vocabulary,
        split=None,
        limits=[limit for limit in limits if limit > fixed_cost] or [1.0],
        seed=seed,
        progress=lambda done, total, text: progress("test", done, total, text),
    )
    provenance = {
        "data": dict(source.spec),
        "settings": settings,
        "versions": versions("torch"),
        "machine": platform.processor() or platform.machine(),
    }
    write_parts(
        place,
        source=source,
        network=network,
        assembly=assembly,
        blueprint=blueprint,
        curve=curve,
        provenance=provenance,
        seed=seed,
    )
    write_json(place / "settings.json", settings)
    write_manifest(place, format_version=FORMAT_VERSION, kind="factory", fields={"name": name, "seed": seed})


def _assembly(
    source: DataSource,
    network: Network,
    costs: np.ndarray[Any, np.dtype[np.float32]],
    fixed_cost: float,
    *,
    seed: int,
    progress: Progress,
) -> Assembly:
    """Return an assembler that opens bricks by their worth for the new task, the same for all its classes."""
    ranking = fisher_ranking(
        network,
        costs,
        batches=batches(source, TrainSettings(batch_size=_BATCH), fresh_scenes=1),
        seed=seed,
        progress=lambda done, total: progress("rank", done, total, "worth of each brick"),
    )
    weights = initial_weights(
        "additive",
        num_words=len(source.vocabulary.words),
        block_sizes=[subset.count for subset in block_subsets(network.space)],
        seed=seed,
        ranking=ranking,
    )
    return Assembly("additive", weights, network.space, costs, fixed_cost)
