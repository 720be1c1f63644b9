"""Other ways to a small network for a task: output filter, library cuts, training for the task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from _alone import Run, fresh_weights_, train_alone
from _factories import SCENES, Kept, fresh_scenes, settings_of
from _generic import (
    FIRST,
    Labels,
    Pictures,
    Reader,
    cutters,
    head_of,
    largest_below,
    library_cut,
    recalibrate_,
    tune_,
    uniform_config,
)
from _quality import tasks_of
from _record import Ledger, say
from _runtime import in_turns, macs_of, ratio, session_of
from torch import nn

from brickyard.core.config import Config
from brickyard.core.network import Network
from brickyard.core.task import Task
from brickyard.factory.quality import open_session


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is spent on the peers.

    Attributes:
        tune_steps: Steps of fine-tuning on the generic objective, 0 for none.
        schedules: Steps of each training for a task alone, ascending.
        short_schedules: The same for fine-tuning a cut network for the task.
        alone: Tasks that are trained alone, half of them unseen where there are such.
        cuts: Whether library cuts are measured.
        most: Most tasks of each group for the other peers, None for all.
        threads: Threads of the runtime.
    """

    tune_steps: int = 1000
    schedules: Sequence[int] = (300, 1000, 3000)
    short_schedules: Sequence[int] = (100, 300, 1000)
    alone: int = 4
    cuts: bool = True
    most: int | None = None
    threads: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One factory against its peers.

    Attributes:
        section: Section of the rows.
        entry: The factory.
        tasks: Tasks with their groups.
        examples: Labelled pictures of a task.
        metric: Name of the quality.
        limit: Share of MACs.
    """

    section: str
    entry: Kept
    tasks: Sequence[tuple[Task, str]]
    examples: Callable[[Task], tuple[Pictures, Labels]]
    metric: str
    limit: str

    def add(
        self, ledger: Ledger, method: str, values: Sequence[float], *, note: str = "", limit: str = ""
    ) -> None:
        """Keep the quality of every task."""
        for (task, group), value in zip(self.tasks, values, strict=True):
            ledger.add(
                self.section,
                method,
                self.metric,
                value,
                group=group,
                task=task.text,
                limit=limit or self.limit,
                seed=self.entry.seed,
                count=len(self.examples(task)[1]),
                note=note,
            )

    def cost(self, ledger: Ledger, method: str, *, limit: str = "", **costs: float) -> None:
        """Keep what a method costs: `macs` as a share, `latency` in milliseconds, `minutes` of training."""
        names = {"macs": "share of MACs", "latency": "latency, ms", "minutes": "minutes of training"}
        for name, value in costs.items():
            ledger.add(
                self.section, method, names[name], value, limit=limit or self.limit, seed=self.entry.seed
            )


def geometry_trial(entry: Kept, *, most: int | None, count: int = SCENES) -> Trial:
    """Return the trial of a geometry factory at 25 % of the MACs."""
    return Trial(
        section="peers",
        entry=entry,
        tasks=tasks_of(entry, most=most),
        examples=lambda task: fresh_scenes(entry, task, count=count),
        metric="balanced accuracy",
        limit="25%",
    )


def run_trial(ledger: Ledger, trial: Trial, effort: Effort) -> None:
    """Measure the factory's own models and all peers.

    Args:
        ledger: Takes the rows.
        trial: The factory, its tasks and pictures.
        effort: How much is spent.
    """
    entry = trial.entry
    configs = [entry.config(task, trial.limit) for task, _ in trial.tasks]
    own = [
        entry.judge(config, task, trial.examples(task))
        for config, (task, _) in zip(configs, trial.tasks, strict=True)
    ]
    trial.add(ledger, "ours", own)
    blueprint = entry.factory.folder.blueprint
    whole = entry.maker.whole.macs
    macs = float(np.mean([blueprint.count(config).macs for config in configs]))
    reference, latency = _median_session(entry, configs, effort)
    trial.cost(ledger, "ours", macs=macs / whole, latency=latency)
    generic = entry.generic()
    network = None
    if generic is None:
        say(f"{trial.section}: seed {entry.seed} has no weights of stage 0, so no generic peers")
    else:
        network, origin = generic
        say(f"{trial.section}: seed {entry.seed}, peers are cut from the {origin}")
        _output_filter(
            ledger, trial, network, origin=origin, reference=reference, latency=latency, effort=effort
        )
        if effort.cuts:
            _cuts(
                ledger,
                trial,
                network,
                own=own,
                macs=macs,
                reference=reference,
                latency=latency,
                effort=effort,
            )
    _alone(ledger, trial, network, effort)


def _median_session(
    entry: Kept, configs: Sequence[Config], effort: Effort
) -> tuple[onnxruntime.InferenceSession, float]:
    """Return the session of median latency out of up to 9 of the models, and that latency."""
    blueprint = entry.factory.folder.blueprint
    step = max(1, len(configs) // 9)
    sessions = [open_session(blueprint.cut(config), threads=effort.threads) for config in configs[::step][:9]]
    times = in_turns(sessions)
    place = int(np.argsort(times)[len(times) // 2])
    return sessions[place], float(times[place])


def _output_filter(
    ledger: Ledger,
    trial: Trial,
    network: Network,
    *,
    origin: str,
    reference: onnxruntime.InferenceSession,
    latency: float,
    effort: Effort,
) -> None:
    method = "whole network + output filter"
    module = network.extract(network.space.largest())
    reader = Reader(trial.entry, module)
    values = [reader.judge(task, trial.examples(task)) for task, _ in trial.tasks]
    trial.add(ledger, method, values, limit="100%", note=origin)
    session = session_of(module, network.input_shape, threads=effort.threads)
    trial.cost(ledger, method, limit="100%", macs=1.0, latency=latency * ratio(session, reference))


def _cuts(
    ledger: Ledger,
    trial: Trial,
    network: Network,
    *,
    own: Sequence[float],
    macs: float,
    reference: onnxruntime.InferenceSession,
    latency: float,
    effort: Effort,
) -> None:
    entry, shape = trial.entry, network.input_shape
    inputs = entry.preprocess.apply(entry.data.train.images[:1024])
    whole = entry.maker.whole.macs

    def as_fast(module: nn.Module) -> bool:
        return ratio(session_of(module, shape, threads=effort.threads), reference, runs=150) <= 1.0

    rules: dict[str, Callable[[nn.Module], bool]] = {
        "equal MACs": lambda module: macs_of(module, shape) <= macs,
        "equal latency": as_fast,
    }
    untuned: dict[str, dict[str, list[float]]] = {}
    untouched: dict[str, dict[str, list[float]]] = {}  # before statistics are estimated anew
    for rule, fits in rules.items():
        ways = cutters(entry, network, round_to=4 if rule == "equal latency" else None)
        for name, make in ways.items():
            limit = f"{trial.limit}, {rule}"
            module = largest_below(make, fits)
            if module is None:
                say(f"{trial.section}: seed {entry.seed}, {name} gets no network of {limit}")
                continue
            share = macs_of(module, shape) / whole
            if name != FIRST:
                reader = Reader(entry, module)
                values = [reader.judge(task, trial.examples(task)) for task, _ in trial.tasks]
                untouched.setdefault(limit, {})[name] = values
                trial.add(ledger, f"{name}, as it leaves it", values, limit=limit)
            recalibrate_(module, inputs)
            reader = Reader(entry, module)
            values = [reader.judge(task, trial.examples(task)) for task, _ in trial.tasks]
            untuned.setdefault(limit, {})[name] = values
            trial.add(ledger, name, values, limit=limit)
            speed = latency * ratio(session_of(module, shape, threads=effort.threads), reference)
            trial.cost(ledger, name, limit=limit, macs=share, latency=speed)
            if effort.tune_steps:
                tuned = f"{name}, fine-tuned"
                seconds = tune_(entry, module, steps=effort.tune_steps)
                reader = Reader(entry, module)
                trial.add(
                    ledger,
                    tuned,
                    [reader.judge(task, trial.examples(task)) for task, _ in trial.tasks],
                    limit=limit,
                )
                trial.cost(ledger, tuned, limit=limit, macs=share, latency=speed, minutes=seconds / 60)
            say(f"{trial.section}: seed {entry.seed}, {name}, {limit} done")
    for limit, held in untuned.items():
        library = [values for name, values in held.items() if name != FIRST]
        better = {}
        if library:
            better["ours - best library cut without fine-tuning"] = max(library, key=np.mean)
            better["ours - best library cut as it leaves it"] = max(untouched[limit].values(), key=np.mean)
        if FIRST in held:
            better["ours - first channels of stage 0"] = held[FIRST]
        for method, others in better.items():
            for (task, group), mine, other in zip(trial.tasks, own, others, strict=True):
                more = {"group": group, "task": task.text, "limit": limit, "seed": entry.seed}
                ledger.add(trial.section, method, "difference", mine - other, **more)


def _chosen(trial: Trial, number: int) -> list[tuple[Task, str]]:
    """Choose tasks to train alone, half of them unseen; of geometry those of colour and shape."""
    tasks = list(trial.tasks)
    if trial.entry.what == "geometry":
        groups = [
            [trial.entry.vocabulary.locate(trial.entry.vocabulary.index(word))[0] for word in t.words]
            for t, _ in tasks
        ]
        tasks = [pair for pair, group in zip(tasks, groups, strict=True) if group == [2, 3]] or tasks
    unseen = [pair for pair in tasks if pair[1] == "unseen"]
    known = [pair for pair in tasks if pair[1] != "unseen"]
    half = min(len(unseen), number // 2)

    def spread(pairs: list[tuple[Task, str]], count: int) -> list[tuple[Task, str]]:
        return [pairs[place] for place in np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)]

    return spread(known, number - half) + spread(unseen, half)


def _alone(ledger: Ledger, trial: Trial, network: Network | None, effort: Effort) -> None:
    entry, shape = trial.entry, trial.entry.preprocess.shape
    settings = settings_of(entry.what, entry.seed)
    blueprint = entry.factory.folder.blueprint
    rates = (settings.backbone_rate, settings.train.learning_rate)
    for task, group in _chosen(trial, effort.alone):
        config, examples = entry.config(task, trial.limit), trial.examples(task)
        wanted, macs = entry.judge(config, task, examples), blueprint.count(config).macs
        head = head_of(blueprint, task, entry)
        fresh = entry.fresh_network().extract(uniform_config(blueprint, macs, head))
        fresh_weights_(fresh, entry.seed)
        ways = {"net of equal MACs trained for the task": (fresh, effort.schedules, rates[0], True)}
        if network is not None:
            source = network.extract(network.space.largest().replace(head))

            def cut(share: float, source: nn.Module = source) -> nn.Module:
                return library_cut(source, shape, share, across_layers=True)

            def fits(module: nn.Module, macs: float = macs) -> bool:
                return macs_of(module, shape) <= macs

            pruned = largest_below(cut, fits)
            if pruned is not None:
                ways["magnitude cut fine-tuned for the task"] = (
                    pruned,
                    effort.short_schedules,
                    rates[1],
                    False,
                )
        more = {
            "group": group,
            "task": task.text,
            "limit": trial.limit,
            "seed": entry.seed,
            "count": len(examples[1]),
        }
        times: list[float] = []
        spent = 0.0
        for method, (module, schedules, peak, to_the_end) in ways.items():
            runs = train_alone(
                entry,
                task,
                copy.deepcopy(module),
                schedules=schedules,
                rate_peak=peak,
                wanted=wanted,
                examples=examples,
                to_the_end=to_the_end,
            )
            best = max(runs, key=lambda run: run.quality)
            spent = max(spent, *(run.seconds for run in runs))
            times += _keep_runs(
                ledger,
                trial.section,
                method,
                runs,
                wanted=wanted,
                share=macs_of(module, shape) / macs,
                **more,
            )
            ledger.add(trial.section, method, trial.metric, best.quality, **more)
            ledger.add(trial.section, method, "minutes of training", best.seconds / 60, **more)
            if to_the_end:
                ledger.add(
                    trial.section,
                    "ours - net trained for the task",
                    "difference",
                    wanted - best.quality,
                    **more,
                )
        reached = [value for value in times if np.isfinite(value)]
        note = "" if reached else "never reached by any way; lower bound: the longest training"
        value = min(reached, default=spent)
        ledger.add(trial.section, "fastest training to ours", "seconds", value, **{**more, "note": note})
        say(f"{trial.section}: seed {entry.seed}, {task.text} trained alone")


def _keep_runs(
    ledger: Ledger,
    section: str,
    method: str,
    runs: Sequence[Run],
    *,
    wanted: float,
    share: float,
    **more: object,
) -> list[float]:
    """Keep the seconds that each schedule took to reach ours; infinite where it never did."""
    for run in runs:
        note = f"{run.seconds:.1f} s in all, ended at {run.quality:.4f}, best {run.best:.4f}; "
        note += f"wanted {wanted:.4f}; MACs {share:.3f} of ours"
        value = float("nan") if run.reached is None else run.reached
        name = f"seconds to ours, {run.steps} steps"
        ledger.add(section, method, name, value, **{**more, "note": note})
    return [np.inf if run.reached is None else run.reached for run in runs]
