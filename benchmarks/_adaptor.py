"""Knows, with `_adaptor_streams` alone, how the folder of real data is laid out; no part of the repository.

The folder is named by `--data DIR` or the environment variable BRICKYARD_DATA. Without it, what needs it
is left out.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import io
import json
import lzma
import os
import re
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from brickyard.core.files import new_folder, write_bytes
from brickyard.core.task import Vocabulary
from brickyard.data.examples import Examples, Preprocess
from brickyard.data.source import DataSource, load_data
from brickyard.data.texts import Pairs, PairSource, Texts, TextSource

VARIABLE = "BRICKYARD_DATA"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def data_folder() -> Path | None:
    """Return the folder of real data, None if there is none."""
    name = os.environ.get(VARIABLE)
    return Path(name) if name and Path(name).is_dir() else None


def has_cifar10() -> bool:
    """Tell whether CIFAR-10 is at hand."""
    folder = data_folder()
    return folder is not None and (folder / "cifar10_jpeg" / "train.npz").is_file()


def _decode(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16], tuple[str, ...]]:
    with np.load(path, allow_pickle=False) as file:
        content, offsets, labels, names = (file[name] for name in ("data", "offsets", "labels", "names"))
    images = np.empty((len(labels), 32, 32, 3), dtype=np.uint8)
    for place in range(len(labels)):
        with Image.open(io.BytesIO(content[offsets[place] : offsets[place + 1]].tobytes())) as image:
            images[place] = np.asarray(image.convert("RGB"))
    return images, labels.astype(np.int16), tuple(str(name) for name in names)


@cache
def cifar10() -> DataSource:
    """Decode CIFAR-10 in its JPEG version: 50,000 pictures to train on, 10,000 to test on.

    Returns:
        The data, classes by name.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    folder = data_folder()
    if folder is None or not has_cifar10():
        raise FileNotFoundError(f"no CIFAR-10 here: name the folder of real data by --data DIR or {VARIABLE}")
    parts = {}
    for part in ("train", "test"):
        images, labels, names = _decode(folder / "cifar10_jpeg" / f"{part}.npz")
        parts[part] = Examples(images, labels.reshape(-1, 1, 1))
    return DataSource(
        "cifar10",
        Vocabulary("classes", {"class": names}),
        Preprocess(32, 32, 3, _MEAN, _STD),
        parts["train"],
        parts["test"],
        {"kind": "images", "location": "CIFAR-10, JPEG of quality 75"},
    )


def has_bccd() -> bool:
    """Tell whether the blood cells are at hand."""
    folder = data_folder()
    return folder is not None and (folder / "bccd" / "BCCD.zip").is_file()


def bccd(target: Path) -> DataSource:
    """Unpack and load the blood cells (BCCD): 364 pictures, three kinds of cells, with their own split.

    Args:
        target: Folder to unpack into, kept if it exists.

    Returns:
        The data, 292 pictures to train on and 72 to test on, brought to 320 x 240 pixels.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks them.
    """
    folder = data_folder()
    if folder is None or not has_bccd():
        raise FileNotFoundError(f"no BCCD here: name the folder of real data by --data DIR or {VARIABLE}")
    if not target.is_dir():
        with new_folder(target) as fresh, zipfile.ZipFile(folder / "bccd" / "BCCD.zip") as archive:
            archive.extractall(fresh)
    source = load_data(target / "BCCD", job="detect", size=(240, 320))
    return replace(source, spec={**source.spec, "location": "BCCD"})


