"""The main job: task, budget and device in; a measured model file and its report out.

Nothing here needs torch: the factory holds the whole network as one exported graph, and a request slices it.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import save as save_safetensors

from brickyard.assemble.assembly import Mask
from brickyard.assemble.search import Candidate, binding_limit, search
from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.errors import ExportError, InfeasibleError
from brickyard.core.files import new_folder, sha256, write_bytes, write_json, write_manifest, write_text
from brickyard.core.space import CLASSES
from brickyard.core.task import Task
from brickyard.devices.measure import measure_session, processor_name, this_device_name
from brickyard.devices.profile import DeviceProfile
from brickyard.export.decode import Decode, append_decode
from brickyard.factory.boxes import BoxJudge, decode_record, judge_of, show_boxes
from brickyard.factory.checks import Checks, not_met, tightened, with_headroom
from brickyard.factory.clock import Clock
from brickyard.factory.folder import FORMAT_VERSION, FactoryFolder, versions
from brickyard.factory.made import Model
from brickyard.factory.quality import (
    Floats,
    Judge,
    Sample,
    curve_of,
    known_task,
    open_session,
    outputs_of,
    task_config,
)
from brickyard.factory.records import Block, Budget, Costs, Energy, Latency, Quality, Report
from brickyard.factory.report_html import render

_ROUNDS = 3
_PARITY = 1e-4
_QUALITY_PICTURES = 200


class Maker:
    """Makes models from one factory for one device; keeps what requests share.

    Where the device is another machine, files are measured here for the report, but latency limits are
    judged by the device's profile alone.

    Args:
        folder: The factory.
        device: Profile of the device; needed for latency limits, and for predicted latency.
        threads: Threads that files are measured with where there is no profile.
    """

    def __init__(self, folder: FactoryFolder, *, device: DeviceProfile | None, threads: int = 1) -> None:
        self.folder, self.device = folder, device
        self.threads = device.threads if device is not None else threads
        self.here = device is None or device.processor == processor_name()
        self.blueprint, self.assembly = folder.blueprint, folder.assembly
        self.checks = Checks(self.blueprint, device, threads=self.threads)
        largest = self.blueprint.space.largest()
        self.whole = self._costs(largest)
        self._references: dict[Config, tuple[onnxruntime.InferenceSession, Floats]] = {}
        self._whole_ms: float | None = None

    def _costs(self, config: Config, *, limits: Sequence[str] = (), file_bytes: int | None = None) -> Costs:
        counts = self.blueprint.count(config)
        further = self.checks.predict(limits, config, peak=counts.peak_memory_bytes)
        return Costs(
            latency_ms=None if self.device is None else round(self.device.predict(config), 5),
            macs=counts.macs,
            parameters=counts.parameters,
            file_bytes=counts.file_bytes if file_bytes is None else file_bytes,
            peak_memory_bytes=counts.peak_memory_bytes,
            runtime_memory_bytes=further.get("runtime_memory_bytes"),
            energy_mj=None if self.device is None else self.device.predict_energy(config),
        )

    def find(
        self, task: Task, limits: Mapping[str, float], *, seed: int, candidates: int = 6
    ) -> list[tuple[Candidate, Config]]:
        """Search the subnets for a task that fit the limits.

        Choices (depths, kernels) are tried at their largest, each stage one step smaller, and at random;
        the assembler opens the bricks in each case.

        Args:
            task: The task.
            limits: Ceilings in base units.
            seed: Seed of the candidates.
            candidates: Strategies per setting of the choices.

        Returns:
            Candidates with their configs, best first.

        Raises:
            InfeasibleError: Nothing fits.
        """
        vocabulary = self.folder.vocabulary
        vector = task.vector(vocabulary)
        found: list[tuple[Candidate, Config]] = []
        failure: InfeasibleError | None = None
        for settings in self._settings(seed):

            def config_of(mask: Mask, settings: Mapping[str, Any] = settings) -> Config:
                return task_config(self.blueprint, self.assembly, task, vocabulary, mask).replace(settings)

            full = config_of(np.ones(len(self.assembly.costs), dtype=np.bool_))

            def costing(
                mask: Mask, full: Config = full, names: Sequence[str] = tuple(limits)
            ) -> Mapping[str, float]:
                # Not checked as a config: a search asks for costs a hundred times.
                config = {**full, **self.assembly.opened(mask)}
                counts = self.blueprint.count(config)
                costs: dict[str, float] = {
                    "macs": counts.macs,
                    "parameters": counts.parameters,
                    "file_bytes": counts.file_bytes,
                    "peak_memory_bytes": counts.peak_memory_bytes,
                }
                if "latency_ms" in names and self.device is not None:
                    costs["latency_ms"] = self.device.predict(config)
                return costs | self.checks.predict(limits, config, peak=counts.peak_memory_bytes)

            try:
                results = search(self.assembly, vector, costing=costing, limits=limits, candidates=candidates)
            except InfeasibleError as error:
                if failure is None or error.smallest / error.requested < failure.smallest / failure.requested:
                    failure = error
                continue
            found += [(result, config_of(result.mask)) for result in results]
        if not found:
            assert failure is not None
            raise failure
        return sorted(found, key=lambda pair: -pair[0].score)

    def _settings(self, seed: int) -> list[dict[str, Any]]:
        choices = [decision for decision in self.blueprint.space if isinstance(decision, Choice)]
        if not choices:
            return [{}]
        largest = {choice.name: choice.largest() for choice in choices}
        smallest = {choice.name: choice.smallest() for choice in choices}
        rng = np.random.default_rng(seed)
        drawn = [
            {choice.name: choice.values[int(rng.integers(choice.size))] for choice in choices}
            for _ in range(6)
        ]
        return [largest, *drawn, smallest]

    def make(
        self,
        task: Task,
        limits: Mapping[str, float],
        *,
        seed: int,
        decode: Decode | None = None,
        inside: bool = False,
        measure_memory: bool = False,
    ) -> Model:
        """Search, cut, check and measure; tighten and repeat while the file takes more than asked.

        Args:
            task: The task.
            limits: Ceilings in base units.
            seed: Seed of the candidates.
            decode: For detectors, how maps become boxes.
            inside: Whether the graph does that, behind the cut.
            measure_memory: Measure the memory of the file even where it is not limited.

        Returns:
            The model.

        Raises:
            InfeasibleError: Nothing fits, or no file kept the limits in the rounds allowed.
            ExportError: The cut graph does not compute what the reference computes.
        """
        clock = Clock()
        tail = decode if inside else None
        limits = self._without_tail(limits, tail)
        wanted = with_headroom(limits, here=self.here)
        self.checks.prepare(limits, tail)
        clock.lap("prepare")
        smallest: dict[str, float] = {}
        over: dict[str, float] = {}
        memory: int | None = None
        energy: Energy | None = None
        for number in range(1, _ROUNDS + 1):
            try:
                candidate, config = self.find(task, wanted, seed=seed)[0]
            except InfeasibleError:
                if number > 1:
                    break
                wanted = dict(limits)
                candidate, config = self.find(task, wanted, seed=seed)[0]
            clock.lap("search")
            graph = self.blueprint.cut(config)
            content = graph.SerializeToString()
            session = open_session(content, threads=self.threads)
            clock.lap("cut")
            error = self._parity(config, session)
            clock.lap("parity")
            final = session
            if tail is not None:
                content = append_decode(graph, tail).SerializeToString()
                final = open_session(content, threads=self.threads)
            measured = measure_session(final, threads=self.threads)
            if self.here and measured.p50 > limits.get("latency_ms", np.inf):
                # The machine may have been disturbed; the quieter of two measurements counts.
                again = measure_session(final, threads=self.threads)
                measured = min(measured, again, key=lambda measurement: measurement.p50)
            clock.lap("measure")
            found = {"latency_ms": measured.p50} if self.here else {}
            if measure_memory or "runtime_memory_bytes" in limits:
                found["runtime_memory_bytes"] = memory = self.checks.memory(content)
                clock.lap("memory")
            if self.here and "energy_mj" in limits:
                energy = self.checks.energy(final)
                found["energy_mj"] = energy.mj
                clock.lap("energy")
            smallest = {name: min(value, smallest.get(name, np.inf)) for name, value in found.items()}
            over = {name: value for name, value in found.items() if value > limits.get(name, np.inf)}
            if not over:
                break
            wanted = tightened(wanted, limits, over=over, predicted=candidate.costs)
        for name in over:
            raise not_met(name, limits[name], smallest=smallest[name], rounds=number)
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
        return Model(
            config=config,
            mask=self.assembly.mask(config),
            graph=content,
            session=session,
            weights=weights,
            predicted=self._costs(config, limits=tuple(limits), file_bytes=len(content)),
            measured=Latency(
                p10=measured.p10,
                p50=measured.p50,
                p90=measured.p90,
                runs=measured.runs,
                warmup=measured.warmup,
                threads=self.threads,
            ),
            memory=memory,
            energy=energy,
            parity_error=error,
            rounds=number,
            seconds=clock.seconds,
            decode=decode,
            inside=inside,
        )

    def _without_tail(self, limits: Mapping[str, float], tail: Decode | None) -> dict[str, float]:
        """Take the bytes that an appended decoding adds off the limit of the file."""
        limits = dict(limits)
        if tail is not None and "file_bytes" in limits:
            whole = self.blueprint.cut(self.blueprint.space.largest())
            limits["file_bytes"] -= append_decode(whole, tail).ByteSize() - whole.ByteSize()
        return limits

    def _parity(self, config: Config, session: onnxruntime.InferenceSession) -> float:
        """Compare a cut graph with the whole graph whose activations are multiplied by gates instead."""
        choices = {d.name: config[d.name] for d in self.blueprint.space if isinstance(d, Choice)}
        key = Config(choices)
        if key not in self._references:
            inputs = self.folder.preprocess.apply(self.folder.calibration.images[:4])
            self._references[key] = (open_session(self.blueprint.gated(choices)), inputs)
        reference, inputs = self._references[key]
        expected = outputs_of(reference, inputs, gates=self._gates(config))
        error, scale = 0.0, 1.0
        for name, whole, actual in zip(
            self.blueprint.outputs, expected, outputs_of(session, inputs), strict=True
        ):
            if CLASSES in {cut.decision for cut in self.blueprint.activations[name].cuts}:
                whole = whole[:, list(config[CLASSES])]
            error = max(error, float(np.abs(actual - whole).max()))
            scale = max(scale, float(np.abs(whole).max()))
        if not error <= _PARITY * scale:
            raise ExportError(
                f"the cut graph differs from the whole network by {error:.3g} (allowed {_PARITY:g} of the "
                "scores' scale); nothing was written. The factory's files may be damaged: train or download "
                "it again"
            )
        return error

    def _gates(self, config: Config) -> Floats:
        parts = []
        for name in self.blueprint.blocks:
            part = np.zeros(self.blueprint.space[name].width, dtype=np.float32)
            part[list(config[name])] = 1.0
            parts.append(part)
        return np.concatenate(parts)

    def whole_ms(self) -> float:
        """Return the measured median latency of the whole network, measured once."""
        if self._whole_ms is None:
            session = open_session(self.blueprint.cut(self.blueprint.space.largest()), threads=self.threads)
            self._whole_ms = measure_session(session, threads=self.threads).p50
        return self._whole_ms

    @cached_property
    def judge(self) -> Judge:
        """What measures quality."""
        folder = self.folder
        return judge_of(
            self.blueprint,
            folder.vocabulary,
            folder.preprocess,
            heldout=folder.heldout,
            geometry=folder.geometry,
        )

    def quality(self, task: Task, session: onnxruntime.InferenceSession, sample: Sample) -> Quality:
        """Run a made model on labelled held-out pictures."""
        rating = self.judge.rate(session, task, sample)
        row = self.folder.quality["tasks"].get(task.text)
        return Quality(
            metric=self.judge.metric(task),
            value=rating.value,
            ap=rating.ap,
            whole=None if row is None else row["quality"][-1],
            per_class=rating.by_label,
            examples=len(sample.images),
            source="fresh scenes"
            if self.folder.geometry is not None
            else "held-out pictures of the factory's data",
        )

    def pictures(self, task: Task, model: Model, sample: Sample) -> list[dict[str, Any]]:
        """Return pictures with the boxes of a made detector and of the whole network; none for others."""
        if not isinstance(self.judge, BoxJudge) or model.decode is None:
            return []
        everything = np.ones(len(self.assembly.costs), dtype=np.bool_)
        config = task_config(self.blueprint, self.assembly, task, self.folder.vocabulary, everything)
        whole = open_session(self.blueprint.cut(config), threads=self.threads)
        return show_boxes(self.judge, sample, {"whole": whole, "made": model.session}, model.decode)


def write_model(
    maker: Maker, model: Model, *, task: Task, budget: Budget, out: Path, seed: int, started: float, key: str
) -> Report:
    """Write the model folder of a made model, all or nothing.

    Args:
        maker: What made it.
        model: The model.
        task: Its task.
        budget: The request's ceilings.
        out: Folder to write; must not exist or be empty.
        seed: Seed of the request.
        started: `time.perf_counter()` at the start of the request.
        key: The request's key, see `Factory.request_key`.

    Returns:
        The report, which lies in the folder too.
    """
    folder, limits = maker.folder, budget.limits(whole_macs=maker.whole.macs)
    clock = Clock()
    judge = maker.judge
    sample = judge.draw(task, count=_QUALITY_PICTURES, seed=seed + 7_000_000)
    quality = None
    if sample is not None and judge.available():
        quality = maker.quality(task, model.session, sample)
    pictures = [] if sample is None else maker.pictures(task, model, sample)
    clock.lap("quality")
    whole_ms = maker.whole_ms()
    clock.lap("whole")
    reached = model.predicted.model_dump(exclude_none=True)
    if maker.here:
        reached["latency_ms"] = model.measured.p50
    if model.energy is not None:
        reached["energy_mj"] = model.energy.mj
    if model.memory is not None:
        reached["runtime_memory_bytes"] = model.memory
    files = {
        "model": "model.onnx",
        "weights": "model.safetensors",
        "config": "config.json",
        "labels": "labels.txt",
        "preprocess": "preprocess.json",
        "request": "request.json",
        "report": "report.json",
        "page": "report.html",
    }
    if model.decode is not None:
        files |= {"decode": "decode.json", "pictures": "pictures.json"}
    with new_folder(out) as target:
        write_bytes(target / files["model"], model.graph)
        write_bytes(target / files["weights"], save_safetensors(dict(model.weights)))
        write_json(
            target / files["config"],
            {
                "format_version": FORMAT_VERSION,
                "builder": folder.network["builder"],
                "arguments": folder.network["arguments"],
                "config": dict(model.config),
                "norms": "folded",
            },
        )
        write_text(target / files["labels"], "\n".join(maker.judge.labels(task)) + "\n")
        write_text(target / files["preprocess"], folder.preprocess.to_json())
        if model.decode is not None:
            write_json(target / files["decode"], decode_record(model.decode, inside=model.inside))
            write_json(target / files["pictures"], pictures)
        write_json(
            target / files["request"],
            {
                "key": key,
                "factory": folder.name,
                "factory_sha256": sha256(folder.path / "manifest.json"),
                "task": task.text,
                "budget": budget.model_dump(exclude_none=True),
                "device": None if maker.device is None else maker.device.name,
                "seed": seed,
                **({"decode": "inside" if model.inside else "outside"} if model.decode is not None else {}),
            },
        )
        clock.lap("write")
        seconds = {**model.seconds, **clock.seconds, "total": time.perf_counter() - started}
        report = Report(
            task=task.text,
            known_task=known_task(folder, task),
            factory=folder.name,
            budget=budget,
            device=None if maker.device is None else maker.device.name,
            binding_limit=binding_limit(reached, limits),
            predicted=model.predicted,
            measured=model.measured,
            measured_on=this_device_name(maker.threads),
            whole_measured=whole_ms,
            rounds=model.rounds,
            parameters=model.predicted.parameters,
            macs=model.predicted.macs,
            macs_share=model.predicted.macs / maker.whole.macs,
            whole=maker._costs(maker.blueprint.space.largest(), limits=tuple(limits)),
            file_bytes=len(model.graph),
            peak_memory_bytes=model.predicted.peak_memory_bytes,
            runtime_memory_bytes=model.memory,
            energy=model.energy,
            seconds={part: round(value, 4) for part, value in seconds.items()},
            parity_error=model.parity_error,
            parity_reference="whole network in ONNX Runtime, activations multiplied by gates",
            quality=quality,
            curve=curve_of(folder, task),
            blocks=tuple(
                Block(name=s.name, bricks=tuple(i in model.config[s.name] for i in range(s.count)))
                for s in maker.assembly.subsets
            ),
            choices={d.name: model.config[d.name] for d in maker.blueprint.space if isinstance(d, Choice)},
            config_sha256=model.config.digest(),
            seed=seed,
            versions={**versions(), "machine": platform.machine()},
            sha256={name: sha256(target / name) for name in (files["model"], files["weights"])},
            files={role: str(out / name) for role, name in files.items()},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(target / files["report"], report.model_dump())
        write_text(target / files["page"], render(report, pictures))
        write_manifest(target, format_version=FORMAT_VERSION, kind="model", fields={"name": out.name})
    return report
