"""Trains a factory: data and a network's name in, a factory folder out; needs torch."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from brickyard.assemble.assembler import ASSEMBLERS, initial_bias, initial_weights, limit_features
from brickyard.assemble.assembly import Assembly, raise_floors
from brickyard.assemble.ceiling import open_bricks
from brickyard.assemble.discretise import DISCRETISERS, penalty
from brickyard.core.errors import ArtifactError, TrainError
from brickyard.core.files import new_folder, read_json, write_bytes, write_json, write_manifest
from brickyard.core.network import Network
from brickyard.core.norm_sets import NormSets
from brickyard.core.space import block_subsets
from brickyard.data.source import DataSource
from brickyard.export.blueprint import Blueprint
from brickyard.export.whole import export_blueprint
from brickyard.factory.batches import batches
from brickyard.factory.boxes import judge_of
from brickyard.factory.folder import FORMAT_VERSION, versions
from brickyard.factory.parts import write_parts
from brickyard.factory.quality import measure_curve
from brickyard.factory.start import add_norm_sets, brick_costs, start_network
from brickyard.networks.detection import OUTPUTS
from brickyard.train.augment import AUGMENTATIONS, BOX_AUGMENTATIONS
from brickyard.train.backbone import BackboneTraining
from brickyard.train.detection import BackboneDetection, JointDetection
from brickyard.train.joint import Ask, Batches, JointTraining, Record, TrainSettings, split_gates
from brickyard.train.layout import fast_layout_
from brickyard.train.ranking import fisher_ranking
from brickyard.train.tasks import (
    ClassQuestions,
    ObjectClassQuestions,
    PropertyQuestions,
    TaskSplit,
    split_tasks,
)

Progress = Callable[[str, int, int, str], None]
"""Called with stage, steps done, steps in all, and a short text."""

_FRESH_SCENES = 20_000
_CURVE_LIMITS = (0.15, 0.25, 0.35, 0.5, 0.75, 1.0)  # and the lowest that was trained; none below it


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Everything that decides a factory besides its data.

    Attributes:
        network: Name of a registered network.
        assembler: Name of an assembler.
        discretiser: Name of a discretiser.
        backbone_steps: Steps of stage 0 (all tasks share nested cores of bricks); 0 for none.
        backbone_rate: Peak learning rate of stage 0.
        backbone_weights: File of weights (safetensors) of the network that stage 0 starts from.
        ranking: Which bricks a nested core opens first: `position`, the first of each block alike; or
            `fisher`, for classifiers that come trained: those that its loss misses most.
        norm_sets: Descending shares of all MACs in (0, 1] between which subnets normalise by numbers of their
            own (see `brickyard.core.norm_sets`); one normalisation for all sizes if there are none.
        unseen_share: Share of the pairs of properties that are never trained, to test new combinations.
        augment: Name of an augmentation, or `none`.
        threads: Threads of torch.
        train: The joint run and the seed of the whole build.
    """

    network: str = "residual_cnn_small"
    assembler: str = "additive"
    discretiser: str = "ceiling"
    backbone_steps: int = 4500
    backbone_rate: float = 4e-3
    backbone_weights: str | None = None
    ranking: Literal["position", "fisher"] = "position"
    norm_sets: tuple[float, ...] = ()
    unseen_share: float = 0.2
    augment: str = "none"
    threads: int = 1
    train: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self) -> None:
        """Check the names and ranges.

        Raises:
            TrainError: A name is unknown or a number out of range.
            ConfigError: The edges of the norm sets do not descend, or do not lie in (0, 1].
        """
        tables: tuple[tuple[str, str, Mapping[str, object]], ...] = (
            ("assembler", self.assembler, ASSEMBLERS),
            ("discretiser", self.discretiser, DISCRETISERS),
            ("augment", self.augment, {**AUGMENTATIONS, **BOX_AUGMENTATIONS}),
        )
        if self.norm_sets:
            NormSets(self.norm_sets, {}, 0.0)
        if self.ranking not in ("position", "fisher"):
            raise TrainError(f"ranking = {self.ranking!r} is unknown; known: position, fisher")
        for name, value, table in tables:
            if value not in table:
                raise TrainError(f"{name} = {value!r} is unknown; known: {', '.join(table)}")
        if self.backbone_steps < 0 or self.threads < 1:
            raise TrainError(
                f"backbone_steps = {self.backbone_steps} must not be negative and threads = {self.threads} "
                f"be at least 1"
            )


