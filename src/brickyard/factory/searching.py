"""Search the subnets of a network or factory folder; the front can be made into model folders.

    found = search_network(setup, out=Path("found"), evaluations=200)

The folder of a search holds `search.json` (what is searched, by what numbers), the study, and after each run
the front, all evaluations and pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from brickyard.core.config import Config
from brickyard.core.errors import ArtifactError, ConfigError, DeviceError, MissingExtraError
from brickyard.core.files import read_json, sha256, write_bytes, write_json
from brickyard.core.space import HEAD_SUBSETS
from brickyard.devices.profile import DeviceProfile
from brickyard.factory.folder import find_factory
from brickyard.factory.lesson import lesson_sha256
from brickyard.factory.measures import Bound, Measure
from brickyard.factory.records import Record
from brickyard.factory.subnet_profile import SubnetProfile, structure_sha256

if TYPE_CHECKING:
    from brickyard.core.space import Space
    from brickyard.factory.subnets import Subnets
    from brickyard.factory.text_subnets import TextSubnets
    from brickyard.search import Result, WarmStart

SETUP_FILE, STUDY_FILE, FRONT_FILE = "search.json", "search.db", "front.json"
_EVALUATION = "evaluation"
_TEXT_JOBS = ("texts", "translation")
_NO_MEASUREMENT = ("network", "name", "format_version", "warm_start_sha256")
"""Parts of a setup that decide nothing of what an evaluation gives, unless a hash beside them does."""


class SearchSetup(Record):
    """What is searched, and by what numbers; `search.json`.

    Attributes:
        format_version: Version of this record.
        network: The network or factory folder, a bundled factory's name, or a hub id.
        task: Text of the task that subnets are judged by; None for all classes.
        objectives: What is made better.
        limits: What is kept within bounds.
        data: Arguments of `brickyard.factory.network_folder.DataChoice`; None for the folder's own pictures.
        pictures: Most labelled pictures or texts that a subnet is judged by.
        threads: Threads of torch and of the runtime.
        runtime: What latencies and energies that are measured here are measured with.
        seed: Seed of the sampler, of drawn scenes and of chosen texts.
        name: Name of the study in its storage.
        network_sha256: Hash of the folder's manifest; empty until the folder was opened.
        devices_sha256: Hashes of the devices' files, by name of the file.
        warm_start_sha256: Hash of what the search is about that this one began with; empty without one.
    """

    format_version: Literal[1] = 1
    network: str
    task: str | None = None
    objectives: tuple[Measure, ...]
    limits: tuple[Bound, ...] = ()
    data: dict[str, Any] | None = None
    pictures: int = 1000
    threads: int = 1
    runtime: Literal["ort", "openvino"] = "ort"
    seed: int = 0
    name: str = "search"
    network_sha256: str = ""
    devices_sha256: dict[str, str] = Field(default_factory=dict)
    warm_start_sha256: str = ""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Everything that an evaluation gives, objectives first."""
        return tuple(dict.fromkeys((*self.objectives, *(bound.measure for bound in self.limits))))

    def sealed(self) -> SearchSetup:
        """Return the setup with the hashes of what it names.

        Raises:
            ArtifactError: The network is not there.
            DeviceError: A device is not there.
        """
        manifest = find_factory(self.network) / "manifest.json"
        if not manifest.is_file():
            raise ArtifactError(
                f"{self.network} has no manifest.json, so it is neither a network nor a factory folder"
            )
        devices = {}
        for file in sorted({measure.device for measure in self.measures if measure.device}):
            place = _device_file(manifest.parent, file)
            if not place.is_file():
                raise DeviceError(
                    f"{file} is not a file; expected a device profile, of `brickyard profile`, or a table"
                )
            devices[file] = sha256(place)
        return self.model_copy(update={"network_sha256": sha256(manifest), "devices_sha256": devices})

    def digest(self) -> str:
        """Return a hash of all that decides what an evaluation gives, wherever the files lie."""
        record = self.model_dump(mode="json", exclude=set(_NO_MEASUREMENT))
        text = repr(sorted((key, repr(value)) for key, value in record.items()))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SubnetEvaluator:
    """Measures subnets of a folder; can be handed to other processes, which open the folder themselves.

    Attributes:
        setup: What is searched, and by what numbers.

    Example:
        >>> setup = SearchSetup(network="supernet", objectives=read_measures(["accuracy", "macs"])[0])
        >>> SubnetEvaluator(setup)(network.space.smallest())["macs"]
        11232.0
    """

    setup: SearchSetup

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was opened."""
        return {"setup": self.setup}

    @cached_property
    def subnets(self) -> Subnets | TextSubnets:
        """The opened folder; needs torch."""
        return open_subnets(self.setup)

    @property
    def space(self) -> Space:
        """What is searched: all decisions but those of the head, which the task decides."""
        return self.subnets.space

    @cached_property
    def devices(self) -> dict[str, DeviceProfile | SubnetProfile]:
        """The devices by the names of their files.

        Raises:
            DeviceError: One is malformed, of another network, or cannot tell what is asked of it.
            MissingExtraError: The extra `search` is not installed.
        """
        from brickyard.factory.factory import Factory
        from brickyard.factory.subnets import Subnets

        subnets, path = self.subnets, find_factory(self.setup.network)
        found: dict[str, DeviceProfile | SubnetProfile] = {}
        for measure in self.setup.measures:
            if measure.device is None:
                continue
            energy = measure.kind == "energy_mj"
            whole = SubnetProfile.load_if(_device_file(path, measure.device))
            if whole is not None:
                if energy:
                    raise DeviceError(
                        f"device {whole.name!r} tells times of whole subnets and says nothing of energy; "
                        "take energy_mj, measured on this machine"
                    )
                found[measure.device] = whole.fitting(structure_sha256(path), self.setup.network).judged()
                continue
            if not isinstance(subnets, Subnets):
                raise DeviceError(
                    f"{measure.name}: this device tells times of blocks of pictures' networks, and this one "
                    f"reads tokens; profile it by `brickyard profile {self.setup.network}`"
                )
            factory = Factory(subnets.folder)
            profile = factory.device(measure.device, energy=energy)
            _require_all(profile, subnets, self.setup.network)
            found[measure.device] = profile
        return found

    def prepare(self) -> None:
        """Open all that is needed, so that what is missing is told before a search starts.

        Raises:
            ConfigError: A number is not told of this network.
            DataError: There are no labelled examples.
            DeviceError: A device cannot tell what is asked of it, or this machine has no energy counter.
            MissingExtraError: A library that is needed is not installed.
        """
        subnets, known = self.subnets, self.subnets.numbers
        strange = [measure.name for measure in self.setup.measures if measure.kind not in known]
        if strange:
            raise ConfigError(
                f"{strange[0]} is not told of this network; it has {', '.join(known)}",
                path="objectives",
                value=strange[0],
                allowed=known,
            )
        subnets.prepare(self._kinds())
        _ = self.devices

    def _kinds(self) -> set[str]:
        """Return the names of what is counted and measured here."""
        return {measure.kind for measure in self.setup.measures if measure.device is None}

    def limits(self) -> dict[str, float]:
        """Return the bounds in base units, by name."""
        whole = self.subnets.whole_macs
        return {
            bound.measure.name: bound.value * whole if bound.share else bound.value
            for bound in self.setup.limits
        }

    def __call__(self, config: Mapping[str, Any]) -> dict[str, float]:
        """Measure a subnet.

        Args:
            config: A config of `space`.

        Returns:
            The numbers of the setup by name, and all that is counted.

        Raises:
            ConfigError: The config is not legal.
        """
        full = self.subnets.config(config)
        metrics = self.subnets.figures(full, self._kinds())
        for measure in self.setup.measures:
            if measure.device is not None:
                device = self.devices[measure.device]
                if isinstance(device, SubnetProfile):
                    value: float | None = device.predict(self.canonical(Config(config)))
                else:
                    energy = measure.kind == "energy_mj"
                    value = device.predict_energy(full) if energy else device.predict(full)
                assert value is not None  # `devices` has refused devices without energy
                metrics[measure.name] = value
        return {name: float(value) for name, value in metrics.items()}

    def canonical(self, config: Config) -> Config:
        """Return the config that computes the same, see `Subnets.canonical`."""
        return self.subnets.canonical(config)


def open_subnets(setup: SearchSetup) -> Subnets | TextSubnets:
    """Open the folder that is searched.

    Args:
        setup: What is searched.

    Raises:
        ConfigError: Data or a task were named for a network that reads tokens.
        MissingExtraError: torch is not installed.
    """
    if not reads_texts(setup):
        return open_pictures(setup)
    path = find_factory(setup.network)
    need_torch()
    if setup.data is not None:
        raise ConfigError(
            f"data = {setup.data['data']!r}: subnets of networks that read tokens are judged by the texts in "
            "the folder; leave it out",
            path="data",
        )
    from brickyard.factory.text_subnets import TextSubnets

    trained = import_module("brickyard.factory.supernet").load_trained(path)
    return TextSubnets(
        trained,
        examples=setup.pictures,
        seed=setup.seed,
        threads=setup.threads,
        runtime=setup.runtime,
        task=setup.task,
    )


def reads_texts(setup: SearchSetup) -> bool:
    """Whether the network that is searched reads tokens rather than pictures."""
    return read_json(find_factory(setup.network) / "network.json").get("job") in _TEXT_JOBS


def open_pictures(setup: SearchSetup, **options: Any) -> Subnets:
    """Open the folder of a network that reads pictures.

    Args:
        setup: What is searched.
        **options: Further arguments of `Subnets`.

    Raises:
        MissingExtraError: torch is not installed.
    """
    need_torch()
    path = find_factory(setup.network)
    from brickyard.factory.network_folder import DataChoice
    from brickyard.factory.subnets import Subnets

    return Subnets(
        path,
        task=setup.task,
        data=None if setup.data is None else DataChoice(**setup.data),
        pictures=setup.pictures,
        seed=setup.seed,
        threads=setup.threads,
        runtime=setup.runtime,
        **options,
    )


def need_torch() -> None:
    """Refuse to go on without torch.

    Raises:
        MissingExtraError: It is not installed.
    """
    if find_spec("torch") is None:
        raise MissingExtraError("torch", extra="train")


def told_errors(setup: SearchSetup) -> list[str]:
    """Say how good the devices of a search are, a line for each that tells times of whole subnets.

    Args:
        setup: What is searched.

    Raises:
        ArtifactError: The network is not there.
        DeviceError: A device is missing or malformed.
        MissingExtraError: The extra `search` is not installed.
    """
    network, lines = find_factory(setup.network), []
    for file in dict.fromkeys(measure.device for measure in setup.measures if measure.device):
        whole = SubnetProfile.load_if(_device_file(network, file))
        if whole is not None:
            lines.append(f"device {whole.name}: error of latencies {whole.error}")
    return lines


def _device_file(network: Path, name: str) -> Path:
    """Return the file of a device: one that the folder brings, else that of this path."""
    inside = network / "devices" / f"{name}.json"
    return inside if inside.is_file() else Path(name)


def _require_all(profile: DeviceProfile, subnets: Subnets, network: str) -> None:
    """Refuse a device where decisions change what a subnet costs, but not what the device says.

    Raises:
        DeviceError: There is such a decision.
    """
    told = {*profile.blocks, *HEAD_SUBSETS}
    for block in profile.blocks.values():
        told |= {name for name in (block.kernel, block.depth and block.depth[0]) if name}
    silent = [decision.name for decision in subnets.space if decision.name not in told]
    if silent:
        raise DeviceError(
            f"device {profile.name!r} tells times of blocks of bricks, and {silent[0]!r} is none of them, so "
            "it cannot tell one such subnet from another; profile the network by "
            f"`brickyard profile {network}`"
        )


def search_network(
    setup: SearchSetup,
    *,
    out: Path,
    evaluations: int = 200,
    storage: str | None = None,
    sampler: str = "linas",
    warm_start: WarmStart | None = None,
    narrow: bool = False,
    repeats: int = 1,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Search the subnets of a folder, or go on with a search.

    Args:
        setup: What is searched, and by what numbers.
        out: Folder of the search; made, or that of the search to go on with.
        evaluations: Different subnets in all, those of earlier calls among them.
        storage: Address of a database or path of an SQLite file; `search.db` in the folder if None.
        sampler: `linas`, `nsga2`, `random` or `exhaustive`.
        warm_start: An earlier search of the same network to learn from, see
            `brickyard.factory.earlier`.
        narrow: Whether `linas` narrows the domains to what the front shows.
        repeats: Most measurements of a subnet; above 1, those that noise may hide behind are measured again.
        workers: Processes that evaluate. Latencies are measured while the others work, so leave a core for
            each.
        progress: Called with the subnets that are done and wanted.

    Returns:
        What was found; it lies in the folder too.

    Raises:
        ArtifactError: The folder is neither a network nor a factory, or `out` holds something else.
        ConfigError: The folder `out` or the study in the storage is of another search, the earlier search
            is of another space or tells nothing of these objectives, or an argument is out of range.
        DeviceError: A device does not fit the network.
        DataError: There are no labelled pictures that fit.
        MissingExtraError: A library that is needed is not installed.
    """
    from brickyard.search import SAMPLERS, Search, run

    SAMPLERS[sampler]
    if narrow and sampler != "linas":
        raise ConfigError(
            f"sampler {sampler} does not narrow; leave --narrow out, or take linas", path="narrow", value=True
        )
    if repeats < 1:
        raise ConfigError(f"repeats = {repeats} must be at least 1", path="repeats", value=repeats)
    setup = setup.sealed()
    evaluate = SubnetEvaluator(setup)
    about: dict[str, Any] = {
        "space": evaluate.space,
        "objectives": [measure.name for measure in setup.objectives],
        "limits": evaluate.limits(),
        "storage": storage or out / STUDY_FILE,
        "name": setup.name,
    }
    if warm_start is not None:
        setup = setup.model_copy(update={"warm_start_sha256": lesson_sha256(warm_start, about)})
    _agree(setup, out)
    evaluate.prepare()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETUP_FILE, setup.model_dump(mode="json"))
    study = Search(**about, sampler="random").study
    known = study.user_attrs.get(_EVALUATION)
    if known is None:
        study.set_user_attr(_EVALUATION, setup.digest())
    elif known != setup.digest():
        raise ConfigError(
            f"study {setup.name!r} in this storage judges subnets of another network, task, data, device or "
            "seed; choose another --name or --storage",
            path="name",
            value=setup.name,
        )
    result = run(
        **about,
        evaluate=evaluate,
        sampler=sampler,
        evaluations=evaluations,
        canonical=evaluate.canonical,
        warm_start=warm_start,
        narrow=narrow,
        repeats=repeats,
        workers=workers,
        seed=setup.seed,
        progress=progress,
    )
    for name, content in result.files().items():
        write_bytes(out / name, content)
    return result


def read_setup(folder: Path) -> SearchSetup:
    """Read what a search is about.

    Args:
        folder: The folder that the search wrote.

    Raises:
        ArtifactError: It is no such folder.
    """
    if not (folder / SETUP_FILE).is_file():
        raise ArtifactError(f"{folder} holds no {SETUP_FILE}, so `brickyard search` did not write it")
    try:
        return SearchSetup.model_validate(read_json(folder / SETUP_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"{folder / SETUP_FILE} is malformed ({where}: {first['msg']}); search anew"
        ) from None


def _agree(setup: SearchSetup, out: Path) -> None:
    """Refuse a folder that holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / SETUP_FILE).is_file():
        raise ArtifactError(f"{out} already exists and holds no search; choose another folder")
    known = read_setup(out)
    for part in SearchSetup.model_fields:
        if part != "network" and getattr(known, part) != getattr(setup, part):
            raise ConfigError(
                f"{out} holds a search with other {part.removesuffix('_sha256').replace('_', ' ')}; give the "
                "same command to go on, or choose another folder",
                path=part,
                value=getattr(setup, part),
                allowed=getattr(known, part),
            )