def resnet20_weights(target: Path) -> Path | None:
    """Rewrite the trained ResNet-20 with the names of this package's `resnet20`.

    Its shortcuts take every other pixel and pad with channels of zeros; that is a 1x1 convolution of
    stride 2.

    Args:
        target: File of safetensors to write, kept if it exists.

    Returns:
        `target`; None where the weights are not at hand.
    """
    import torch
    from safetensors.torch import load_file, save

    folder = data_folder()
    source = None if folder is None else folder / "weights" / "resnet20_cifar10.safetensors"
    if target.is_file():
        return target
    if source is None or not source.is_file():
        return None
    state = {}
    for name, value in load_file(source).items():
        layer, _, rest = name.partition(".")
        if layer.startswith("layer"):
            block, _, rest = rest.partition(".")
            name = f"stages.{int(layer[-1]) - 1}.{block}.body.{rest.replace('bn', 'norm')}"
        else:
            places = {"conv1": "stem.conv", "bn1": "stem.norm", "linear": "head.linear"}
            name = f"{places[layer]}.{rest}"
        state[name] = value
    for stage, width in ((1, 32), (2, 64)):
        weight = torch.zeros(width, width // 2, 1, 1)
        weight[torch.arange(width // 2) + width // 4, torch.arange(width // 2)] = 1.0
        prefix = f"stages.{stage}.0.shortcut"
        state[f"{prefix}.conv.weight"] = weight
        for name, number in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            state[f"{prefix}.norm.{name}"] = torch.full((width,), number)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, save(state))
    return target


def resnet56_weights() -> Path:
    """Return the file of the trained ResNet-56, made for the code in `cifar_resnet.py`.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    path = (data_folder() or Path()) / "weights" / "resnet56_cifar10.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"no ResNet-56 here: name the folder of real data by --data DIR or {VARIABLE}"
        )
    return path


def nb201() -> Path | None:
    """Return the table of NAS-Bench-201 with latencies and energies, None where it is not at hand."""
    path = (data_folder() or Path()) / "nb201_hw" / "nb201_hw.npz"
    return path if path.is_file() else None


def _needed(*parts: str) -> Path:
    """Return a file or folder of real data.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    folder = data_folder()
    path = None if folder is None else folder.joinpath(*parts)
    if path is None or not path.exists():
        name = "/".join(parts)
        raise FileNotFoundError(f"no {name} here: name the folder of real data by --data DIR or {VARIABLE}")
    return path


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag")


@cache
def fashion_mnist() -> DataSource:
    """Read Fashion-MNIST: 60,000 grey pictures of 28 pixels to train on, 10,000 to test on.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    folder = _needed("fashion_mnist")
    parts = {}
    for part in ("train", "test"):
        images, labels = (
            np.load(io.BytesIO(lzma.decompress((folder / f"{part}_{kind}.npy.xz").read_bytes())))
            for kind in ("images", "labels")
        )
        parts[part] = Examples(
            images.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int16).reshape(-1, 1, 1)
        )
    return DataSource(
        "fashion_mnist",
        Vocabulary("classes", {"class": (*_CLOTHES, "Ankle boot")}),
        Preprocess(28, 28, 1, (0.286,), (0.353,)),
        parts["train"],
        parts["test"],
        {"kind": "images", "location": "Fashion-MNIST"},
    )


@cache
def clinc150() -> TextSource:
    """Read CLINC150: 15,000 requests of 150 intents to train on, 4,500 to test on; none out of scope.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    intents, (train, test) = _clinc150("train", "test")
    spec = {"kind": "texts", "location": "CLINC150"}
    return TextSource("clinc150", Vocabulary("classes", {"class": intents}), train, test, spec)


def clinc150_validation() -> Texts:
    """Read the 3,000 requests of CLINC150 that `clinc150` has neither to train on nor to test on.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    return _clinc150("val")[1][0]


def _clinc150(*parts: str) -> tuple[tuple[str, ...], list[Texts]]:
    """Return the intents and parts of CLINC150."""
    path = _needed("text_cls_ccby", "clinc150_data_full.json.gz")
    record = json.loads(gzip.decompress(path.read_bytes()))
    intents = sorted({intent for _, intent in record["train"]})
    place = {intent: number for number, intent in enumerate(intents)}
    return tuple(intents), [
        Texts(
            tuple(text for text, _ in record[part]), np.array([place[intent] for _, intent in record[part]])
        )
        for part in parts
    ]


@cache
def multi30k() -> PairSource:
    """Read Multi30k from English to German: 29,000 captions to train on, 1,000 of the test set of 2016.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    spec = {"kind": "pairs", "location": "Multi30k, English to German"}
    return PairSource("multi30k", _multi30k("train"), _multi30k("test_2016_flickr"), spec)


def multi30k_of_2017() -> Pairs:
    """Read the 1,000 captions of the test set of 2017, English to German.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    return _multi30k("test_2017_flickr")


def _multi30k(part: str) -> Pairs:
    folder, sides = _needed("multi30k"), []
    for language in ("en", "de"):
        text = gzip.decompress((folder / f"{part}.{language}.gz").read_bytes()).decode()
        sides.append(tuple(line.strip() for line in text.removesuffix("\n").split("\n")))
    return Pairs(*sides)


@cache
def mnist() -> tuple[
    npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int64]
]:
    """Read MNIST: 20,000 of its grey pictures of 28 pixels to train on, 10,000 to test on.

    Returns:
        Pictures `[count, 28, 28]` and digits `[count]` to train on, and the same to test on.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    folder = _needed("mnist")
    parts = [
        np.load(io.BytesIO(lzma.decompress((folder / f"{name}.npy.xz").read_bytes())))
        for name in ("train20k_images", "train20k_labels", "test_images", "test_labels")
    ]
    return parts[0], parts[1].astype(np.int64), parts[2], parts[3].astype(np.int64)


Labelled = tuple[tuple[tuple[str, ...], ...], npt.NDArray[np.int64]]
"""Texts, or pairs of texts, and their classes."""


@cache
def cola() -> dict[str, Labelled]:
    """Read CoLA: sentences and whether they are acceptable, 8,551 to train on.

    Returns:
        `train`, `test` (of the same sources, 527) and `other` (of other sources, 516).

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    names = {"train": "in_domain_train", "test": "in_domain_dev", "other": "out_of_domain_dev"}
    found = {}
    for part, name in names.items():
        rows = [line.split("\t") for line in _lines("text_cls_research", f"cola_{name}.tsv.gz")]
        found[part] = _labelled([((row[3],), int(row[1])) for row in rows])
    return found


@cache
def sst2() -> dict[str, Labelled]:
    """Read SST-2: sentences of film reviews, good or bad, 6,920 to train on.

    Returns:
        `train`, `test` (872), and `other`: 800 praises and complaints of buyers of goods.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    found = {}
    for part, name in {"train": "train", "test": "dev"}.items():
        lines = [line.rsplit("\t", 1) for line in _lines("text_cls_research", f"sst2_{name}.tsv.gz")]
        found[part] = _labelled([((text,), int(label)) for text, label in lines])
    rows: list[tuple[tuple[str, ...], int]] = []
    with zipfile.ZipFile(_needed("text_cls_ccby", "pros_cons.zip")) as archive:
        for label, name in enumerate(("Cons", "Pros")):
            text = archive.read(f"pros_cons/Integrated{name}.txt").decode("latin-1")
            every = sorted(set(re.findall(rf"<{name}>(.*?)</{name}>", text)))
            some = [one for one in every if len(one.split()) >= 4]
            chosen = np.random.default_rng(0).permutation(len(some))[:400]
            rows += [((html.unescape(some[place]),), label) for place in chosen]
    found["other"] = _labelled(rows)
    return found


@cache
def rte() -> dict[str, Labelled]:
    """Read the first three challenges of textual entailment: pairs of a text and what may follow from it.

    Returns:
        `train` (3,367 different ones: the development sets of all three, the test sets of the first two) and
        `test` (the test set of the third, 800).

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    parts = {"train": ("rte1_dev", "rte2_dev", "rte3_dev", "rte1_test", "rte2_test"), "test": ("rte3_test",)}
    found = {}
    with zipfile.ZipFile(_needed("text_cls_research", "rte.zip")) as archive:
        for part, names in parts.items():
            rows = {}
            for name in names:
                for pair in ElementTree.fromstring(archive.read(f"rte/{name}.xml")).iter("pair"):
                    texts = tuple((pair.findtext(side) or "").strip() for side in ("t", "h"))
                    rows[texts] = int((pair.get("value") or pair.get("entailment")) in ("TRUE", "YES"))
            found[part] = _labelled(list(rows.items()))
    return found


def _lines(folder: str, name: str) -> list[str]:
    return gzip.decompress(_needed(folder, name).read_bytes()).decode().removesuffix("\n").split("\n")


def _labelled(rows: list[tuple[tuple[str, ...], int]]) -> Labelled:
    return tuple(texts for texts, _ in rows), np.array([label for _, label in rows])


@cache
def stdlib_pairs(test: int = 649, validation: int = 300) -> dict[str, list[tuple[str, str]]]:
    """Read docstrings with their functions, from the standard library of Python; split by file.

    The name of a function is `f` wherever it stands in its code, so that no docstring finds it by the name.
    Of equal docstrings or functions one pair is kept. Files come in the order of the hashes of their paths;
    each goes to the test pairs, else to the validation pairs, while it does not overfill them.

    Args:
        test: Pairs to test on.
        validation: Pairs to choose settings by.

    Returns:
        (docstring, function) by `test`, `validation` and `train`.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks it.
    """
    path = _needed("stdlib_docstring_code", "python3.11_stdlib_pairs.jsonl.gz")
    files: dict[str, list[tuple[str, str]]] = {}
    seen: set[str] = set()
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        record = json.loads(line)
        code = re.sub(rf"\b{re.escape(record['name'])}\b", "f", record["code"])
        if record["doc"] not in seen and code not in seen:
            seen |= {record["doc"], code}
            files.setdefault(record["path"], []).append((record["doc"], code))
    parts: dict[str, list[tuple[str, str]]] = {"test": [], "validation": [], "train": []}
    room = {"test": test, "validation": validation, "train": len(seen)}
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        fits = (part for part in parts if len(parts[part]) + len(files[name]) <= room[part])
        parts[next(fits)] += files[name]
    return parts


@cache
def cosqa(others: int | None = 1000) -> tuple[list[str], list[str], list[int]]:
    """Read the test queries of CoSQA, people's searches, with the functions that answer them.

    Args:
        others: Functions that answer none of the queries, drawn at random; None for all of them.

    Returns:
        500 queries, the functions, and the place of the function of each query.

    Raises:
        FileNotFoundError: The folder of real data is not named, or lacks them.
    """
    parts = ("cosqa-retrieval-test-500.json.gz", "code_idx_map.json.gz")
    records, places = (json.loads(gzip.decompress(_needed("cosqa", name).read_bytes())) for name in parts)
    right = {record["code"] for record in records}
    rest = [code for code in places if code not in right]
    if others is not None:
        rest = [rest[place] for place in np.random.default_rng(0).permutation(len(rest))[:others]]
    functions = [*dict.fromkeys(record["code"] for record in records), *rest]
    number = {code: place for place, code in enumerate(functions)}
    return [record["doc"] for record in records], functions, [number[record["code"]] for record in records]
