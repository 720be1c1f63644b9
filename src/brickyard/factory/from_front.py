"""A point of a search's front as a model folder: the very subnet that was judged, with its normalisation."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from brickyard.core.config import Config
from brickyard.core.errors import ArtifactError, ConfigError, ExportError
from brickyard.core.files import read_json
from brickyard.factory.boxes import BoxJudge
from brickyard.factory.clock import Clock
from brickyard.factory.formats import format_named
from brickyard.factory.records import Budget, Report
from brickyard.factory.searching import FRONT_FILE, SearchSetup, open_pictures, read_setup, reads_texts
from brickyard.factory.text_rating import Progress, silent
from brickyard.factory.text_records import TextReport
from brickyard.factory.write import write_model


def make_from_front(
    folder: str | Path,
    place: int,
    *,
    out: str | Path,
    format: str = "onnx",
    progress: Progress = silent,
) -> Report | TextReport:
    """Write a point of a front as a model folder; needs torch.

    The file is compared with the subnet as torch computes it, its latency is measured, and its quality is
    measured on the pictures or texts that the search judged by.

    Args:
        folder: Folder that `brickyard search` wrote.
        place: Place of the point in `front.csv`, from 0.
        out: Model folder to write; must not exist or be empty.
        format: Format of the model's file; `onnx` for a network that reads texts.
        progress: Of a network that reads texts, called with a stage, the texts that are judged, those in all,
            and a text.

    Returns:
        The report, which the folder holds too.

    Raises:
        ArtifactError: There is no front in the folder, what was searched has changed since, or `out` is
            taken.
        ConfigError: The front has no such place.
        ExportError: The network reads texts and the format is another than `onnx`, or the file computes
            something else than the subnet.
        MissingExtraError: A library that is needed is not installed.
    """
    started, source, target = time.perf_counter(), Path(folder), Path(out)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(f"{target} already exists; choose another folder or remove it first")
    form = format_named(format)
    setup = read_setup(source)
    point = _point(source, place)
    if setup.sealed().network_sha256 != setup.network_sha256:
        raise ArtifactError(
            f"{setup.network} is not what was searched any more; put the folder of then in its place, or "
            "search anew"
        )
    if reads_texts(setup):
        if form.name != "onnx":
            raise ExportError(
                f"format {form.name!r}: {setup.network} reads texts, whose number of tokens varies; models "
                "of it are made in the format 'onnx' alone; leave --format out"
            )
        make: Callable[..., TextReport] = import_module("brickyard.factory.text_make").make_text_model
        key = _key(setup, point["config"], form.name)
        return make(setup, place=place, point=point, out=target, key=key, progress=progress)
    subnets = open_pictures(setup, form=form)
    config = subnets.config(point["config"])
    clock = Clock()
    clock.lap("open")
    decode = subnets.judge.decode if isinstance(subnets.judge, BoxJudge) else None
    model = subnets.model(config, clock=clock, decode=decode)
    return write_model(
        subnets,
        model,
        task=subnets.task,
        budget=Budget(),
        out=target,
        seed=setup.seed,
        started=started,
        key=_key(setup, config, form.name),
        front={"study": setup.name, "place": place, "metrics": point["metrics"]},
    )


def _key(setup: SearchSetup, config: Mapping[str, Any], format: str) -> str:
    """Return a hash of all that decides what is written."""
    text = f"front of {setup.digest()}, {Config(config).digest()}, {format}"
    return hashlib.sha256(text.encode()).hexdigest()


def _point(folder: Path, place: int) -> dict[str, Any]:
    file = folder / FRONT_FILE
    if not file.is_file():
        raise ArtifactError(f"{folder} holds no {FRONT_FILE} yet; let its search end first")
    front = read_json(file)["front"]
    if not 0 <= place < len(front):
        allowed = f"allowed: 0 to {len(front) - 1}" if front else "no subnet kept the limits"
        raise ConfigError(
            f"the front of {folder} has no place {place}; {allowed}", path="from_front", value=place
        )
    point: dict[str, Any] = front[place]
    return point
