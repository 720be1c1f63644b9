"""Knows how those parts of the folder of real data are laid out that streams of tasks are made of."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from functools import cache

import numpy as np
import numpy.typing as npt
from _adaptor import Labelled, _labelled, _needed
from PIL import Image

Letters = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Pictures `[count, 28, 28]`, bright on dark, the character of each, and who drew it."""


@cache
def omniglot() -> dict[str, Letters]:
    """Read the alphabets of Omniglot's two small parts: 20 drawings of each character.

    Returns:
        Eight alphabets by name, in the order of the alphabet.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    found: dict[str, dict[tuple[str, int], npt.NDArray[np.uint8]]] = {}
    for part in ("small1", "small2"):
        with zipfile.ZipFile(_needed("omniglot_small", f"images_background_{part}.zip")) as archive:
            for name in archive.namelist():
                if name.endswith(".png"):
                    _, alphabet, character, file = name.split("/")
                    with Image.open(io.BytesIO(archive.read(name))) as image:
                        small = image.convert("L").resize((28, 28), Image.Resampling.BOX)
                    key = character, int(file.removesuffix(".png").split("_")[1])
                    found.setdefault(alphabet, {})[key] = 255 - np.asarray(small)
    letters: dict[str, Letters] = {}
    for alphabet, drawings in sorted(found.items()):
        keys = sorted(drawings)
        characters = sorted({character for character, _ in keys})
        letters[alphabet] = (
            np.stack([drawings[key] for key in keys]),
            np.array([characters.index(character) for character, _ in keys]),
            np.array([drawer for _, drawer in keys]),
        )
    return letters


@cache
def five_text_sets() -> dict[str, dict[str, Labelled]]:
    """Read five sets of texts and classes, in the order in which they are learned.

    News by subject (AG News; of its test set, the first 1,600 are tested on), film reviews good or bad, kinds
    of questions (TREC), opinions or plots, requests to a bank (Banking77). Where a set comes without a part
    to test on, a fifth is drawn.

    Returns:
        `train` and `test` by name.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    content = _needed("text_cls_research", "agnews_test7600.csv.gz").read_bytes()
    table = csv.reader(io.StringIO(gzip.decompress(content).decode()))
    news: list[tuple[tuple[str, ...], int]] = [
        ((f"{title} {text}",), int(label) - 1) for label, title, text in table
    ]
    found = {"news": {"train": _labelled(news[1600:]), "test": _labelled(news[:1600])}}
    pairs = {
        "reviews": ("sentence_polarity", ("rt-polarity.neg", "rt-polarity.pos")),
        "opinions": ("subjectivity", ("plot.tok.gt9.5000", "quote.tok.gt9.5000")),
    }
    for name, (folder, files) in pairs.items():
        rows: list[tuple[tuple[str, ...], int]] = []
        with zipfile.ZipFile(_needed("text_cls_ccby", f"{folder}.zip")) as archive:
            for label, file in enumerate(files):
                lines = archive.read(f"{folder}/{file}").decode("latin-1").splitlines()
                rows += [((line,), label) for line in lines if line.strip()]
        order = np.random.default_rng(0).permutation(len(rows))
        rows = [rows[place] for place in order]
        fifth = len(rows) // 5
        found[name] = {"train": _labelled(rows[fifth:]), "test": _labelled(rows[:fifth])}
    found["questions"] = {}
    with zipfile.ZipFile(_needed("text_cls_research", "qc.zip")) as archive:
        for part in ("train", "test"):
            lines = archive.read(f"qc/{part}.txt").decode("latin-1").splitlines()
            kinds = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
            split = [line.split(" ", 1) for line in lines if line.strip()]
            found["questions"][part] = _labelled(
                [((text,), kinds.index(kind.split(":")[0])) for kind, text in split]
            )
    intents = json.loads(_needed("text_cls_ccby", "banking77_categories.json").read_text())
    found["bank"] = {}
    for part in ("train", "test"):
        content = _needed("text_cls_ccby", f"banking77_{part}.csv.gz").read_bytes()
        records = csv.DictReader(io.StringIO(gzip.decompress(content).decode()))
        found["bank"][part] = _labelled(
            [((record["text"],), intents.index(record["category"])) for record in records]
        )
    return {name: found[name] for name in ("news", "reviews", "questions", "opinions", "bank")}
