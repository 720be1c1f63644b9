"""A factory as a user holds it: load it, make models, profile the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from brickyard.core.errors import (
    ArtifactError,
    ConfigError,
    DeviceError,
    InfeasibleError,
    MissingExtraError,
)
from brickyard.core.files import cache_folder, sha256
from brickyard.core.task import Task, Vocabulary
from brickyard.devices.energy import POWERCAP, EnergyCounter
from brickyard.devices.energy_model import with_energy
from brickyard.devices.measure import processor_name, this_device_name
from brickyard.devices.profile import DeviceProfile
from brickyard.devices.profile import profile as profile_device
from brickyard.devices.runtimes import RUNTIMES, runtime_behind, runtime_named
from brickyard.devices.table import read_table
from brickyard.export.decode import Decode
from brickyard.factory.boxes import decode_with
from brickyard.factory.bulk import make_all, request_key
from brickyard.factory.checks import require_energy, require_memory
from brickyard.factory.folder import FactoryFolder, find_factory
from brickyard.factory.formats import Format, format_on
from brickyard.factory.learned import learned_folders, parse_task
from brickyard.factory.make import Maker
from brickyard.factory.nearest import nearest_feasible
from brickyard.factory.records import Budget, Report
from brickyard.factory.write import write_model

Progress = Callable[[int, int, str], None]


def _quiet(done: int, total: int, text: str) -> None:
    """Take no notice of progress."""


class Factory:
    """A trained modular network with its assembler; makes a model for a task and a budget in a moment.

    Example:
        >>> factory = Factory.load("geometry")
        >>> report = factory.make(task="red circle", budget=Budget(max_macs="25%"), out="red_circle")
        >>> report.files["model"]
        'red_circle/model.onnx'
    """

    def __init__(self, folder: FactoryFolder, *, network: Any = None) -> None:
        self.folder = folder
        self.own_network = network
        self._makers: dict[tuple[str | None, int, str], Maker] = {}
        self._learned: dict[str, Factory] = {}

    @classmethod
    def load(cls, name: str | Path = "geometry", *, network: Any = None) -> Factory:
        """Load a factory by folder, bundled name or hub id; its files are verified.

        Args:
            name: A folder, the name of a bundled factory, or `owner/name` on the Hugging Face Hub.
            network: The `brickyard.Network` of a factory that was made from the user's own module, as
                `brickyard.modularize` makes it again; its weights do not matter. Only the runtime `torch` and
                the format `executorch` need it.

        Returns:
            The factory.

        Raises:
            ArtifactError: There is none of that name, or its files are altered or incomplete.
        """
        return cls(FactoryFolder.open(find_factory(name)), network=network)

    @property
    def name(self) -> str:
        """Name of the factory."""
        return self.folder.name

    @property
    def vocabulary(self) -> Vocabulary:
        """Words that tasks are made of."""
        return self.folder.vocabulary

    @property
    def learned(self) -> dict[str, Factory]:
        """Factories of the tasks that were learned later, by name, in their order; see `brickyard learn`.

        Raises:
            ArtifactError: The files of one are altered or incomplete.
        """
        for name, folder in learned_folders(self.folder.path).items():
            if name not in self._learned:
                self._learned[name] = Factory(FactoryFolder.open(folder))
        return dict(self._learned)

    def parse(self, task: str | Task | None) -> tuple[Factory, Task]:
        """Read a task as `make` takes it; return the factory of its models, this or a learned one, and it.

        Raises:
            TaskError: It is not understood.
        """
        if isinstance(task, Task):
            return self, task
        name, wanted = parse_task(task, self.vocabulary, learned_folders(self.folder.path))
        return (self if name is None else self.learned[name]), wanted

    def network(self) -> Any:
        """Build the modular network with its trained weights; needs torch.

        Returns:
            A `brickyard.Network` in evaluation mode.
        """
        from brickyard.factory.twin import load_network

        return load_network(self.folder.path)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the factory folder to the Hugging Face Hub, where `Factory.load(repo_id)` finds it.

        Args:
            repo_id: `owner/name`.
            private: Whether a new repository is private.

        Returns:
            Address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=self.folder.path).commit_url)

    def _twin(self, config: Mapping[str, Any]) -> Any:
        return self._twins(config)

    @cached_property
    def _twins(self) -> Any:
        """What builds plain torch twins; loads torch."""
        try:
            from brickyard.factory.twin import Twins
        except ImportError:
            raise MissingExtraError("torch", extra="train") from None
        return Twins(self.folder.path, self.own_network)

    def profile(
        self,
        *,
        runtime: str = "ort",
        threads: int = 1,
        seed: int = 0,
        name: str | None = None,
        energy: bool = False,
        progress: Progress = _quiet,
    ) -> DeviceProfile:
        """Measure the blocks of the network on this machine.

        Args:
            runtime: Name of the runtime, of `brickyard.devices.RUNTIMES`; part of the device.
            threads: Threads of the runtime; part of the device.
            seed: Seed of the subnets that the profile is fitted and tested on.
            name: Name of the device; that of this machine if None.
            energy: Measure the energy of subnets too.
            progress: Called with steps done, steps in all, and a short text.

        Returns:
            The profile; save it with its `save`.

        Raises:
            DeviceError: The runtime is unknown or cannot run the network, `threads` is below 1, or energy was
                asked for, and the machine has no counter that can be read.
            MissingExtraError: The runtime is not installed.
        """
        counter = EnergyCounter(POWERCAP) if energy else None
        measured = profile_device(
            self.folder.blueprint,
            threads=threads,
            seed=seed,
            name=name,
            **self._running(runtime, progress),
        )
        if counter is None:
            return measured
        return with_energy(self.folder.blueprint, measured, counter, **self._running(runtime, progress))

    def _running(self, runtime: str, progress: Progress) -> dict[str, Any]:
        """Return what runs models when this machine is measured."""
        twin = self._twin if runtime == "torch" else None
        return {"runtime": runtime_named(runtime), "twin": twin, "progress": progress}

    def device(
        self,
        device: str | Path | DeviceProfile | None = None,
        *,
        runtime: str = "ort",
        threads: int = 1,
        energy: bool = False,
        progress: Progress = _quiet,
    ) -> DeviceProfile:
        """Return a device profile that fits this factory.

        Args:
            device: A profile, its file, a CSV table of block times (see `brickyard.devices.table`), or the
                name of a profile in the factory folder; None for this machine, which is profiled on first
                use and kept in the user's cache folder.
            runtime: Runtime on this machine, when `device` is None.
            threads: Threads of this machine, when `device` is None.
            energy: Whether it must tell the energy of subnets.
            progress: Called while this machine is profiled.

        Returns:
            The profile.

        Raises:
            DeviceError: The profile is missing, malformed, or belongs to another network, or tells no energy.
        """
        if isinstance(device, DeviceProfile):
            profile = device
        elif device is not None:
            inside = self.folder.path / "devices" / f"{device}.json"
            if Path(device).suffix.lower() == ".csv":
                profile = read_table(device, self.folder.blueprint)
            else:
                profile = DeviceProfile.load(inside if inside.is_file() else Path(device))
        else:
            counter = EnergyCounter(POWERCAP) if energy else None
            kept = self._kept_profile(runtime, threads)
            if kept is not None and (counter is None or kept.energy is not None):
                return kept
            profile = kept or self.profile(runtime=runtime, threads=threads, progress=progress)
            if counter is not None:
                running = self._running(runtime, progress)
                profile = with_energy(self.folder.blueprint, profile, counter, **running)
            path = self._profile_path(runtime, threads)
            path.parent.mkdir(parents=True, exist_ok=True)
            profile.save(path)
        if energy:
            require_energy(profile)
            runs_here = runtime_behind(profile.runtime, profile.precision) is not None
            if runs_here and profile.processor == processor_name():
                EnergyCounter(POWERCAP)  # the file will be measured; told now if that cannot be done
        return self._fitting(profile)

    def _profile_path(self, runtime: str, threads: int) -> Path:
        digest, name = self.folder.blueprint.sha256[:12], this_device_name(threads, runtime_named(runtime))
        return cache_folder() / "devices" / f"{digest}-{name}.json"

    def _kept_profile(self, runtime: str, threads: int) -> DeviceProfile | None:
        """Return this machine's profile from the user's cache, None if there is none that can be read."""
        path = self._profile_path(runtime, threads)
        if not path.is_file():
            return None
        try:
            return self._fitting(DeviceProfile.load(path))
        except DeviceError:
            return None

    def _fitting(self, profile: DeviceProfile) -> DeviceProfile:
        if profile.blueprint_sha256 != self.folder.blueprint.sha256:
            raise DeviceError(
                f"device profile {profile.name!r} was measured for another network; run `brickyard profile "
                f"{self.folder.path}` on the device and use the file it writes"
            )
        return profile

    def maker(self, device: DeviceProfile | None, *, threads: int = 1, format: str | None = None) -> Maker:
        """Return what makes models for a device; kept, so that later requests find everything loaded.

        Args:
            device: The device; None where none plays a part.
            threads: Threads of this machine, when `device` is None.
            format: Format of the models, see `make`.

        Raises:
            DeviceError: The device does not run the format.
        """
        form = format_on(device, format)
        known = None if device is None else device.model_dump_json()
        key = (known, threads if device is None else device.threads, form.name)
        if key not in self._makers:
            self._makers[key] = Maker(self.folder, device=device, threads=threads, form=form, twin=self._twin)
        return self._makers[key]

    def make(
        self,
        *,
        task: str | Task | None = None,
        budget: Budget | Mapping[str, Any] | None = None,
        device: str | Path | DeviceProfile | None = None,
        out: str | Path,
        format: str | None = None,
        threads: int = 1,
        seed: int = 0,
        decode: Literal["inside", "outside"] | None = None,
        threshold: float | None = None,
        nms_iou: float | None = None,
        measure_memory: bool = False,
        progress: Progress = _quiet,
    ) -> Report:
        """Make a standalone model for a task within a budget, without training.

        Args:
            task: Words of the vocabulary, for example `"red circle"` or `"3, 7"`, or `"NAME"` or
                `"NAME: words"` of a task that was learned later; None for the generic task.
            budget: Ceilings in any combination; none gives the model that the task wants without any.
            device: Device profile that limits on latency and energy refer to, see `device`.
            out: Model folder to write; must not exist or be empty.
            format: Format of the model's file: `onnx`, `onnx-int8`, `openvino` or `executorch`; None for what
                the device's runtime runs, `onnx` for most. Without a device, limits on latency refer to the
                format's runtime on this machine.
            threads: Threads of this machine, when `device` is None.
            seed: Seed of the candidates and of the scenes for quality.
            decode: For detectors, whether the graph turns its maps into boxes (`inside`) or whoever runs it
                (`outside`, what None means), see `brickyard.export.decode`.
            threshold: For detectors, least score of a box; 0.3 if None.
            nms_iou: For detectors, boxes of a label that overlap a better one by more than this are dropped.
            measure_memory: Measure the memory of the file even where it is not limited.
            progress: Called while this machine is profiled, on first use.

        Returns:
            The report, which the folder holds too.

        Raises:
            TaskError: The task is not understood.
            BudgetError: A limit is malformed.
            InfeasibleError: No model fits; nothing was written.
            DeviceError: The profile does not fit the factory or the format; or energy is limited and cannot
                be measured or predicted; or memory is limited in a format that is not measured.
            ExportError: The format is unknown, or its file computes something else than the network.
            MissingExtraError: A library that the format or the device's runtime needs is not installed.
            ArtifactError: `out` is taken.
            ConfigError: Options of detectors for a factory of another kind, or out of range.
        """
        started = time.perf_counter()
        owner, wanted = self.parse(task)
        ceilings = budget if isinstance(budget, Budget) else Budget(**dict(budget or {}))
        target = Path(out)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ArtifactError(f"{target} already exists; choose another folder or remove it first")
        settings = owner._decode(decode=decode, threshold=threshold, nms_iou=nms_iou)
        inside = decode == "inside"
        profile = owner._asked_device(
            ceilings, device, format=format, threads=threads, measure_memory=measure_memory, progress=progress
        )
        key = owner._key(
            wanted,
            ceilings,
            profile,
            format=format,
            threads=threads,
            seed=seed,
            decode=settings,
            inside=inside,
        )
        maker = owner.maker(
            profile or owner._kept_for(format_on(None, format), threads), threads=threads, format=format
        )
        if inside and not maker.production.takes_graphs:
            raise ConfigError(
                "decode = 'inside' is for ONNX files in runtimes of graphs; take the format onnx and a "
                "device of such a runtime, or decode outside",
                path="decode",
            )
        limits = ceilings.limits(whole_macs=maker.whole.macs)
        try:
            model = maker.make(
                wanted,
                limits,
                seed=seed,
                decode=settings,
                inside=inside,
                measure_memory=measure_memory,
            )
        except InfeasibleError as error:
            error.nearest = nearest_feasible(maker, wanted, limits, error, seed=seed)
            raise
        return write_model(
            maker, model, task=wanted, budget=ceilings, out=target, seed=seed, started=started, key=key
        )

    def request_key(
        self,
        *,
        task: str | Task | None = None,
        budget: Budget | Mapping[str, Any] | None = None,
        device: str | Path | DeviceProfile | None = None,
        format: str | None = None,
        threads: int = 1,
        seed: int = 0,
    ) -> str:
        """Return the hash of everything that decides the model of a request; arguments are those of `make`.

        Requests of one key have the same model, which its `request.json` names by the key.
        """
        owner, wanted = self.parse(task)
        ceilings = budget if isinstance(budget, Budget) else Budget(**dict(budget or {}))
        profile = owner._asked_device(ceilings, device, format=format, threads=threads)
        return owner._key(
            wanted, ceilings, profile, format=format, threads=threads, seed=seed, decode=owner._decode()
        )

    def _asked_device(
        self,
        budget: Budget,
        device: str | Path | DeviceProfile | None,
        *,
        format: str | None,
        threads: int,
        measure_memory: bool = False,
        progress: Progress = _quiet,
    ) -> DeviceProfile | None:
        """Return the profile that a request refers to; None where no device plays a part."""
        form, energy = format_on(None, format), budget.energy_mj is not None
        if budget.max_memory_mb is not None or measure_memory:
            require_memory(form)
        if device is None and budget.latency_ms is None and not energy:
            return None
        if device is None and form.runtime.name not in RUNTIMES:
            name = "energy" if budget.latency_ms is None else "latency"
            raise DeviceError(
                f"{name} of {form.name} files cannot be predicted on this machine; give a table of block "
                "times by `device`, or limit something else"
            )
        return self.device(
            device,
            runtime=form.runtime.name if device is None else "ort",
            threads=threads,
            energy=energy,
            progress=progress,
        )

    def _kept_for(self, form: Format, threads: int) -> DeviceProfile | None:
        """Return this machine's profile for a format from the user's cache, None if there is none."""
        return self._kept_profile(form.runtime.name, threads) if form.runtime.name in RUNTIMES else None

    def _key(
        self,
        task: Task,
        budget: Budget,
        device: DeviceProfile | None,
        *,
        format: str | None,
        threads: int,
        seed: int,
        decode: Decode | None,
        inside: bool = False,
    ) -> str:
        whole = self.folder.blueprint.count(self.folder.blueprint.space.largest())
        return request_key(
            factory_sha256=sha256(self.folder.path / "manifest.json"),
            task=task.text,
            limits=budget.limits(whole_macs=whole.macs),
            device=device,
            form=format_on(device, format).name,
            threads=threads if device is None else device.threads,
            seed=seed,
            decode=None if decode is None else {**decode.to_json(), "inside": inside},
        )

    def _decode(self, **given: Any) -> Decode | None:
        """Return how maps become boxes; None for factories that do not detect."""
        return decode_with(given, self.folder.blueprint.outputs, self.folder.preprocess, name=self.name)

    def make_all(
        self,
        requests: Sequence[Mapping[str, Any]],
        *,
        out: str | Path,
        format: str | None = None,
        threads: int = 1,
        jobs: int = 1,
        progress: Progress = _quiet,
    ) -> Iterator[dict[str, Any]]:
        """Make a model for each request.

        Args:
            requests: Records with the keys `task`, `budget`, `device`, `format`, `seed`, `name`, all
                optional.
            out: Folder of the model folders, each of the request's name or of a hash of its content. A
                request that a model in it answers is not made again: its answer is the report of that model,
                whose `files` say where it lies. So a run can be stopped and given again.
            format: Format of models whose request names none, see `make`.
            threads: Threads of this machine.
            jobs: Requests that are worked on at the same time, each in a process of its own if several. Files
                are measured while the others work, so leave a core for each.
            progress: Called after each request.

        Yields:
            For each request its report as JSON values, or `feasible: false` with the reason.

        Raises:
            BudgetError: A request has an unknown key or an unusable name; then nothing is made.
        """
        given = [{"format": format, **request} for request in requests]
        return make_all(self, given, out=Path(out), threads=threads, jobs=jobs, progress=progress)
