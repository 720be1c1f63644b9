"""Reads a file of requests, and refuses it whole: nothing is made unless every line can be understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brickyard.core.errors import BrickyardError, BudgetError
from brickyard.core.files import read_json
from brickyard.core.task import Task
from brickyard.factory.formats import format_named
from brickyard.factory.records import Budget

Parse = Callable[[str | None], Task]
_KEYS = ("task", "budget", "device", "format", "seed", "name")


def read_requests(file: Path, parse: Parse, *, out: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read and check all requests of a file.

    Args:
        file: One JSON object per line with the keys `task`, `budget`, `device`, `format`, `seed`, `name`, all
            optional; empty lines are skipped.
        parse: Reads the text of a task.
        out: Parent of the model folders; a model of another request that lies there already is refused.

    Returns:
        Line number, from 1, and record of each request.

    Raises:
        BudgetError: A line is malformed; the line number is named.
    """
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        raise BudgetError(f"{file} does not exist; give a file with one JSON object per line") from None
    except UnicodeDecodeError as error:
        raise BudgetError(
            f"{file} is not text ({error}); give a file with one JSON object per line"
        ) from None
    requests: list[tuple[int, dict[str, Any]]] = []
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _request(line, parse)
            name = record.get("name")
            if name in names:
                raise BudgetError(f"name {name!r} is that of line {names[name]} too; names must differ")
            if name is not None:
                _check_made(out / name, record, parse)
                names[name] = number
        except BrickyardError as error:
            raise BudgetError(f"{file}, line {number}: {error}. Nothing was made") from None
        requests.append((number, record))
    if not requests:
        raise BudgetError(f"{file} holds no request; give one JSON object per line")
    return requests


def _request(line: str, parse: Parse) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BudgetError(f"not JSON ({error})") from None
    if not isinstance(record, dict) or not set(record) <= set(_KEYS):
        raise BudgetError(f"{line.strip()[:80]!r} is not an object with keys among {', '.join(_KEYS)}")
    kinds = {"task": str, "budget": dict, "device": str, "format": str, "seed": int, "name": str}
    for key, kind in kinds.items():
        if record.get(key) is not None and (
            not isinstance(record[key], kind) or isinstance(record[key], bool)
        ):
            raise BudgetError(f"{key} = {record[key]!r} is no {kind.__name__}")
    name = record.get("name")
    if name is not None and (name in {"", ".", ".."} or Path(name).name != name):
        raise BudgetError(f"name = {name!r} is not the plain name of a folder")
    parse(record.get("task"))
    Budget(**(record.get("budget") or {}))
    if record.get("format") is not None:
        format_named(record["format"])
    return record


def _check_made(folder: Path, record: dict[str, Any], parse: Parse) -> None:
    """Refuse a model that is already there and is not the answer to this request."""
    if not (folder / "request.json").is_file():
        return
    made = read_json(folder / "request.json")
    budget = Budget(**(record.get("budget") or {})).model_dump(exclude_none=True)
    wanted = {"task": parse(record.get("task")).text, "budget": budget}
    found = {key: made.get(key) for key in wanted}
    if found != wanted:
        raise BudgetError(
            f"{folder} holds the model of another request ({found}); choose another --out or remove it"
        )
