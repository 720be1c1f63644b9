"""Folders of transformers with experts.

Such a network folder is a folder of `transformers` as well, which loads it as the equal dense model: its
`config.json` and `model.safetensors` are written by that library. `network.json` says which experts there
are, `orders.safetensors` which neuron stood where in the original.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from brickyard.bricks.experts import ExpertGate, ExpertSplit
from brickyard.core.decision import Subset
from brickyard.core.errors import ArtifactError, MissingExtraError, ModularizeError
from brickyard.core.files import new_folder, read_json, read_manifest, write_bytes, write_json, write_manifest
from brickyard.modularize.conversion import Converted, convert_
from brickyard.modularize.intake import Inputs, example_inputs, find_anatomy
from brickyard.modularize.transformer import ModularTransformer, network_of

FORMAT_VERSION = 1  # that of all network folders
_KEYS = ("keys", "neurons", "experts", "expert_width", "top_k", "gate", "mode")


def load_transformer(name: str | Path) -> tuple[Any, Any]:
    """Load a model of transformers in its own class, and what makes its inputs.

    Args:
        name: A folder or a hub id.

    Returns:
        The model in evaluation mode; its tokenizer or picture processor, None where there is none.

    Raises:
        ModularizeError: There is no such model, or it lacks weights.
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra="transformers") from None
    path = Path(name)
    if not path.is_dir() and (path.is_absolute() or str(name).startswith((".", "~"))):
        raise ModularizeError(
            f"{name} is no model of transformers: no such folder; give one that save_pretrained wrote, or a "
            "hub id (owner/name)"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        names = config.architectures or [""]
        base = getattr(transformers, names[0], transformers.AutoModel)
        model, loading = base.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ModularizeError(f"{name} is no model of transformers: {error}") from None
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModularizeError(f"{name} lacks weights of a {type(model).__name__}, among them {missing[0]}")
    processor = None
    for kind in (transformers.AutoTokenizer, transformers.AutoImageProcessor):
        try:
            processor = kind.from_pretrained(name)
            break
        except (OSError, ValueError, ImportError, KeyError):
            continue  # the model comes without one of this kind
    return model.eval(), processor


def save_modular(
    modular: ModularTransformer,
    folder: str | Path,
    *,
    processor: Any = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a transformer with experts as a network folder.

    Args:
        modular: A model of transformers with experts.
        folder: Folder to write; must not exist or be empty.
        processor: Tokenizer or picture processor to write beside it.
        provenance: What is worth keeping of where it comes from, JSON values.

    Returns:
        The folder.

    Raises:
        ArtifactError: The folder is taken, or the model is none of transformers.
        ModularizeError: The model is dense again.
    """
    model: Any = modular.model
    if not modular.experts:
        raise ModularizeError("this model is dense again; save it as any other")
    if not callable(getattr(model, "save_pretrained", None)) or not hasattr(model, "config"):
        raise ArtifactError(
            f"a {type(model).__name__} is no model of transformers, so a folder could not be read back; keep "
            "its state dict, which is that of an equal dense model"
        )
    target = Path(folder)
    space = json.dumps(modular.network.space.to_json()).encode()
    records = [
        {
            "keys": path,
            "neurons": experts.split.neurons,
            "experts": experts.split.subset.count,
            "expert_width": experts.split.expert_width,
            "top_k": experts.split.top_k,
            "gate": experts.split.gate,
            "mode": experts.split.mode,
        }
        for path, experts in modular.experts.items()
    ]
    with new_folder(target) as place:
        model.save_pretrained(place)
        if processor is not None:
            processor.save_pretrained(place)
        write_json(
            place / "network.json",
            {
                "format_version": FORMAT_VERSION,
                "builder": "",  # the model itself is built by transformers
                "arguments": {},
                "experts": records,
                "error": modular.error,
                "space": hashlib.sha256(space).hexdigest(),
                "provenance": dict(provenance or {}),
            },
        )
        write_bytes(place / "orders.safetensors", save(modular.orders()))
        write_manifest(place, format_version=FORMAT_VERSION, kind="network", fields={"name": target.name})
    return target


def load_modular(folder: str | Path, *, inputs: Inputs | None = None) -> ModularTransformer:
    """Load what `save_modular` wrote.

    Args:
        folder: The network folder; its hashes are verified.
        inputs: Arguments by name of one run of the model; None to make some up.

    Returns:
        The model in evaluation mode with its experts, modes and weights; `revert` gives the original order.

    Raises:
        ArtifactError: The folder is no such folder, or is altered.
        MissingExtraError: transformers is not installed.
    """
    path = Path(folder)
    read_manifest(path, format_version=FORMAT_VERSION, kind="network")
    record = read_json(path / "network.json")
    records = record.get("experts")
    if not isinstance(records, list) or not all(set(record) == set(_KEYS) for record in records):
        raise ArtifactError(f"{path} is a network folder without experts; brickyard.modularize makes such")
    try:
        model, _ = load_transformer(path)
        orders = load_file(path / "orders.safetensors")
    except (ModularizeError, SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read back: {error}") from None
    inputs = example_inputs(model) if inputs is None else inputs
    anatomy = find_anatomy(model, inputs)
    parts = {part.keys: part for layer in anatomy.layers for part in layer.feed_forwards}
    converted = [_convert(model, parts, record, orders, path) for record in records]
    found = {one.part.keys: one.experts for one in converted}
    return ModularTransformer(model, network_of(model, inputs), anatomy, found, record["error"], converted)


def _convert(
    model: nn.Module,
    parts: Mapping[str, Any],
    record: Mapping[str, Any],
    orders: Mapping[str, torch.Tensor],
    path: Path,
) -> Converted:
    part, order = parts.get(record["keys"]), orders.get(record["keys"])
    if part is None or order is None or part.neurons != record["neurons"] or len(order) != part.neurons:
        raise ArtifactError(
            f"{path}: {record['keys']} is no feed-forward network of {record['neurons']} neurons in its model"
        )
    split = ExpertSplit(
        Subset(part.keys, record["experts"], minimum=1),
        neurons=part.neurons,
        expert_width=record["expert_width"],
        top_k=record["top_k"],
        transposed=part.transposed,
        gate=record["gate"],
    )
    split.mode = record["mode"]
    gate = _gate(split, part.keys, path) if record["gate"] == "learned" else None
    return convert_(model, part, split, order=order, gate=gate)


def _gate(split: ExpertSplit, keys: str, path: Path) -> ExpertGate:
    """Return a learned gate with the weights that the folder keeps beside those of the layer."""
    start = f"{keys}.gate."
    state: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("model*.safetensors")):
        with safe_open(file, "pt") as weights:
            names = [name for name in weights.keys() if name.startswith(start)]  # noqa: SIM118
            state |= {name.removeprefix(start): weights.get_tensor(name) for name in names}
    if "project" not in state:
        raise ArtifactError(f"{path} lacks the weights of the gate of {keys}")
    gate_width, width = state["project"].shape
    gate = ExpertGate(width, split.subset, gate_width=gate_width)
    gate.load_state_dict(state)
    return gate