class TorchAssembler(nn.Module):
    """Holds an assembler's weights as parameters, and opens gates for a batch.

    Args:
        kind: Name of the assembler.
        num_words: Length of a task vector.
        network: The network whose blocks it opens.
        discretiser: Name of the discretiser.
        seed: Seed of the initial weights.
        ranking: Logits that every task starts with, `[bricks]`; those of `initial_bias` if None.
    """

    def __init__(
        self,
        kind: str,
        *,
        num_words: int,
        network: Network,
        discretiser: str,
        seed: int,
        ranking: npt.NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.discretiser = kind, discretiser
        self.subsets = block_subsets(network.space)
        initial = initial_weights(
            kind,
            num_words=num_words,
            block_sizes=[subset.count for subset in self.subsets],
            seed=seed,
            ranking=ranking,
        )
        self.names = {name.replace(".", "_"): name for name in initial}
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): nn.Parameter(torch.from_numpy(value)) for name, value in initial.items()}
        )

    def named(self) -> dict[str, Tensor]:
        """Return the weights by the names that the assembler uses."""
        return {self.names[name]: value for name, value in self.weights.items()}

    def gates(
        self, tasks: Tensor, limits: Tensor, costs: Tensor, *, fixed_cost: float
    ) -> tuple[Tensor, Tensor]:
        """Open gates.

        Args:
            tasks: Multi-hot tasks `[batch, words]`.
            limits: Shares of all MACs `[batch]`.
            costs: Share of each brick `[bricks]`.
            fixed_cost: Share that is always on.

        Returns:
            Gates `[batch, bricks]` and the penalty, a scalar.
        """
        features = torch.from_numpy(limit_features(limits.cpu().numpy())).to(tasks.device)
        logits = ASSEMBLERS[self.kind](self.named(), tasks, features)
        raised = raise_floors(logits.detach().cpu().numpy(), self.subsets)
        logits = logits + (torch.from_numpy(raised).to(logits.device) - logits.detach())
        gates = DISCRETISERS[self.discretiser](logits, costs, limits - fixed_cost)
        return gates, penalty(self.discretiser, logits, gates, costs, limits - fixed_cost)

    def assembly(self, network: Network, costs: npt.NDArray[np.float32], fixed_cost: float) -> Assembly:
        """Return what making models needs, without torch."""
        weights = {name: value.detach().cpu().numpy().copy() for name, value in self.named().items()}
        return Assembly(self.kind, weights, network.space, costs, fixed_cost)


def nested_cores(
    network: Network,
    costs: npt.NDArray[np.float32],
    fixed_cost: float,
    *,
    ranking: npt.NDArray[np.float32] | None = None,
) -> Callable[[npt.NDArray[np.float32]], Mapping[str, Tensor]]:
    """Return what opens, under limits, the first bricks of each block.

    Args:
        network: The network.
        costs: Share of each brick, `[bricks]`.
        fixed_cost: Share that is always on.
        ranking: Logits by which bricks open, `[bricks]`; those of `initial_bias` if None.

    Returns:
        From limits `[batch]` to gates by subset.
    """
    subsets = block_subsets(network.space)
    logits = initial_bias([subset.count for subset in subsets]) if ranking is None else ranking
    ranked = raise_floors(logits[None], subsets)
    device = next(network.parameters()).device

    def gates(limits: npt.NDArray[np.float32]) -> Mapping[str, Tensor]:
        logits = np.broadcast_to(ranked, (len(limits), len(costs)))
        opened = open_bricks(logits, costs, limits - np.float32(fixed_cost))
        return split_gates(torch.from_numpy(opened.astype(np.float32)).to(device), subsets)

    return gates


