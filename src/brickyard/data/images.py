"""Image data sets of the user, read by the `datasets` library: class folders, tables, hub ids."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import DataError, MissingExtraError, TaskError
from brickyard.core.task import Vocabulary
from brickyard.data._split import normalisation, stratified
from brickyard.data.examples import Crop, Examples, Preprocess, read_picture

_READERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".jsonl": "json"}
_SPLITS = ("validation", "test")
_LABELS = ("label", "labels", "class", "fine_label", "category", "target")
_IMAGES = ("image", "img", "file_name", "filename", "file", "path", "image_path")
_KEPT_SIDE, _SIDE = 96, 64

Loaded = tuple[Vocabulary, Preprocess, Examples, Examples]


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How to read an image data set; the fields mean what the arguments of `load_data` mean.

    Args:
        attributes: Columns that hold properties; none for classes.
        label: Column of the class, or None to find it.
        image: Column of the image, or None to find it.
        size: Side in pixels, or None to derive it from the first image.
        crop: `squash` or `center`.
        heldout_share: Share held out where there is no validation or test split.
        seed: Seed of the split.
    """

    attributes: tuple[str, ...] = ()
    label: str | None = None
    image: str | None = None
    size: int | None = None
    crop: Crop = "squash"
    heldout_share: float = 0.15
    seed: int = 0


def load_images(location: str, options: ImageOptions) -> Loaded:
    """Load an image data set into memory.

    A local path never leads to the network. The held-out part is the split `validation`, else `test`, else a
    seeded share of each class (or of each combination of attributes).

    Args:
        location: Folder, csv/tsv/jsonl/parquet file, or hub id `owner/name`.
        options: How to read it.

    Returns:
        Vocabulary, preprocessing, training examples and held-out examples.

    Raises:
        DataError: Missing or malformed data; the column, class or image at fault is named.
        MissingExtraError: The `datasets` library is not installed.
    """
    parts = open_tables(location)
    table = next(iter(parts.values()))
    image = image_column(table, options)
    columns = list(options.attributes) or [label_column(table, options)]
    if len(set(columns)) < len(columns):
        raise DataError(f"attributes {columns} name a column twice; name each once")
    for column in (image, *columns):
        check_column(table, column)
    names = {
        part: [column_words(table, column, location) for column in columns] for part, table in parts.items()
    }
    vocabulary, codes = _vocabulary(columns, names, properties=bool(options.attributes))
    base = Path(location).parent
    first = open_picture(table[0][image], base, row=0)
    preprocess = _input_shape(first, options)
    images = {part: _pictures(table, image, base, preprocess) for part, table in parts.items()}
    objects = {part: np.array(code, np.int16).T[:, None, :] for part, code in codes.items()}
    examples = {part: Examples(images[part], objects[part]) for part in parts}
    train = examples["train"]
    if len(parts) == 2:
        heldout = examples[next(part for part in parts if part != "train")]
    else:
        _, strata = np.unique(train.objects[:, 0], axis=0, return_inverse=True)
        chosen = stratified(strata.ravel(), share=options.heldout_share, seed=options.seed)
        train, heldout = train.subset(~chosen), train.subset(chosen)
    mean, std = normalisation(train.images)
    preprocess = Preprocess(*preprocess.shape[1:], preprocess.channels, mean, std, crop=options.crop)
    return vocabulary, preprocess, train, heldout


