"""Folders of transformers with experts.

Such a network folder is a folder of `transformers` as well, which loads it as the equal dense model: its
`config.json` and `model.safetensors` are written by that library. `network.json` says which experts there
are, `orders.safetensors` which neuron stood where in the original; `gates.safetensors` holds learned gates.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from brickyard.bricks.experts import ExpertGate, ExpertSplit
from brickyard.core.decision import Subset
from brickyard.core.errors import ArtifactError, MissingExtraError, ModularizeError
from brickyard.core.feed_forward import Gate, Mode
from brickyard.core.files import new_folder, read_json, read_manifest, write_bytes, write_json, write_manifest
from brickyard.modularize.conversion import Converted, convert_
from brickyard.modularize.intake import Inputs, example_inputs, find_anatomy
from brickyard.modularize.transformer import ModularTransformer, adapters, network_of

FORMAT_VERSION = 1  # that of all network folders
_VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
)
_TOKENIZER_FILES = ("tokenizer_config.json", *_VOCABULARIES)
_PICTURES = "preprocessor_config.json"
_AGAIN = "copy or make the folder again"


class StrictRecord(BaseModel):
    """A frozen part of a network folder's JSON; other keys and values of other types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_Kind = TypeVar("_Kind", bound=StrictRecord)


class _Manifest(StrictRecord):
    kind: Literal["network"]
    format_version: Literal[1]
    name: str
    sha256: dict[str, str]


class NetworkRecord(StrictRecord):
    """What `network.json` says of any network whose model is built by transformers."""

    format_version: Literal[1]
    builder: Literal[""]
    arguments: Annotated[dict[str, Any], Field(max_length=0)]
    space: str
    provenance: dict[str, Any]


class _Split(StrictRecord):
    keys: str
    neurons: PositiveInt
    experts: PositiveInt
    expert_width: PositiveInt
    top_k: PositiveInt
    gate: Gate
    mode: Mode
    active: list[int] | None = None  # experts that are there; all

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.experts * self.expert_width > self.neurons:
            raise ValueError("experts times expert_width must not be above neurons")
        if self.top_k > self.experts:
            raise ValueError("top_k must not be above experts")
        active = range(self.experts) if self.active is None else self.active
        if not active or list(active) != sorted({*active} & {*range(self.experts)}):
            raise ValueError("active must be one or more ascending numbers below experts")
        return self


class _ExpertsRecord(NetworkRecord):
    experts: Annotated[list[_Split], Field(min_length=1)]
    error: Annotated[float, Field(ge=0, allow_inf_nan=False)]


def load_transformer(name: str | Path) -> tuple[Any, Any]:
    """Load a model of transformers in its own class, and what makes its inputs.

    Args:
        name: A folder or a hub id.

    Returns:
        The model in evaluation mode; its tokenizer or picture processor, None where there is none.

    Raises:
        ModularizeError: There is no such model, it lacks weights, or files of it or of its tokenizer are
            damaged.
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
    except Exception as error:  # of many kinds, for files that are absent, damaged or do not fit each other
        raise ModularizeError(
            f"{name} is no model of transformers that can be loaded ({type(error).__name__}: {error}); give "
            "a whole folder that save_pretrained wrote, or a hub id (owner/name)"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModularizeError(f"{name} lacks weights of a {type(model).__name__}, among them {missing[0]}")
    tokenizer = _tokenizer(name)
    return model.eval(), _picture_processor(name) if tokenizer is None else tokenizer


def _tokenizer(name: str | Path) -> Any:
    """Load a tokenizer, None where the model has no files of one.

    Raises:
        ModularizeError: It has some, and they give no tokenizer.
    """
    from transformers import AutoTokenizer

    def held() -> str:
        return ", ".join(file for file in _TOKENIZER_FILES if _holds(name, file))

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # its library raises errors of no kind of their own
        if not held():
            return None
        raise ModularizeError(
            f"the tokenizer of {name} cannot be loaded from {held()} ({type(error).__name__}: {error}); save "
            "it again, or take all its files away to go without one"
        ) from error
    # transformers makes up a tokenizer without words where the files of its vocabulary are absent
    needed = set(tokenizer.vocab_files_names.values())
    if not needed or any(_holds(name, file) for file in {*needed, *_VOCABULARIES}):
        return tokenizer
    if not held():
        return None
    raise ModularizeError(
        f"the tokenizer of {name} has {held()} but no vocabulary, such as tokenizer.json; save it again, or "
        "take all its files away to go without one"
    )


def _picture_processor(name: str | Path) -> Any:
    """Load a picture processor, None where the model has none.

    Raises:
        ModularizeError: Its file is there and cannot be loaded.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
    except ValueError:  # the file tells of something else than pictures
        return None
    except Exception as error:
        if not _holds(name, _PICTURES):
            return None
        raise ModularizeError(
            f"{_PICTURES} of {name} cannot be loaded ({type(error).__name__}: {error}); copy or save it "
            "again, or take it away to go without one"
        ) from error


