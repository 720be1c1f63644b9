"""Folders of encoders with exits.

Such a network folder is a folder of transformers too, which loads the whole backbone. `network.json` says
which exits there are, `heads.safetensors` holds the heads.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from brickyard.core.errors import ArtifactError, ModularizeError
from brickyard.core.files import new_folder, write_bytes, write_json, write_manifest
from brickyard.modularize.exits import HeadKind, MultiExitEncoder, add_exits, settings_of
from brickyard.modularize.folder import (
    FORMAT_VERSION,
    NetworkRecord,
    StrictRecord,
    load_transformer,
    read_record,
)


class _Settings(StrictRecord):
    exits: Annotated[list[PositiveInt], Field(min_length=1)]
    head: HeadKind
    embed_dim: PositiveInt
    max_tokens: PositiveInt


class _ExitsRecord(NetworkRecord):
    multi_exit: _Settings


def save_exits(
    encoder: MultiExitEncoder,
    folder: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write an encoder with its exits as a network folder.

    Args:
        encoder: An encoder whose backbone is a model of transformers.
        folder: Folder to write; must not exist or be empty.
        provenance: What is worth keeping of where it comes from, JSON values.
        files: Content of further files, by path in the folder.

    Returns:
        The folder.

    Raises:
        ArtifactError: The folder is taken, or the backbone is none of transformers.
        ModularizeError: The encoder was reverted.
    """
    settings, backbone = settings_of(encoder), encoder.backbone
    if not callable(getattr(backbone, "save_pretrained", None)):
        raise ArtifactError(
            f"a {type(backbone).__name__} is no model of transformers, so a folder could not be read back; "
            "keep the state dict of `network`"
        )
    target = Path(folder)
    space = json.dumps(encoder.network.space.to_json()).encode()
    heads = encoder.network.root.get_submodule("head").state_dict()
    with new_folder(target) as place:
        whole_backbone(backbone).save_pretrained(place)
        if encoder.tokens.tokenizer is not None:
            encoder.tokens.tokenizer.save_pretrained(place)
        write_json(
            place / "network.json",
            {
                "format_version": FORMAT_VERSION,
                "builder": "",  # the backbone is built by transformers
                "arguments": {},
                "multi_exit": settings,
                "space": hashlib.sha256(space).hexdigest(),
                "provenance": dict(provenance or {}),
            },
        )
        write_bytes(
            place / "heads.safetensors", save({name: one.contiguous() for name, one in heads.items()})
        )
        for name, content in (files or {}).items():
            (place / name).parent.mkdir(exist_ok=True)
            write_bytes(place / name, content)
        write_manifest(place, format_version=FORMAT_VERSION, kind="network", fields={"name": target.name})
    return target


def whole_backbone(backbone: Any) -> Any:
    """Return a backbone of transformers with all parts that its class builds, so that it can be read back.

    Inside a model for hidden tokens, or made without, a BERT lacks its pooler, which exits do not read.

    Args:
        backbone: The backbone.

    Returns:
        The backbone itself if nothing is missing; else a copy with parts of fresh weights, always the same.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = type(backbone)(copy.deepcopy(backbone.config)).to(backbone.dtype)
    if whole.load_state_dict(backbone.state_dict(), strict=False).missing_keys:
        return whole.eval()
    return backbone


def load_exits(folder: str | Path) -> MultiExitEncoder:
    """Load what `save_exits` wrote.

    Args:
        folder: The network folder; its hashes are verified.

    Returns:
        The encoder in evaluation mode, with its tokenizer if it has one.

    Raises:
        ArtifactError: The folder is no such folder, or is altered.
        MissingExtraError: transformers is not installed.
    """
    path = Path(folder)
    record = read_record(
        path, _ExitsRecord, key="multi_exit", without="exits; save_exits writes those with exits"
    )
    try:
        model, tokenizer = load_transformer(path)
        encoder = add_exits(model, tokenizer=tokenizer, **record.multi_exit.model_dump())
        encoder.network.root.get_submodule("head").load_state_dict(load_file(path / "heads.safetensors"))
    except (ModularizeError, SafetensorError, OSError, RuntimeError) as error:
        raise ArtifactError(f"{path} cannot be read back: {error}") from None
    encoder.network.eval()
    return encoder