def open_tables(location: str) -> dict[str, Any]:
    """Open `train` and, where there is one, a held-out split; images stay undecoded."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", extra="train") from None
    path = Path(location)
    if path.is_dir():
        _check_folder(path)
        arguments: dict[str, Any] = {"path": "imagefolder", "data_dir": str(path.resolve())}
    elif path.is_file():
        if path.suffix not in _READERS:
            raise DataError(
                f"{location} ends in {path.suffix!r}; a data file ends in one of {sorted(_READERS)}"
            )
        if not path.stat().st_size:
            raise DataError(f"{location} is empty; expected rows with columns by name")
        arguments = {"path": _READERS[path.suffix], "data_files": str(path.resolve())}
        if path.suffix == ".tsv":
            arguments["sep"] = "\t"
        if _READERS[path.suffix] == "csv":
            _check_header(path, arguments.get("sep", ","))
    elif (
        path.suffix in _READERS or path.is_absolute() or location.count("/") != 1 or location.startswith(".")
    ):
        raise DataError(
            f"{location!r} does not exist; give a folder, a file ending in one of {sorted(_READERS)}, "
            "'geometry', 'digits', or a hub id 'owner/name'"
        )
    else:
        arguments = {"path": location}
    with _quiet(datasets, offline="path" in arguments and arguments["path"] != location):
        try:
            parts = datasets.load_dataset(**arguments)
        except (
            Exception
        ) as error:  # the library raises many kinds; here all mean that the data cannot be read
            kind = (
                "could not be read"
                if path.exists()
                else "is neither a local path nor a hub data set in reach"
            )
            raise DataError(f"{location!r} {kind}: {_reason(error)}") from error
    if "train" not in parts:
        raise DataError(f"{location!r} has the splits {list(parts)}; one of them must be named 'train'")
    kept = ["train", *[split for split in _SPLITS if split in parts][:1]]
    return {name: _undecoded(datasets, parts[name]) for name in kept}


def _reason(error: BaseException) -> str:
    """Return the first line of what went wrong in the first place, which names the line of a table."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_header(path: Path, separator: str) -> None:
    """Refuse a table that names a column twice: the library would rename one of the two."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=separator)
            header, first = next(reader, []), next(reader, None)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table in UTF-8 ({error}); write it again") from None
    if first is None:
        raise DataError(f"{path} has no rows; it needs a line with the names of the columns and rows below")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(f"{path} names the column {twice[0]!r} twice; name each column once")


@contextmanager
def _quiet(datasets: Any, *, offline: bool) -> Iterator[None]:
    """No progress bars, no log, and for local data not even the download counter of the library."""
    verbosity = datasets.logging.get_verbosity()
    bars = not datasets.are_progress_bars_disabled()
    counting = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counting and not offline
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counting
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _undecoded(datasets: Any, table: Any) -> Any:
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def _check_folder(path: Path) -> None:
    from PIL import Image

    inside = [item for item in sorted(path.rglob("*")) if not _hidden(item.relative_to(path))]
    suffixes = set(Image.registered_extensions())
    images = [item for item in inside if item.suffix.lower() in suffixes and not item.is_dir()]
    folders = sorted({file.parent.name for file in images})
    if not folders:
        raise DataError(f"folder {path} holds no images; put one folder of images per class into it")
    for file in images:
        if not file.is_file():
            raise DataError(f"image {file} is a link to nothing; mend or remove it")
    if any(item.name.startswith("metadata.") for item in inside):
        return
    holding = {parent for file in images for parent in file.parents}
    for folder in (item for item in inside if item.is_dir()):
        if folder not in holding:
            raise DataError(f"class folder {folder} is empty: it holds no image; add images or remove it")
    beside = [file for file in images if file.parent == path]
    if beside and len(folders) > 1:
        raise DataError(f"image {beside[0]} lies beside the class folders; move it into one or remove it")
    if len(folders) < 2:
        raise DataError(
            f"folder {path} has images in one folder only, {folders[0]!r}; give each class its own"
        )


def _hidden(path: Path) -> bool:
    """Tell whether the library leaves a path out: a part of it starts with a dot or two underscores."""
    return any(part.startswith((".", "__")) for part in path.parts)


def check_column(table: Any, column: str) -> None:
    """Refuse a column that a table lacks."""
    if column not in table.column_names:
        near = get_close_matches(column, table.column_names, n=3)
        hint = f"nearest: {', '.join(near)}. " if near else ""
        raise DataError(f"column {column!r} does not exist; {hint}Columns: {', '.join(table.column_names)}")


def image_column(table: Any, options: ImageOptions) -> str:
    """Find the column of the image: the one that is named, else by type or usual name."""
    typed = [name for name, feature in table.features.items() if type(feature).__name__ == "Image"]
    named = [name for name in _IMAGES if name in table.column_names]
    found = [options.image] if options.image else typed + named
    if not found:
        raise DataError(
            f"no column of {table.column_names} looks like the image; name it with the option `image`"
        )
    return found[0]


def label_column(table: Any, options: ImageOptions) -> str:
    """Find the column of the class: the one that is named, else by type or usual name."""
    typed = [name for name, feature in table.features.items() if type(feature).__name__ == "ClassLabel"]
    named = [name for name in _LABELS if name in table.column_names]
    found = [options.label] if options.label else typed + named
    if not found:
        raise DataError(
            f"no column of {table.column_names} looks like the class; name it with the option `label`, "
            "or name columns of properties with `attributes`"
        )
    return found[0]


def column_words(table: Any, column: str, location: str) -> list[str]:
    """The column as words."""
    values = table[column]
    feature = table.features[column]
    words = [None if value is None else str(value) for value in values]
    if type(feature).__name__ == "ClassLabel":
        words = [None if value in (None, -1) else feature.int2str(value) for value in values]
    for row, word in enumerate(words):
        if word is None or not word.strip():
            raise DataError(
                f"{location}: row {row} has no value in column {column!r}; fill it in or drop the row"
            )
    return [str(word).strip() for word in words]


def _vocabulary(
    columns: Sequence[str], names: Mapping[str, Sequence[Sequence[str]]], *, properties: bool
) -> tuple[Vocabulary, dict[str, list[list[int]]]]:
    """The words of each column, and each split as indices, `[columns][rows]`."""
    words: list[list[str]] = []
    for place, column in enumerate(columns):
        found = sorted(set(names["train"][place]), key=natural)
        if len(found) < 2:
            raise DataError(f"column {column!r} has only the value {found[0]!r}; at least two are needed")
        unknown = sorted({name for split in names.values() for name in split[place]} - set(found))
        if unknown:
            raise DataError(
                f"column {column!r}: {unknown[0]!r} is only in the held-out split; add images to train on"
            )
        words.append(found)
    clash = {word.casefold() for group in words for word in group if _count(words, word) > 1}
    shown = [
        [f"{column}={word}" if word.casefold() in clash else word for word in group]
        for column, group in zip(columns, words, strict=True)
    ]
    try:
        if properties:
            vocabulary = Vocabulary("properties", dict(zip(columns, map(tuple, shown), strict=True)))
        else:
            vocabulary = Vocabulary("classes", {"class": tuple(shown[0])})
    except TaskError as error:
        raise DataError(f"the values of {', '.join(columns)} make no vocabulary: {error}") from None
    lookup = [{word: index for index, word in enumerate(group)} for group in words]
    codes = {
        part: [[lookup[place][word] for word in column] for place, column in enumerate(split)]
        for part, split in names.items()
    }
    return vocabulary, codes


def _count(words: Sequence[Sequence[str]], word: str) -> int:
    return sum(word.casefold() in {other.casefold() for other in group} for group in words)


def natural(word: str) -> tuple[int, float, str]:
    """Numbers by value and before other words."""
    try:
        return 0, float(word), word
    except ValueError:
        return 1, 0.0, word


def open_picture(value: Any, base: Path, *, row: int) -> Any:
    """Open one cell of an image column: a path, bytes, or a record of both."""
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value)
    if isinstance(path, bytes):
        content, path = path, None
    if not content and not path:
        raise DataError(f"the image of row {row} is missing; fill it in or drop the row")
    if path is not None and not isinstance(path, str):
        raise DataError(f"the image of row {row} is {path!r}, neither a path nor bytes; name another column")
    name = f"image {base / path}" if path else f"the image of row {row}"
    try:
        return read_picture(io.BytesIO(content) if content else base / str(path))
    except FileNotFoundError:
        raise DataError(f"{name} does not exist (row {row})") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{name} cannot be read ({error}); replace it or drop row {row}") from None


def _pictures(table: Any, column: str, base: Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    images = np.empty((len(table), *preprocess.shape[1:], preprocess.channels), np.uint8)
    for row, value in enumerate(table[column]):
        images[row] = preprocess.fit(open_picture(value, base, row=row))
    return images


def _input_shape(first: Any, options: ImageOptions) -> Preprocess:
    """The size of the input, and grey or colour, after the first image; the statistics follow later."""
    if options.size is not None and not 8 <= options.size <= 1024:
        raise DataError(f"image size is {options.size}; allowed: 8 to 1024 pixels")
    side = options.size or (None if max(first.size) <= _KEPT_SIDE else _SIDE)
    width, height = (side, side) if side else first.size
    channels = 1 if first.mode in ("1", "L", "LA", "I", "I;16", "F") else 3
    return Preprocess(height, width, channels, (0.0,) * channels, (1.0,) * channels, crop=options.crop)