def train_factory(
    source: DataSource,
    settings: BuildSettings,
    *,
    out: Path,
    progress: Progress,
    name: str | None = None,
    network: Network | None = None,
) -> Path:
    """Train a network and its assembler on data and write the factory folder.

    Checkpoints lie in `<out>.training` and let a killed build go on; the folder is removed when the
    factory is written.

    Args:
        source: The data.
        settings: The build.
        out: Folder of the factory; must not exist.
        progress: Called while training.
        name: Name of the factory; that of the folder if None.
        network: Network of the user's own, such as `brickyard.modularize` makes, trained in place from the
            weights it has, which are also the teacher of distillation; a registered one, by the name in the
            settings, if None.

    Returns:
        `out`.

    Raises:
        TrainError: Settings that do not fit, or a checkpoint of another run.
        ArtifactError: `out` exists.
    """
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.train.seed)
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder or remove it first")
    work = out.absolute().with_name(out.name + ".training")
    work.mkdir(parents=True, exist_ok=True)
    came_trained = network is not None
    network = fast_layout_(start_network(source, settings, network))
    if settings.ranking == "fisher" and (not came_trained or source.vocabulary.kind != "classes"):
        raise TrainError("ranking = 'fisher' needs a trained classifier; use 'position'")
    teacher = copy.deepcopy(network).eval() if came_trained and settings.train.distill > 0 else None
    costs, fixed_cost = brick_costs(export_blueprint(network.eval()))
    if settings.train.lowest_limit <= fixed_cost:
        raise TrainError(
            f"lowest_limit = {settings.train.lowest_limit} lies below the share that is always on, "
            f"{fixed_cost:.3f}; raise it"
        )
    if settings.norm_sets:
        add_norm_sets(network, settings.norm_sets, costs, fixed_cost)
    split = None
    if source.vocabulary.kind == "properties":
        split = split_tasks(source.vocabulary, unseen_share=settings.unseen_share, seed=settings.train.seed)
    log = _train(
        source=source,
        settings=settings,
        network=network,
        teacher=teacher,
        split=split,
        costs=costs,
        fixed_cost=fixed_cost,
        work=work,
        progress=progress,
    )
    blueprint = export_blueprint(network.eval())
    assembly = log.assembler.assembly(network, costs, fixed_cost)
    lowest = settings.train.lowest_limit
    limits = (lowest, *(limit for limit in _CURVE_LIMITS if limit > lowest))
    curve = measure_curve(
        judge_of(
            blueprint,
            source.vocabulary,
            source.preprocess,
            heldout=None if source.geometry is not None else source.heldout,
            geometry=source.geometry,
        ),
        blueprint,
        assembly,
        vocabulary=source.vocabulary,
        split=split,
        limits=limits,
        seed=settings.train.seed,
        progress=lambda done, total, text: progress("test", done, total, text),
    )
    with new_folder(out) as folder:
        _write(
            folder=folder,
            name=name or out.name,
            source=source,
            settings=settings,
            network=network,
            assembly=assembly,
            blueprint=blueprint,
            curve=curve,
            rows=log.rows,
        )
    shutil.rmtree(work)
    return out


def _ranked(
    network: Network,
    costs: npt.NDArray[np.float32],
    drawn: Batches,
    settings: BuildSettings,
    *,
    work: Path,
    progress: Progress,
) -> npt.NDArray[np.float32]:
    """Rank the bricks by what the loss tells of them, or read the ranking of the run that goes on."""
    file = work / "ranking.json"
    if not file.is_file():
        ranking = fisher_ranking(
            network.eval(),
            costs,
            batches=drawn,
            seed=settings.train.seed,
            progress=lambda done, total: progress("rank", done, total, "worth of each brick"),
        )
        write_json(file, ranking.tolist())
    return np.array(read_json(file), dtype=np.float32)


@dataclass
class _Log:
    assembler: TorchAssembler
    rows: list[dict[str, Any]]


