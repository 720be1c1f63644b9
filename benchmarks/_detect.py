"""Detectors of the benchmark: their data and recipes, their training, and how they are measured."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import _adaptor
import numpy as np
import torch
from _factories import KEPT, Kept
from _record import Ledger, say
from safetensors.torch import load_file, save

from brickyard.core.files import write_bytes
from brickyard.core.network import Network
from brickyard.data.source import DataSource, load_data
from brickyard.export.whole import export_blueprint
from brickyard.factory.batches import batches
from brickyard.factory.boxes import BoxJudge
from brickyard.factory.build import BuildSettings, train_factory
from brickyard.factory.quality import Rating, open_session
from brickyard.networks import build
from brickyard.train.augment import BOX_AUGMENTATIONS
from brickyard.train.backbone import BackboneTraining
from brickyard.train.detection import BackboneDetection
from brickyard.train.joint import TrainSettings
from brickyard.train.layout import fast_layout_

WHATS = ("geometry", "bccd")
LIMITS = ("25%", "50%")
SCENES = 200
_FRESH = 600_000_000  # far from the seeds of training, of the factory's own test and of its reports
_GEOMETRY = "geometry:size=96,train=1000,heldout=500"


@cache
def data_of(what: str, seed: int, kept: Path = KEPT) -> DataSource:
    """Return the data of a kind of detector: scenes of 96 pixels with 1 to 5 objects, or blood cells."""
    return load_data(_GEOMETRY, seed=seed) if what == "geometry" else _adaptor.bccd(kept / "bccd")


def settings_of(what: str, seed: int) -> BuildSettings:
    """Return the recipe of a kind of detector."""
    if what == "geometry":
        return BuildSettings(
            network="center_small",
            backbone_steps=6000,
            backbone_rate=4e-3,
            train=TrainSettings(
                steps=1200, batch_size=32, learning_rate=6e-4, lowest_limit=0.2, precision="bf16", seed=seed
            ),
        )
    return BuildSettings(
        network="center_medium",
        backbone_steps=2200,
        backbone_rate=3e-3,
        augment="flip_and_move",
        train=TrainSettings(
            steps=500, batch_size=16, learning_rate=5e-4, lowest_limit=0.25, precision="bf16", seed=seed
        ),
    )


def _path(what: str, seed: int, kept: Path) -> Path:
    return kept / f"detect-{what}-seed{seed}"


def kept_detectors(what: str, seeds: Sequence[int], *, kept: Path = KEPT) -> list[Kept]:
    """Find the trained detectors of some seeds; those that lack are left out."""
    paths = {seed: _path(what, seed, kept) for seed in seeds}
    return [
        Kept(f"detect-{what}", seed, path, None)
        for seed, path in paths.items()
        if (path / "manifest.json").is_file()
    ]


def train(what: str, seed: int, *, threads: int = 1, kept: Path = KEPT) -> Path:
    """Train a detector, or go on where a killed run was.

    Args:
        what: `geometry` or `bccd`.
        seed: Seed of everything.
        threads: Threads of torch.
        kept: Where it is kept.

    Returns:
        The factory's folder; trained nothing if it is there already.
    """
    out = _path(what, seed, kept)
    if (out / "manifest.json").is_file():
        return out
    kept.mkdir(parents=True, exist_ok=True)

    def progress(stage: str, done: int, total: int, text: str) -> None:
        if done % 250 == 0 or done == total:
            say(f"{out.name}: {stage} {done} of {total}, {text}")

    settings = replace(settings_of(what, seed), threads=threads)
    return train_factory(data_of(what, seed, kept), settings, out=out, progress=progress, name=out.name)


def train_ungated(what: str, seed: int, *, threads: int = 1, kept: Path = KEPT) -> Path:
    """Train the same network as one usually would: no gates, no tasks, as many steps.

    Args:
        what: `geometry` or `bccd`.
        seed: Seed of everything.
        threads: Threads of torch.
        kept: Where weights and checkpoints are kept.

    Returns:
        File of the weights; trained nothing if it is there already.
    """
    target = kept / f"{_path(what, seed, kept).name}.ungated.safetensors"
    if target.is_file():
        return target
    work = kept / f"{target.stem}.training"
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    source, recipe = data_of(what, seed, kept), settings_of(what, seed)
    settings = replace(
        recipe.train, steps=recipe.backbone_steps + recipe.train.steps, learning_rate=recipe.backbone_rate
    )
    network = fast_layout_(fresh_network(source, recipe))
    sizes = source.vocabulary.sizes if source.vocabulary.kind == "properties" else None
    training = BackboneTraining(
        network,
        group_sizes=sizes,
        batches=batches(source, settings, fresh_scenes=20_000, augment=BOX_AUGMENTATIONS[recipe.augment]),
        settings=settings,
        folder=work,
        objective=BackboneDetection(sizes),
    )
    for state in training.run():
        if state.step % 250 == 0:
            say(f"{work.stem}: {state.step} of {settings.steps}, loss {state.loss:.3f}")
    state_dict = {name: value.contiguous() for name, value in network.root.state_dict().items()}
    write_bytes(target, save(state_dict))
    shutil.rmtree(work)
    return target


def fresh_network(source: DataSource, recipe: BuildSettings) -> Network:
    """Build the network of a recipe for data, with fresh weights."""
    _, height, width = source.preprocess.shape
    return build(
        recipe.network,
        num_outputs=len(source.vocabulary.words),
        head_kind="presence" if source.vocabulary.kind == "properties" else "classes",
        in_channels=source.preprocess.channels,
        image_size=height if height == width else [height, width],
    )


def _judge(entry: Kept) -> BoxJudge:
    judge = entry.maker.judge
    assert isinstance(judge, BoxJudge)
    return judge


def geometry(ledger: Ledger, entries: list[Kept], *, most: int | None, count: int = SCENES) -> None:
    """Measure every pair of words at 25 % and 50 % of the MACs, on fresh scenes.

    Args:
        ledger: Takes the rows.
        entries: Factories.
        most: Most tasks of each group, None for all.
        count: Scenes for each task; half of them show what the task names.
    """
    for entry in entries:
        judge, blueprint = _judge(entry), entry.factory.folder.blueprint
        for group, tasks in zip(("known", "unseen"), entry.pairs(), strict=True):
            step = 1 if most is None else max(1, len(tasks) // most)
            for task in tasks[::step][:most]:
                numbers = [entry.vocabulary.index(word) for word in task.words]
                sample = judge.draw(task, count=count, seed=_FRESH + 100 * numbers[0] + numbers[1])
                assert sample is not None
                for limit in LIMITS:
                    config = entry.config(task, limit)
                    rating = judge.rate(open_session(blueprint.cut(config)), task, sample)
                    share = blueprint.count(config).macs / entry.maker.whole.macs
                    more = {
                        "group": group,
                        "task": task.text,
                        "limit": limit,
                        "seed": entry.seed,
                        "count": count,
                    }
                    ledger.add("geometry", "ours", "AP50", rating.value, **more)
                    ledger.add("geometry", "ours", "AP", rating.ap or 0.0, **more)
                    ledger.add("geometry", "ours", "share of MACs", share, **more)
        say(f"geometry: seed {entry.seed} done")


def bccd(ledger: Ledger, entries: list[Kept], *, kept: Path, threads: int) -> None:
    """Measure all classes against the network trained without gates, and platelets at half the latency.

    Args:
        ledger: Takes the rows.
        entries: Factories.
        kept: Where the weights of the networks without gates lie.
        threads: Threads of the runtime.
    """
    for entry in entries:
        source, judge = data_of("bccd", entry.seed, kept), _judge(entry)
        everything = entry.vocabulary.all()
        sample = replace(judge, heldout=source.heldout).draw(everything, count=len(source.heldout), seed=0)
        assert sample is not None
        seed = {"seed": entry.seed, "count": len(sample.images)}
        weights = kept / f"{_path('bccd', entry.seed, kept).name}.ungated.safetensors"
        if weights.is_file():
            network = fresh_network(source, settings_of("bccd", entry.seed))
            network.root.load_state_dict(load_file(weights))
            whole = export_blueprint(network.eval())
            session = open_session(whole.cut(whole.space.largest()), threads=threads)
            rating = judge.rate(session, everything, sample)
            _note(ledger, "trained without gates", rating, limit="100%", **seed)
        else:
            say(f"bccd: seed {entry.seed} lacks the network without gates; make it with --train")
        blueprint = entry.factory.folder.blueprint
        for limit in ("25%", "50%", "100%"):
            config = entry.config(everything, limit)
            session = open_session(blueprint.cut(config), threads=threads)
            _note(ledger, "ours", judge.rate(session, everything, sample), limit=limit, **seed)
        _platelets(ledger, entry, replace(judge, heldout=source.heldout), threads=threads)
        say(f"bccd: seed {entry.seed} done")


def _note(ledger: Ledger, method: str, rating: Rating, **more: object) -> None:
    ledger.add("bccd", method, "AP50", rating.value, **more)
    ledger.add("bccd", method, "AP", rating.ap or 0.0, **more)
    for label, value in rating.by_label.items():
        ledger.add("bccd", f"{method}, {label}", "AP50", value, **more)


def _platelets(ledger: Ledger, entry: Kept, judge: BoxJudge, *, threads: int) -> None:
    task = entry.vocabulary.parse("Platelets")
    sample = judge.draw(task, count=10_000, seed=0)
    assert sample is not None
    profile = entry.factory.profile(threads=threads, seed=entry.seed)
    maker = entry.factory.maker(profile)
    whole_ms = maker.whole_ms()
    with tempfile.TemporaryDirectory() as name:
        report = entry.factory.make(
            task=task, budget={"latency_ms": 0.5 * whole_ms}, device=profile, out=Path(name) / "platelets"
        )
        session = open_session((Path(name) / "platelets" / "model.onnx").read_bytes(), threads=threads)
    everything = maker.find(task, {}, seed=0)[0][1]
    whole = open_session(maker.blueprint.cut(everything), threads=threads)
    more = {"task": task.text, "seed": entry.seed, "count": len(sample.images)}
    for method, model, limit in (("ours, half latency", session, "50% ms"), ("ours, no limit", whole, "")):
        value = judge.rate(model, task, sample).value
        ledger.add("bccd", f"platelets: {method}", "AP50", value, limit=limit, **more)
    share = report.measured.p50 / whole_ms
    ledger.add("bccd", "platelets: ours, half latency", "share of latency", share, limit="50% ms", **more)
    shares = float(np.round(report.macs_share, 6))
    ledger.add("bccd", "platelets: ours, half latency", "share of MACs", shares, limit="50% ms", **more)
