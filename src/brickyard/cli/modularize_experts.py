"""`brickyard modularize experts`: the feed-forward networks of a trained transformer become experts."""

from __future__ import annotations

import copy
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from brickyard.cli.talk import say, warn
from brickyard.core.errors import ArtifactError, DataError, MissingExtraError

if TYPE_CHECKING:
    from brickyard.modularize import ModularTransformer

_BATCH, _MOST_LINES, _MOST_TOKENS = 8, 1024, 128


def modularize_experts(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Folder or hub id of a model of transformers."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="NETWORK",
            help="Network folder to write; must not exist. Default: `NAME-experts` in the current folder, "
            "NAME being that of MODEL.",
        ),
    ] = None,
    experts: Annotated[int, typer.Option(metavar="N", min=1, help="Experts of a layer.")] = 64,
    top_k: Annotated[int, typer.Option(metavar="K", min=1, help="Experts that a token uses.")] = 16,
    layers: Annotated[
        str,
        typer.Option(
            metavar="LAYERS",
            help="Which layers, counted from 0: `all`, `last:K`, `last-even:K` (the last K with even "
            "numbers), or numbers with commas between.",
        ),
    ] = "last-even:2",
    partition: Annotated[
        Literal["kmeans", "coactivation", "random", "sequential"],
        typer.Option(help="What neurons of an expert have in common: keys, activity, or nothing."),
    ] = "kmeans",
    resident: Annotated[
        int, typer.Option(metavar="N", min=0, help="Neurons of a layer that every token uses.")
    ] = 0,
    sample: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Lines of text, for --resident and `--partition coactivation`; the first 1,024 lines and "
            "128 tokens of each count.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Seed of the partition.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a record instead of lines.")] = False,
) -> None:
    """Split the feed-forward networks of a trained transformer into experts; weights are kept.

    Writes a network folder, which transformers loads as the equal dense model, and brickyard with its
    experts, to train and use them, to cut some out, or to go back.
    """
    for library, extra in (("torch", "train"), ("sklearn", "train"), ("transformers", "transformers")):
        if find_spec(library) is None:
            raise MissingExtraError(library, extra=extra)
    if out is None:
        out = Path(f"{Path(model).absolute().name}-experts")
    if out.exists():
        raise ArtifactError(f"{out} already exists; choose another folder by --out, or remove it first")
    from brickyard.modularize import load_modular, load_transformer, modularize_transformer, save_modular
    from brickyard.modularize.intake import token_limit

    lines = None if sample is None else _lines(sample)
    dense, processor = load_transformer(model)
    if (Path(model) / "network.json").is_file():
        dense = load_modular(model).revert().eval()
        say(f"{model} has experts already; its neurons are back in their first order, and are split anew")
    settings: dict[str, Any] = {
        "experts": experts,
        "top_k": top_k,
        "layers": layers,
        "partition": partition,
        "resident": resident,
        "seed": seed,
    }
    if lines is not None and not resident and partition != "coactivation":
        raise DataError("--sample is read for --resident and --partition coactivation alone; leave it out")
    most = min(_MOST_TOKENS, token_limit(dense) or _MOST_TOKENS)
    batches = None if lines is None else _batches(lines, processor, model, most=most)
    if batches is not None and dense.config.is_encoder_decoder:
        batches = [{**batch, "decoder_input_ids": batch["input_ids"]} for batch in batches]
    with warnings.catch_warnings(record=True) as caught:
        modular = modularize_transformer(dense, **settings, sample=batches)
    for text in dict.fromkeys(str(one.message) for one in caught):
        warn(text)
    save_modular(modular, out, processor=processor, provenance={"model": model, **settings})
    record = _record(modular)
    if as_json:
        typer.echo(json.dumps({**record, "folder": str(out)}))
        return
    typer.echo(f"{out}: with all experts, outputs within {record['error']:.1e} of the original")
    for path, part in record["layers"].items():
        always = f", {part['resident']} for every token" if part["resident"] else ""
        sizes = f"{part['experts']} experts of {part['expert_width']} neurons"
        typer.echo(f"  {path}: {sizes}, {top_k} for a token{always}")


def _lines(path: Path) -> list[str]:
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path} is not a file; expected lines of text") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error}") from None
    kept = [line for line in found if line][:_MOST_LINES]
    if not kept:
        raise DataError(f"{path} holds no lines; expected one text a line")
    return kept


def _batches(lines: list[str], processor: Any, model: str, *, most: int) -> list[dict[str, Any]]:
    """Tokenise lines, a few at a time; of each line the first tokens."""
    if processor is None or not hasattr(processor, "convert_tokens_to_ids"):
        raise DataError(f"{model} comes without a tokenizer, so --sample cannot be read; leave it out")
    if processor.pad_token is None:
        processor = copy.deepcopy(processor)  # what is written beside the network stays as it was
        processor.pad_token = processor.eos_token or processor.unk_token
    if processor.pad_token is None:
        raise DataError(f"the tokenizer of {model} has no token to pad texts with; set its pad_token")
    how = {"padding": True, "truncation": True, "max_length": most, "return_tensors": "pt"}
    starts = range(0, len(lines), _BATCH)
    return [dict(processor(lines[start : start + _BATCH], **how)) for start in starts]


def _record(modular: ModularTransformer) -> dict[str, Any]:
    """Return what the layers became, JSON values."""
    parts = {
        path: {
            "experts": experts.split.subset.count,
            "expert_width": experts.split.expert_width,
            "resident": experts.split.resident,
        }
        for path, experts in modular.experts.items()
    }
    return {"error": modular.error, "layers": parts}
