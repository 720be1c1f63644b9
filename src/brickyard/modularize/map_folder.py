"""Folders of maps: `map.json` with what people ask for, `scores.safetensors` with numbers of all neurons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_json, write_bytes, write_json, write_text
from brickyard.modularize.brick_map import BrickMap, LayerMap

FORMAT_VERSION = 2  # 1 lacked the experts' scores on the texts that neurons are located on
_WHOLE = ("change", "random", "sparsity")


def save_map(found: BrickMap, folder: Path, *, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a map: `map.json`, `scores.safetensors`, `neurons.csv` (those located) and `changes.csv`.

    Args:
        found: The map.
        folder: An existing folder.
        provenance: What is worth keeping of where it comes from, JSON values.
    """
    tensors = {name: getattr(found, name) for name in _WHOLE}
    for place, layer in enumerate(found.layers):
        tensors |= layer.tensors(f"layers.{place}")
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    write_bytes(folder / "scores.safetensors", save(contiguous))
    write_json(folder / "map.json", {**map_record(found), "provenance": dict(provenance or {})})
    write_text(folder / "neurons.csv", _located(found))
    write_text(folder / "changes.csv", _changes(found))


def map_record(found: BrickMap) -> dict[str, Any]:
    """Return a map as JSON values, without the numbers of single neurons."""
    layers = [
        {
            **layer.record(),
            "neurons": layer.scores.shape[1],
            "best": _rounded(layer.best()),
            "located_mean": _rounded(layer.located_mean()),
            "mean": _rounded(layer.scores.mean(1)),
            "best_expert": None if (best := layer.best_expert()) is None else _rounded(best),
        }
        for layer in found.layers
    ]
    return {
        "format_version": FORMAT_VERSION,
        "functions": list(found.functions),
        "texts": [list(counts) for counts in found.texts],
        "measure": found.measure,
        "share": found.share,
        "locate": found.locate,
        "seed": found.seed,
        "layers": layers,
        "change": _rounded(found.change),
        "random": _rounded(found.random),
        "overlap": _rounded(found.overlap()),
        "shares": list(found.shares),
        "sparsity": _rounded(found.sparsity),
        "diagonal_ratio": found.diagonal_ratio(),
        "over_random": found.over_random(),
    }


def load_map(folder: str | Path) -> BrickMap:
    """Load what `save_map` wrote.

    Args:
        folder: The folder.

    Raises:
        ArtifactError: It holds no map, or that of another version.
    """
    path = Path(folder)
    record = read_json(path / "map.json")
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(f"{path} holds no map of version {FORMAT_VERSION}; make it again: brickyard map")
    try:
        tensors = load_file(path / "scores.safetensors")
        layers = tuple(
            LayerMap.load(layer, tensors, f"layers.{place}") for place, layer in enumerate(record["layers"])
        )
        found = BrickMap(
            functions=tuple(record["functions"]),
            layers=layers,
            measure=record["measure"],
            texts=tuple((one, other) for one, other in record["texts"]),
            shares=tuple(record["shares"]),
            share=record["share"],
            locate=record["locate"],
            seed=record["seed"],
            **{name: tensors[name] for name in _WHOLE},
        )
        rows = {len(found.functions), len(found.texts), *(len(layer.scores) for layer in found.layers)}
        if len(rows) != 1 or found.change.shape != (len(found.functions),) * 2:
            raise ValueError(f"map.json tells of {len(found.functions)} functions, other parts of others")
        return found
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is not a whole map ({error!r}); make it again: brickyard map") from None


def _located(found: BrickMap) -> str:
    lines = ["layer,path,function,rank,neuron,expert,located_score,heldout_score"]
    for place, layer in enumerate(found.layers):
        for function, name in enumerate(found.functions):
            for rank, neuron in enumerate(layer.located[function].tolist()):
                expert = "" if layer.experts is None else str(int(layer.experts[neuron]))
                scores = (float(part[function, neuron]) for part in (layer.first_scores, layer.scores))
                shown = ",".join(f"{score:.4f}" for score in scores)
                lines.append(f"{place},{layer.path},{_quoted(name)},{rank},{neuron},{expert},{shown}")
    return "\n".join([*lines, ""])


def _changes(found: BrickMap) -> str:
    """Return what is changed for each function (column) by what is switched off (row)."""
    lines = [",".join(["without", *map(_quoted, found.functions)])]
    rows = list(zip(found.functions, found.change.tolist(), strict=True))
    rows += [(f"random neurons {place}", values) for place, values in enumerate(found.random.tolist())]
    rows += [
        (f"least active {share:.0%}", values)
        for share, values in zip(found.shares, found.sparsity.tolist(), strict=True)
    ]
    lines += [",".join([_quoted(name), *(f"{value:.6f}" for value in values)]) for name, values in rows]
    return "\n".join([*lines, ""])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n') else name


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=6).tolist()