def _holds(name: str | Path, file: str) -> bool:
    """Tell whether a folder, or what the hub gave of a model, holds a file."""
    if Path(name).is_dir():
        return (Path(name) / file).is_file()
    return isinstance(try_to_load_from_cache(str(name), file), str)


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
        ModularizeError: The model is dense again, or has adapters.
    """
    model: Any = modular.model
    if not modular.experts:
        raise ModularizeError("this model is dense again; save it as any other")
    if adapted := adapters(model):
        raise ModularizeError(
            f"{len(adapted)} parts of this model have adapters, {adapted[0]} the first, which no network "
            "folder keeps; merge them before (merge_and_unload)"
        )
    if not callable(getattr(model, "save_pretrained", None)) or not hasattr(model, "config"):
        raise ArtifactError(
            f"a {type(model).__name__} is no model of transformers, so a folder could not be read back; keep "
            "its state dict, which is that of an equal dense model"
        )
    target = Path(folder)
    space = json.dumps(modular.network.space.to_json()).encode()
    active = modular.network.space.active()
    records = [
        {
            "keys": path,
            "neurons": experts.split.neurons,
            "experts": experts.split.subset.count,
            "expert_width": experts.split.expert_width,
            "top_k": experts.split.top_k,
            "gate": experts.split.gate,
            "mode": experts.split.mode,
            "active": list(active[path]),
        }
        for path, experts in modular.experts.items()
    ]
    gates = {
        f"{path}.gate.{name}": weight
        for path, experts in modular.experts.items()
        if experts.gate is not None
        for name, weight in experts.gate.state_dict().items()
    }
    with new_folder(target) as place:
        _save_model(model, gates, place)
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
        if gates:
            write_bytes(place / "gates.safetensors", save(gates))
        write_manifest(place, format_version=FORMAT_VERSION, kind="network", fields={"name": target.name})
    return target


def require_rebuilt(model: Any) -> None:
    """Refuse a model of transformers that its config does not build, so that no folder could be read back.

    Args:
        model: The model.

    Raises:
        ModularizeError: Its class builds weights of other shapes from its config.
    """
    with torch.device("meta"):
        again = type(model)(copy.deepcopy(model.config))
    built = {name: weight.shape for name, weight in again.named_parameters()}
    for name, weight in model.named_parameters():
        if built.get(name) != weight.shape:
            raise ModularizeError(
                f"{name} of this {type(model).__name__} has the shape {list(weight.shape)}, which its config "
                "cannot tell, so no folder could be read back; use the model in memory, from Python"
            )


def _save_model(model: Any, gates: Mapping[str, torch.Tensor], place: Path) -> None:
    """Write a model by transformers, without the gates, for which that library has no names."""
    if gates:
        state = {name: weight for name, weight in model.state_dict().items() if name not in gates}
        model.save_pretrained(place, state_dict=state)
    else:
        model.save_pretrained(place)


def load_modular(folder: str | Path, *, inputs: Inputs | None = None) -> ModularTransformer:
    """Load what `save_modular` wrote.

    Args:
        folder: The network folder; its hashes are verified.
        inputs: Arguments by name of one run of the model; None to make some up.

    Returns:
        The model in evaluation mode with its experts, modes, active subnet and weights; `revert` gives the
        original order.

    Raises:
        ArtifactError: The folder is no such folder, or is altered.
        MissingExtraError: transformers is not installed.
    """
    path = Path(folder)
    record = read_record(
        path, _ExpertsRecord, key="experts", without="experts; brickyard.modularize makes such"
    )
    try:
        model, _ = load_transformer(path)
        orders = load_file(path / "orders.safetensors")
    except (ModularizeError, SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read back: {error}") from None
    _check_orders(record.experts, orders, path)
    inputs = example_inputs(model) if inputs is None else inputs
    anatomy = find_anatomy(model, inputs)
    parts = {part.keys: part for layer in anatomy.layers for part in layer.feed_forwards}
    converted = [_convert(model, parts, split, orders[split.keys], path) for split in record.experts]
    found = {one.part.keys: one.experts for one in converted}
    network = network_of(model, inputs)
    network.configure({split.keys: tuple(split.active or range(split.experts)) for split in record.experts})
    return ModularTransformer(model, network, anatomy, found, record.error, converted)


def read_record(folder: Path, kind: type[_Kind], *, key: str, without: str) -> _Kind:
    """Read and check `manifest.json` and `network.json` of a network folder.

    Args:
        folder: The folder; its hashes are verified.
        kind: What `network.json` must hold.
        key: The key that other network folders lack.
        without: What they lack, and what makes it, for the message.

    Raises:
        ArtifactError: The folder is altered or lacks the key, or a key or value is not allowed.
    """
    manifest = read_manifest(folder, format_version=FORMAT_VERSION, kind="network")
    _checked(_Manifest, manifest, folder / "manifest.json")
    record = read_json(folder / "network.json")
    if isinstance(record, dict) and key not in record:
        raise ArtifactError(f"{folder} is a network folder without {without}")
    return _checked(kind, record, folder / "network.json")


def _checked(kind: type[_Kind], record: Any, file: Path) -> _Kind:
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        came = "" if first["type"] == "missing" else f" = {short(first['input'])}"
        raise ArtifactError(f"{file} is malformed ({where}{came}: {first['msg']}); {_AGAIN}") from None


def _check_orders(splits: Sequence[_Split], orders: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse orders that are not one permutation for each feed-forward network."""
    keys = [split.keys for split in splits]
    if sorted(keys) != sorted(orders):
        raise ArtifactError(
            f"{path}: network.json tells of experts in {sorted(keys)}, orders.safetensors of "
            f"{sorted(orders)}; both must name the same, each once: {_AGAIN}"
        )
    for split in splits:
        order = orders[split.keys]
        wanted = torch.arange(split.neurons)
        if order.dtype != wanted.dtype or not torch.equal(order.sort().values, wanted):
            raise ArtifactError(
                f"{path}: the order of {split.keys} is no permutation of {split.neurons} neurons; {_AGAIN}"
            )


