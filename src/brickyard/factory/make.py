"""The main job: task, budget and device in; a measured model file and its report out.

Nothing here needs torch: the factory holds the whole network as one exported graph, and a request slices it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from brickyard.assemble.assembly import Mask
from brickyard.assemble.search import Candidate, search
from brickyard.core.config import Config
from brickyard.core.decision import Choice
from brickyard.core.errors import ExportError, InfeasibleError
from brickyard.core.space import CLASSES
from brickyard.core.task import Task
from brickyard.devices.measure import measure_session, processor_name
from brickyard.devices.profile import DeviceProfile
from brickyard.devices.runtimes import Session, runtime_behind
from brickyard.devices.runtimes.ort import ORT
from brickyard.export.decode import Decode, append_decode
from brickyard.factory.boxes import BoxJudge, judge_of, show_boxes
from brickyard.factory.checks import Checks, not_met, tightened, with_headroom
from brickyard.factory.clock import Clock
from brickyard.factory.folder import FactoryFolder
from brickyard.factory.formats import FORMATS, Format
from brickyard.factory.formats.base import no_twin
from brickyard.factory.formats.check import compare, with_quality
from brickyard.factory.formats.production import Production, size_of
from brickyard.factory.made import Model
from brickyard.factory.quality import (
    Floats,
    Judge,
    Sample,
    open_session,
    outputs_of,
    task_config,
)
from brickyard.factory.records import Costs, FormatCheck, Latency, Quality

_ROUNDS = 3
_PARITY = 1e-4
_QUALITY_PICTURES = 200
_CHECK_PICTURES, _CHECK_INPUTS = 500, 32  # to tell a point of accuracy; to compare scores


class Maker:
    """Makes models from one factory for one device; keeps what requests share.

    Where the device is another machine, files are measured here for the report, but latency limits are
    judged by the device's profile alone.

    Args:
        folder: The factory.
        device: Profile of the device; needed for latency limits, and for predicted latency.
        threads: Threads that files are measured with where there is no profile.
        form: Format of the models.
        twin: Builds the plain torch twin of a config, for formats and runtimes that need it.
    """

    def __init__(
        self,
        folder: FactoryFolder,
        *,
        device: DeviceProfile | None,
        threads: int = 1,
        form: Format = FORMATS["onnx"],
        twin: Callable[[Mapping[str, Any]], Any] = no_twin,
    ) -> None:
        self.folder, self.device = folder, device
        self.threads = device.threads if device is not None else threads
        runtime = None if device is None else runtime_behind(device.runtime, device.precision)
        self.here = device is None or (runtime is not None and device.processor == processor_name())
        self.blueprint, self.assembly = folder.blueprint, folder.assembly
        self.production = Production(
            self.blueprint, form, runtime or form.runtime, self.threads, self._calibration, twin
        )
        self.checks = Checks(self.production, device)
        largest = self.blueprint.space.largest()
        self.whole = self.costs(largest, file_bytes=self.blueprint.count(largest).file_bytes)
        self._references: dict[Config, tuple[int, Session, Floats]] = {}
        self._whole_ms: float | None = None

    def _calibration(self, count: int) -> Floats:
        """Return calibration inputs, at most so many."""
        return self.folder.preprocess.apply(self.folder.calibration.images[:count])

    def costs(self, config: Config, *, limits: Sequence[str] = (), file_bytes: int | None = None) -> Costs:
        """Return what a subnet costs.

        Args:
            config: The subnet.
            limits: What is limited; memory is predicted only if it is among them.
            file_bytes: Size of its files; estimated if None.
        """
        counts = self.blueprint.count(config)
        further = self.checks.predict(limits, config, peak=counts.peak_memory_bytes)
        return Costs(
            latency_ms=None if self.device is None else round(self.device.predict(config), 5),
            macs=counts.macs,
            parameters=counts.parameters,
            file_bytes=self.production.file_bytes(counts) if file_bytes is None else file_bytes,
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
                if "file_bytes" in names:
                    costs["file_bytes"] = self.production.file_bytes(counts)
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
        for number in range(1, _ROUNDS + 1):
            try:
                candidate, config = self.find(task, wanted, seed=seed)[0]
            except InfeasibleError:
                if number > 1:
                    break
                wanted = dict(limits)
                candidate, config = self.find(task, wanted, seed=seed)[0]
            clock.lap("search")
            model = self.realised(
                config,
                self.blueprint.cut(config),
                limits=limits,
                decode=decode,
                inside=inside,
                measure_memory=measure_memory,
                clock=clock,
            )
            found = {"latency_ms": model.measured.p50} if self.here else {}
            if not self.production.plain:  # of ONNX the search knows the size
                found["file_bytes"] = size_of(model.files)
            if model.memory is not None:
                found["runtime_memory_bytes"] = model.memory
            if model.energy is not None:
                found["energy_mj"] = model.energy.mj
            smallest = {name: min(value, smallest.get(name, np.inf)) for name, value in found.items()}
            over = {name: value for name, value in found.items() if value > limits.get(name, np.inf)}
            if not over:
                break
            wanted = tightened(wanted, limits, over=over, predicted=candidate.costs)
        for name in over:
            raise not_met(name, limits[name], smallest=smallest[name], rounds=number)
        return replace(model, rounds=number)

    def realised(
        self,
        config: Config,
        graph: onnx.ModelProto,
        *,
        clock: Clock,
        limits: Mapping[str, float] = MappingProxyType({}),
        decode: Decode | None = None,
        inside: bool = False,
        measure_memory: bool = False,
    ) -> Model:
        """Write the files of a subnet in the format, check and measure them.

        Args:
            config: The subnet.
            graph: Its cut graph.
            clock: Takes note of the time by part.
            limits: Ceilings in base units; what they limit is measured.
            decode: For detectors, how maps become boxes.
            inside: Whether the graph does that, behind the cut.
            measure_memory: Measure the memory of the file even where it is not limited.

        Returns:
            The model.

        Raises:
            ExportError: The cut graph does not compute what the reference computes.
        """
        tail = decode if inside else None
        reference = ORT.open(graph.SerializeToString(), threads=self.threads)
        clock.lap("cut")
        error = self._parity(config, reference)
        clock.lap("parity")
        files = self.production.files(config, graph if tail is None else append_decode(graph, tail))
        session = reference if self.production.plain else self.production.open(files)
        final = session if tail is None else self.production.open(files)
        clock.lap("format")
        timed = self.production.timed(config, files, final)
        measured = self._measured(timed, limits)
        clock.lap("measure")
        memory = energy = None
        if measure_memory or "runtime_memory_bytes" in limits:
            memory = self.checks.memory(files)
            clock.lap("memory")
        if self.here and "energy_mj" in limits:
            energy = self.checks.energy(timed)
            clock.lap("energy")
        return Model(
            config=config,
            files=files,
            session=session,
            reference=reference,
            weights={tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer},
            predicted=self.costs(config, limits=tuple(limits), file_bytes=size_of(files)),
            measured=measured,
            memory=memory,
            energy=energy,
            parity_error=error,
            rounds=1,
            seconds=clock.seconds,
            decode=decode,
            inside=inside,
        )

    def _measured(self, session: Session, limits: Mapping[str, float]) -> Latency:
        measured = measure_session(session, threads=self.threads)
        if self.here and measured.p50 > limits.get("latency_ms", np.inf):
            # The machine may have been disturbed; the quieter of two measurements counts.
            again = measure_session(session, threads=self.threads)
            measured = min(measured, again, key=lambda measurement: measurement.p50)
        return Latency(
            p10=measured.p10,
            p50=measured.p50,
            p90=measured.p90,
            runs=measured.runs,
            warmup=measured.warmup,
            threads=self.threads,
        )

    def _without_tail(self, limits: Mapping[str, float], tail: Decode | None) -> dict[str, float]:
        """Take the bytes that an appended decoding adds off the limit of the file."""
        limits = dict(limits)
        if tail is not None and "file_bytes" in limits:
            whole = self.blueprint.cut(self.blueprint.space.largest())
            limits["file_bytes"] -= append_decode(whole, tail).ByteSize() - whole.ByteSize()
        return limits

    parity_reference = "whole network in ONNX Runtime, activations multiplied by gates"
    """What `_parity` compares with, in words."""

    def _parity(self, config: Config, session: Session) -> float:
        """Compare a cut graph with the whole graph whose activations are multiplied by gates instead."""
        choices = {d.name: config[d.name] for d in self.blueprint.space if isinstance(d, Choice)}
        sets = self.blueprint.norm_sets
        number = 0 if sets is None else sets.of(config)
        key = Config(choices)
        if key not in self._references or self._references[key][0] != number:  # one at a time, for its memory
            reference = open_session(self.blueprint.gated(choices, norm_set=number))
            self._references[key] = number, reference, self._calibration(4)
        _, reference, inputs = self._references[key]
        expected = [
            whole[:, list(config[CLASSES])]
            if CLASSES in {cut.decision for cut in self.blueprint.activations[name].cuts}
            else whole
            for name, whole in zip(
                self.blueprint.outputs,
                outputs_of(reference, inputs, gates=self._gates(config)),
                strict=True,
            )
        ]
        return checked_parity(expected, outputs_of(session, inputs), hint="train or download it again")

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
            largest = self.blueprint.space.largest()
            files = self.production.files(largest)
            session = self.production.timed(largest, files, self.production.open(files))
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

    def quality(self, task: Task, session: Session, sample: Sample) -> Quality:
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

    def sample(self, task: Task, *, seed: int) -> Sample | None:
        """Draw labelled held-out pictures; None where none are labelled for the task."""
        count = _QUALITY_PICTURES if self.production.plain else _CHECK_PICTURES
        return self.judge.draw(task, count=count, seed=seed + 7_000_000)

    def check(
        self, task: Task, model: Model, quality: Quality | None, sample: Sample | None
    ) -> FormatCheck | None:
        """Compare the files of a made model with the graph that they were made from.

        Args:
            task: Its task.
            model: The model.
            quality: Quality of its files.
            sample: The pictures of that.

        Returns:
            What was found; None where the file is that graph.

        Raises:
            ExportError: The files compute something else.
        """
        if self.production.plain:
            return None
        inputs = self._calibration(_CHECK_INPUTS)
        found = compare(self.production.form, model.session, model.reference, inputs)
        reference = None
        if sample is not None and quality is not None:
            reference = self.quality(task, model.reference, sample)
        return with_quality(found, quality, reference)

    def pictures(self, task: Task, model: Model, sample: Sample) -> list[dict[str, Any]]:
        """Return pictures with the boxes of a made detector and of the whole network; none for others."""
        if not isinstance(self.judge, BoxJudge) or model.decode is None:
            return []
        everything = np.ones(len(self.assembly.costs), dtype=np.bool_)
        config = task_config(self.blueprint, self.assembly, task, self.folder.vocabulary, everything)
        whole = open_session(self.blueprint.cut(config), threads=self.threads)
        return show_boxes(self.judge, sample, {"whole": whole, "made": model.session}, model.decode)


def checked_parity(expected: Sequence[Floats], actual: Sequence[Floats], *, hint: str) -> float:
    """Compare the outputs of a cut graph with those of its reference.

    Args:
        expected: Each output of the reference.
        actual: Each output of the graph, of the same shapes.
        hint: What to do where they differ.

    Returns:
        The largest difference.

    Raises:
        ExportError: It is above 1e-4 of the largest score.
    """
    pairs = list(zip(expected, actual, strict=True))
    error = max(float(np.abs(found - whole).max()) for whole, found in pairs)
    scale = max(1.0, *(float(np.abs(whole).max()) for whole, _ in pairs))
    if not error <= _PARITY * scale:
        raise ExportError(
            f"the cut graph differs from the whole network by {error:.3g} (allowed {_PARITY:g} of the "
            f"scores' scale); nothing was written. The network's files may be damaged: {hint}"
        )
    return error
