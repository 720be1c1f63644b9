"""Passages of many kinds for maps: one kind is one function. The folder of real data holds their sources.

Passages of a kind are lines of its source, joined until they have the wanted number of tokens, where reading
stops; so no kind can be told by its length.
"""

from __future__ import annotations

import gzip
import json
import random
import zipfile
from collections.abc import Sequence
from typing import Any

from _adaptor import _needed

DISTINCT = ("plays", "captions", "German", "Python", "reviews", "requests")
"""Kinds that differ in form, chosen before anything was measured."""
RELATED = ("French", "docstrings")
"""Kinds that share much with one of these: French captions with German ones, docstrings with Python."""
KINDS = (*DISTINCT, *RELATED)


def _text(*parts: str) -> str:
    return gzip.decompress(_needed(*parts).read_bytes()).decode()


def sources() -> dict[str, list[str]]:
    """Return the lines, or short texts, of each kind; captions of the languages are of different pictures.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks them.
    """
    captions = {
        language: _text("multi30k", f"train.{language}.gz").splitlines()[place::3]
        for place, language in enumerate(("en", "de", "fr"))
    }
    functions = [
        json.loads(line)
        for line in _text("stdlib_docstring_code", "python3.11_stdlib_pairs.jsonl.gz").splitlines()
    ]
    with zipfile.ZipFile(_needed("text_cls_ccby", "sentence_polarity.zip")) as archive:
        reviews = "\n".join(
            archive.read(f"sentence_polarity/rt-polarity.{end}").decode("latin1") for end in ("pos", "neg")
        )
    requests = json.loads(_text("text_cls_ccby", "clinc150_data_full.json.gz"))["train"]
    found = {
        "plays": _text("tinyshakespeare", "input.txt.gz").split("\n\n"),
        "captions": captions["en"],
        "German": captions["de"],
        "Python": [one["code"] for one in functions[::2]],
        "reviews": reviews.splitlines(),
        "requests": [text for text, _ in requests],
        "French": captions["fr"],
        "docstrings": [one["doc"] for one in functions[1::2]],
    }
    return {kind: list(dict.fromkeys(text.strip() for text in found[kind] if text.strip())) for kind in KINDS}


def passages(
    lines: dict[str, list[str]], tokenizer: Any, *, count: int, tokens: int, seed: int
) -> tuple[list[str], list[int]]:
    """Draw passages of each kind.

    Args:
        lines: Lines of each kind.
        tokenizer: A tokenizer of transformers.
        count: Passages of a kind.
        tokens: Least tokens of one.
        seed: Seed of the draw.

    Returns:
        The passages, and the place of each one's kind in `KINDS`.
    """
    texts: list[str] = []
    labels: list[int] = []
    for label, kind in enumerate(KINDS):
        drawn = list(lines[kind])
        random.Random(seed).shuffle(drawn)
        made = _joined(drawn, tokenizer, count=count, tokens=tokens)
        if len(made) < count:
            raise ValueError(f"{kind} gives only {len(made)} passages of {tokens} tokens, wanted: {count}")
        texts += made
        labels += [label] * count
    return texts, labels


def _joined(lines: Sequence[str], tokenizer: Any, *, count: int, tokens: int) -> list[str]:
    made: list[str] = []
    current: list[str] = []
    for line in lines:
        current.append(line)
        ids = tokenizer("\n".join(current), truncation=True, max_length=tokens)["input_ids"]
        if len(ids) == tokens:
            made.append("\n".join(current))
            current = []
            if len(made) == count:
                break
    return made