def _train(
    *,
    source: DataSource,
    settings: BuildSettings,
    network: Network,
    teacher: Network | None,
    split: TaskSplit | None,
    costs: npt.NDArray[np.float32],
    fixed_cost: float,
    work: Path,
    progress: Progress,
) -> _Log:
    train = settings.train
    detects = network.outputs == OUTPUTS
    augment = None if detects else AUGMENTATIONS[settings.augment]
    box_augment = BOX_AUGMENTATIONS[settings.augment] if detects else None
    group_sizes = None if split is None else source.vocabulary.sizes
    identity = {
        "data": dict(source.spec),
        **{key: value for key, value in asdict(settings).items() if key not in ("train", "threads")},
        "space": hashlib.sha256(json.dumps(network.space.to_json()).encode()).hexdigest(),
    }
    log_file = work / "log.jsonl"
    rows = [json.loads(line) for line in log_file.read_text().splitlines()] if log_file.is_file() else []

    def note(stage: str, record: Record, steps: int) -> None:
        kept = [row for row in rows if row["stage"] != stage or row["step"] < record.step]
        rows[:] = [*kept, {"stage": stage, **asdict(record)}]
        write_bytes(log_file, "".join(json.dumps(row) + "\n" for row in rows).encode())
        progress(stage, record.step, steps, f"loss {record.loss:.3f}, accuracy {record.accuracy:.3f}")

    ranking = None
    drawn = batches(source, train, fresh_scenes=_FRESH_SCENES, augment=box_augment)
    if settings.ranking == "fisher":
        ranking = _ranked(network, costs, drawn, settings, work=work, progress=progress)
    if settings.backbone_steps:
        stage0 = replace(train, steps=settings.backbone_steps, learning_rate=settings.backbone_rate)
        backbone = BackboneTraining(
            network,
            group_sizes=group_sizes,
            batches=batches(source, stage0, fresh_scenes=_FRESH_SCENES, augment=box_augment),
            settings=stage0,
            folder=work,
            augment=augment,
            nested=nested_cores(network, costs, fixed_cost, ranking=ranking),
            objective=BackboneDetection(group_sizes) if detects else None,
            teacher=teacher,
            identity=identity,
        )
        for record in backbone.run():
            note("backbone", record, settings.backbone_steps)
    num_words = len(source.vocabulary.words)
    assembler = TorchAssembler(
        settings.assembler,
        num_words=num_words,
        network=network,
        discretiser=settings.discretiser,
        seed=train.seed,
        ranking=ranking,
    )
    ask: Ask
    if split is not None:
        ask = PropertyQuestions(source.vocabulary, split.trained)
    else:
        ask = ObjectClassQuestions(num_words) if detects else ClassQuestions(num_words)
    # Stage 0 has annealed the limits already; doing it again would undo what it taught small subnets.
    joint_settings = replace(train, anneal=0.0) if settings.backbone_steps else train
    joint = JointTraining(
        network,
        assembler,
        gate=lambda tasks, limits, shares: assembler.gates(tasks, limits, shares, fixed_cost=fixed_cost),
        costs=costs,
        batches=drawn,
        ask=ask,
        settings=joint_settings,
        folder=work,
        augment=augment,
        objective=JointDetection(joint_settings) if detects else None,
        teacher=teacher,
        identity=identity,
    )
    joint.resume()
    for record in joint.run():
        note("joint", record, train.steps)
    return _Log(assembler, rows)


def _write(
    *,
    folder: Path,
    name: str,
    source: DataSource,
    settings: BuildSettings,
    network: Network,
    assembly: Assembly,
    blueprint: Blueprint,
    curve: Mapping[str, Any],
    rows: list[dict[str, Any]],
) -> None:
    provenance = {
        "data": dict(source.spec),
        "settings": asdict(settings),
        "versions": versions("torch", "datasets"),
        "machine": platform.processor() or platform.machine(),
    }
    seed = settings.train.seed
    write_parts(
        folder,
        source=source,
        network=network,
        assembly=assembly,
        blueprint=blueprint,
        curve=curve,
        provenance=provenance,
        seed=seed,
    )
    (folder / "training").mkdir()
    write_json(folder / "training" / "settings.json", {"data": dict(source.spec), **asdict(settings)})
    with (folder / "training" / "log.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    from brickyard.factory.training_report import write_training_report

    write_training_report(folder / "training", name=name, rows=rows, curve=curve, settings=asdict(settings))
    write_manifest(folder, format_version=FORMAT_VERSION, kind="factory", fields={"name": name, "seed": seed})
