"""Trains the factories that the benchmark measures, and the controls that need a training of their own.

Killed runs go on where they were: call it again with the same arguments.

    python benchmarks/_train_factories.py --what geometry --seed 1
    python benchmarks/_train_factories.py --what geometry --seed 1 --generic
    python benchmarks/_train_factories.py --what controls --seed 0
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import _adaptor
import numpy as np
import recipes
import torch
from _alone import BatchPool
from _factories import (
    KEPT,
    Kept,
    data_of,
    fresh_scenes,
    kept_factory,
    resnet56,
    settings_of,
    tuned_weights,
    use_threads,
)
from _quality import other_task
from _record import Ledger, say
from safetensors.torch import load_file, save
from torch import Tensor, nn

from brickyard.assemble.assembly import Assembly
from brickyard.assemble.search import search
from brickyard.core.config import Config
from brickyard.core.files import write_bytes
from brickyard.core.network import Network
from brickyard.core.space import WORDS
from brickyard.core.task import Task
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.geometry import GeometrySpec, scenes
from brickyard.export.whole import export_blueprint
from brickyard.factory.build import TorchAssembler, train_factory
from brickyard.factory.quality import open_session, rate, scores_of, task_config
from brickyard.factory.start import brick_costs
from brickyard.train.augment import AUGMENTATIONS
from brickyard.train.backbone import BackboneTraining
from brickyard.train.joint import Batch, JointTraining
from brickyard.train.layout import fast_layout_
from brickyard.train.tasks import PropertyQuestions, split_tasks

RESULTS = Path(__file__).parent / "results"
_POOL = 20_000


def train(what: str, seed: int, *, threads: int = 1, kept: Path = KEPT) -> Path:
    """Train a factory and keep, beside it, the weights of its network behind stage 0.

    Args:
        what: `geometry`, `digits`, `cifar10` or `resnet56`.
        seed: Seed of everything.
        threads: Threads of torch.
        kept: Where it is kept.

    Returns:
        The factory's folder; trained nothing if it is there already.
    """
    out = kept / f"{what}-seed{seed}"
    if (out / "manifest.json").is_file():
        return out
    kept.mkdir(parents=True, exist_ok=True)
    backbone = kept / f"{out.name}.backbone.safetensors"
    checkpoint = kept / f"{out.name}.training" / "backbone.safetensors"

    def progress(stage: str, done: int, total: int, text: str) -> None:
        if stage != "backbone" and checkpoint.is_file() and not backbone.is_file():
            keep_backbone(checkpoint, backbone)
        if done % 250 == 0 or done == total:
            say(f"{out.name}: {stage} {done} of {total}, {text}")

    settings = replace(settings_of(what, seed, kept=kept), threads=threads)
    network = None
    if what == "resnet56":
        tuned = tuned_weights(seed, kept=kept)
        if not tuned.is_file():
            tuning = {"steps": recipes.TUNING_STEPS, "rate": recipes.TUNING_RATE}
            _whole(what, seed, target=tuned, kept=kept, network=resnet56(), **tuning)
        network = resnet56(tuned)
    return train_factory(
        data_of(what, seed), settings, out=out, progress=progress, name=out.name, network=network
    )


def keep_backbone(checkpoint: Path, target: Path) -> None:
    """Keep the network's weights of a finished checkpoint of stage 0.

    Args:
        checkpoint: `backbone.safetensors` of a training folder.
        target: File to write.
    """
    prefix = "module.network.root."
    state = {name: value for name, value in load_file(checkpoint).items() if name.startswith(prefix)}
    write_bytes(target, save({name.removeprefix(prefix): value for name, value in state.items()}))


class ScenePool:
    """Draws batches from scenes that are drawn anew for every epoch.

    Args:
        spec: What scenes look like.
        preprocess: How they become inputs.
        size: Pictures of a batch.
        seed: Seed of the training.
    """

    def __init__(self, spec: GeometrySpec, preprocess: Preprocess, size: int, seed: int) -> None:
        self.spec, self.preprocess, self.size, self.seed = spec, preprocess, size, seed
        self.epoch = -1
        self.pool: BatchPool | None = None

    def __call__(self, step: int, rng: np.random.Generator) -> Batch:
        """Return the pictures of a step."""
        epoch = step * self.size // _POOL
        if self.pool is None or epoch != self.epoch:
            drawn: Examples = scenes(self.spec, _POOL, 1_000_000 * (self.seed + 1) + epoch)
            self.epoch, self.pool = epoch, BatchPool(drawn, self.preprocess, self.size)
        return self.pool(step, rng)


def generic(entry: Kept, *, kept: Path) -> Path:
    """Train the factory's network on the objective of stage 0 with everything on, as one usually would.

    Args:
        entry: The factory.
        kept: Where the weights and checkpoints are kept.

    Returns:
        File of the weights.
    """
    target = kept / f"{entry.what}-seed{entry.seed}.generic.safetensors"
    settings = settings_of(entry.what, entry.seed, kept=kept)
    torch.manual_seed(entry.seed)
    if entry.what == "resnet56":
        network = resnet56(tuned_weights(entry.seed, kept=kept))
    else:
        network = entry.fresh_network()
    if settings.backbone_weights is not None:
        network.root.load_state_dict(load_file(settings.backbone_weights), strict=False)
    steps = settings.backbone_steps + settings.train.steps
    _whole(
        entry.what,
        entry.seed,
        target=target,
        kept=kept,
        network=network,
        steps=steps,
        rate=settings.backbone_rate,
    )
    return target


def _whole(
    what: str, seed: int, *, target: Path, kept: Path, network: Network, steps: int, rate: float
) -> None:
    """Train a network with everything on, and keep its weights."""
    settings = settings_of(what, seed, kept=kept)
    train_settings = replace(settings.train, steps=steps, learning_rate=rate)
    work = kept / f"{target.name.removesuffix('.safetensors')}.training"
    work.mkdir(parents=True, exist_ok=True)
    fast_layout_(network)
    source, size = data_of(what, seed), train_settings.batch_size
    spec = source.geometry
    batches = BatchPool(source.train, source.preprocess, size)
    training = BackboneTraining(
        network,
        group_sizes=source.vocabulary.sizes if spec is not None else None,
        batches=batches if spec is None else ScenePool(spec, source.preprocess, size, seed),
        settings=train_settings,
        folder=work,
        augment=AUGMENTATIONS[settings.augment],
    )
    for state in training.run():
        if state.step % 250 == 0:
            say(f"{work.stem}: {state.step} of {train_settings.steps}, accuracy {state.accuracy:.3f}")
    keep_backbone(work / "backbone.safetensors", target)


def _one_hot(tasks: Sequence[Task], entry: Kept) -> Callable[[Tensor], Tensor]:
    """Return what turns multi-hot words into one-hot numbers of tasks."""
    vectors = torch.from_numpy(np.stack([task.vector(entry.vocabulary) for task in tasks]))
    lengths = vectors.sum(1)

    def encode(words: Tensor) -> Tensor:
        return ((words @ vectors.T == lengths) & (words.sum(1, keepdim=True) == lengths)).float()

    return encode


CONTROLS = {
    "additive": "additive assembler, task-specific bricks",
    "mlp": "MLP assembler, task-specific bricks",
    "task-id": "one-hot task-id assembler, task-specific bricks",
}
# Rates at which tasks get bricks of their own; the recipe's assembler moves far slower.
_CONTROL_RATES = {"learning_rate": 8e-4, "assembler_rate": 2e-3}


def control(ledger: Ledger, entry: Kept, kind: str, *, steps: int, kept: Path) -> None:
    """Train an assembler that moves fast, from the same stage 0, and judge it on every two-property task.

    Args:
        ledger: Takes the rows.
        entry: The geometry factory it is compared with.
        kind: `additive`: as in the recipe; `mlp`: the task's words go through a hidden layer; `task-id`: each
            task has a row of its own, so nothing is known of tasks that were not trained.
        steps: Steps of the joint training.
        kept: Where checkpoints lie.

    Raises:
        FileNotFoundError: The factory's weights of stage 0 were not kept.
    """
    if entry.backbone_path is None:
        raise FileNotFoundError(
            f"{kept}/geometry-seed{entry.seed}.backbone.safetensors is missing; train it first"
        )
    settings, vocabulary = settings_of("geometry", entry.seed), entry.vocabulary
    torch.manual_seed(entry.seed)
    network = entry.fresh_network()
    network.root.load_state_dict(load_file(entry.backbone_path))
    fast_layout_(network)
    costs, fixed_cost = brick_costs(entry.factory.folder.blueprint)
    split = split_tasks(vocabulary, unseen_share=settings.unseen_share, seed=entry.seed)
    tasks = (*split.trained, *split.unseen)
    encode: Callable[[Tensor], Tensor] = _one_hot(tasks, entry) if kind == "task-id" else _as_is
    assembler = TorchAssembler(
        "mlp" if kind == "mlp" else "additive",
        num_words=len(tasks) if kind == "task-id" else len(vocabulary.words),
        network=network,
        discretiser=settings.discretiser,
        seed=entry.seed,
    )
    train_settings = replace(settings.train, steps=steps, anneal=0.0, **_CONTROL_RATES)
    work = kept / f"control-{kind}-seed{entry.seed}.training"
    work.mkdir(parents=True, exist_ok=True)
    spec = entry.factory.folder.geometry
    assert spec is not None
    joint = JointTraining(
        network,
        assembler,
        gate=lambda words, limits, shares: assembler.gates(
            encode(words), limits, shares, fixed_cost=fixed_cost
        ),
        costs=costs,
        batches=ScenePool(spec, entry.preprocess, train_settings.batch_size, entry.seed),
        ask=PropertyQuestions(vocabulary, split.trained),
        settings=train_settings,
        folder=work,
    )
    joint.resume()
    for state in joint.run():
        if state.step % 250 == 0:
            say(f"{work.stem}: {state.step} of {train_settings.steps}, accuracy {state.accuracy:.3f}")
    _judge_control(
        ledger,
        entry,
        kind,
        assembly=assembler.assembly(network, costs, fixed_cost),
        network=network,
        encode=encode,
        steps=train_settings.steps,
    )


def _as_is(words: Tensor) -> Tensor:
    return words


def _judge_control(
    ledger: Ledger,
    entry: Kept,
    kind: str,
    *,
    assembly: Assembly,
    network: nn.Module,
    encode: Callable[[Tensor], Tensor],
    steps: int,
) -> None:
    blueprint = export_blueprint(network.eval())  # type: ignore[arg-type]
    whole = blueprint.count(blueprint.space.largest()).macs
    rng = np.random.default_rng(900 + entry.seed)
    everything = [task for tasks in entry.pairs() for task in tasks]

    def config_of(task: Task, part: float) -> Config:
        vector = encode(torch.from_numpy(task.vector(entry.vocabulary))[None])[0].numpy()

        def costing(mask: np.ndarray) -> dict[str, float]:
            config = task_config(blueprint, assembly, task, entry.vocabulary, mask)
            return {"macs": blueprint.count(config).macs}

        found = search(assembly, vector, costing=costing, limits={"macs": part * whole})[0]
        return task_config(blueprint, assembly, task, entry.vocabulary, found.mask)

    for group, tasks in zip(("known", "unseen"), entry.pairs(), strict=True):
        for task in tasks:
            images, labels = fresh_scenes(entry, task)
            for limit, part in (("25%", 0.25), ("50%", 0.5)):
                right = config_of(task, part)
                wrong = config_of(other_task(task, everything, rng), part).replace({WORDS: right[WORDS]})
                for name, config in (("", right), (": bricks of a wrong task", wrong)):
                    scores = scores_of(open_session(blueprint.cut(config)), entry.preprocess.apply(images))
                    ledger.add(
                        "controls",
                        CONTROLS[kind] + name,
                        "balanced accuracy",
                        rate(task, entry.vocabulary, scores, labels)[0],
                        group=group,
                        task=task.text,
                        limit=limit,
                        seed=entry.seed,
                        count=len(labels),
                        note=f"{steps} joint steps",
                    )


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--what", required=True, choices=("geometry", "digits", "cifar", "resnet56", "controls")
    )
    parser.add_argument(
        "--generic", action="store_true", help="train the generic peer of that factory instead"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--data", help=f"folder of real data; else the environment variable {_adaptor.VARIABLE}"
    )
    parser.add_argument("--kept", type=Path, default=KEPT, help="where factories are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the CSV files lie (controls)")
    parser.add_argument(
        "--backbone", type=Path, help="only keep this finished checkpoint of stage 0 for the seed"
    )
    parser.add_argument("--kind", choices=tuple(CONTROLS), help="one of the controls; all by default")
    parser.add_argument("--steps", type=int, default=1200, help="joint steps (controls)")
    arguments = parser.parse_args()
    if arguments.data:
        os.environ[_adaptor.VARIABLE] = arguments.data
    use_threads(arguments.threads)
    what = "cifar10" if arguments.what == "cifar" else arguments.what
    if arguments.backbone:
        keep_backbone(
            arguments.backbone, arguments.kept / f"{what}-seed{arguments.seed}.backbone.safetensors"
        )
        return
    if arguments.generic:
        found = kept_factory(what, arguments.seed, kept=arguments.kept)
        if found is None and what == "resnet56":  # it has its network without the factory
            found = Kept(what, arguments.seed, arguments.kept, None)
        if found is None:
            parser.error(f"there is no {what} factory of seed {arguments.seed}; train it first")
        say(str(generic(found, kept=arguments.kept)))
        return
    if what != "controls":
        say(str(train(what, arguments.seed, threads=arguments.threads, kept=arguments.kept)))
        return
    entry = kept_factory("geometry", arguments.seed, kept=arguments.kept)
    if entry is None:
        parser.error(f"there is no geometry factory of seed {arguments.seed}; train it first")
    ledger = Ledger(arguments.results, mode="full", threads=arguments.threads)
    for kind in [arguments.kind] if arguments.kind else CONTROLS:
        control(ledger, entry, kind, steps=arguments.steps, kept=arguments.kept)
    say(f"rows appended to {ledger.path}")


if __name__ == "__main__":
    main()