def _convert(
    model: nn.Module, parts: Mapping[str, Any], record: _Split, order: torch.Tensor, path: Path
) -> Converted:
    part = parts.get(record.keys)
    if part is None or part.neurons != record.neurons:
        raise ArtifactError(
            f"{path}: {record.keys} is no feed-forward network of {record.neurons} neurons in its model; "
            f"{_AGAIN}"
        )
    split = ExpertSplit(
        Subset(part.keys, record.experts, minimum=1),
        neurons=part.neurons,
        expert_width=record.expert_width,
        top_k=record.top_k,
        transposed=part.transposed,
        gate=record.gate,
    )
    split.mode = record.mode
    gate = _gate(split, part.keys, path) if record.gate == "learned" else None
    return convert_(model, part, split, order=order, gate=gate)


def _gate(split: ExpertSplit, keys: str, path: Path) -> ExpertGate:
    """Return a learned gate with the weights that the folder keeps."""
    start, file = f"{keys}.gate.", path / "gates.safetensors"
    try:
        weights = load_file(file) if file.is_file() else {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}; {_AGAIN}") from None
    state = {name.removeprefix(start): weight for name, weight in weights.items() if name.startswith(start)}
    if "project" not in state:
        raise ArtifactError(f"{path} lacks the weights of the gate of {keys}")
    try:
        gate_width, width = state["project"].shape
        gate = ExpertGate(width, split.subset, gate_width=gate_width)
        gate.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: the weights of the gate of {keys} do not fit {split.subset.count} experts ({error}); "
            f"{_AGAIN}"
        ) from None
    return gate
