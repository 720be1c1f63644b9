"""Detection data sets of the user: COCO json, Pascal VOC folders, tables read by the `datasets` library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import DataError, TaskError
from brickyard.core.task import Vocabulary
from brickyard.data._split import normalisation, stratified
from brickyard.data.examples import Crop, Examples, Preprocess
from brickyard.data.images import ImageOptions, image_column, open_picture, open_tables

_KEPT_SIDE, _LONGER_SIDE, _MULTIPLE = 96, 320, 16
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

Loaded = tuple[Vocabulary, Preprocess, Examples, Examples]


@dataclass(frozen=True, kw_only=True)
class BoxOptions:
    """How to read a detection data set; the fields mean what the arguments of `load_data` mean.

    Args:
        image_folder: Folder of the pictures of a COCO json, or None to find it.
        objects: Column of a table that holds boxes and categories.
        image: Column of the image of a table, or None to find it.
        size: Height and width in pixels, or None to derive them from the first image.
        crop: `squash` or `letterbox`.
        heldout_share: Share held out where the data have no split of their own.
        seed: Seed of the split.
    """

    image_folder: str | None = None
    objects: str = "objects"
    image: str | None = None
    size: tuple[int, int] | None = None
    crop: Crop = "squash"
    heldout_share: float = 0.15
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Picture:
    """One picture and what is on it, before it is read.

    Attributes:
        where: What messages call it.
        read: Opens it.
        boxes: x0, y0, x1, y1 in its own pixels.
        names: Category of each box.
        size: Width and height that the annotation states, if it does.
    """

    where: str
    read: Callable[[], Any]
    boxes: Sequence[Sequence[float]]
    names: Sequence[str]
    size: tuple[int, int] | None = None


def load_boxes(location: str, options: BoxOptions) -> Loaded:
    """Load a detection data set into memory; boxes follow the pictures to their new size.

    Args:
        location: A COCO json, a folder of those for several splits, a Pascal VOC folder, a table
            (parquet, jsonl) with a column of boxes, or a hub id `owner/name`.
        options: How to read it.

    Returns:
        Vocabulary of classes, preprocessing, training examples and held-out examples; the classes of
        `objects` are those of the boxes, in alphabetical order.

    Raises:
        DataError: Missing or malformed data; the picture, row or category at fault is named.
        MissingExtraError: The `datasets` library is needed and not installed.
    """
    if options.crop == "center":
        raise DataError("crop = 'center' would cut objects; allowed for boxes: squash, letterbox")
    path = Path(location)
    if path.is_dir() and (path / "Annotations").is_dir():
        parts = _voc(path)
    elif path.is_dir():
        parts = _coco_folder(path, options)
    elif path.suffix == ".json":
        parts = {"train": _coco(path, options)}
    else:
        parts = _table(location, options)
    return _examples(parts, location, options)


def _examples(parts: Mapping[str, Sequence[_Picture]], location: str, options: BoxOptions) -> Loaded:
    for part, pictures in parts.items():
        if not pictures:
            raise DataError(f"{location}: the part {part!r} has no pictures; add some or remove the part")
    _check_apart(parts)
    words = sorted({name for picture in parts["train"] for name in picture.names})
    if not words:
        raise DataError(f"{location}: no picture to train on has a box; nothing can be learnt from it")
    try:
        vocabulary = Vocabulary("classes", {"class": tuple(words)})
    except TaskError as error:
        raise DataError(f"{location}: the categories make no vocabulary: {error}") from None
    preprocess = _input_shape(parts["train"][0].read(), options)
    most = max(1, *(len(picture.names) for pictures in parts.values() for picture in pictures))
    read = {part: _read(pictures, words, most, preprocess) for part, pictures in parts.items()}
    train = read.pop("train")
    if read:
        heldout = next(iter(read.values()))
    else:
        chosen = stratified(_strata(train), share=options.heldout_share, seed=options.seed)
        train, heldout = train.subset(~chosen), train.subset(chosen)
    mean, std = normalisation(train.images)
    _, height, width = preprocess.shape
    preprocess = Preprocess(height, width, preprocess.channels, mean, std, crop=options.crop)
    return vocabulary, preprocess, train, heldout


def _check_apart(parts: Mapping[str, Sequence[_Picture]]) -> None:
    seen: dict[str, str] = {}
    for part, pictures in parts.items():
        for picture in pictures:
            if picture.where in seen:
                both = (
                    f"twice in {part!r}"
                    if seen[picture.where] == part
                    else f"in {seen[picture.where]!r} and {part!r}"
                )
                raise DataError(f"{picture.where} stands {both}; each picture must stand once")
            seen[picture.where] = part


def _strata(examples: Examples) -> NDArray[np.int64]:
    """The rarest class of each picture, -1 where there is no box: so rare classes come to both sides."""
    classes = examples.objects[:, :, 0].astype(np.int64)
    counts = np.append(np.bincount(classes[classes >= 0]), np.iinfo(np.int64).max)
    rarest = np.take_along_axis(classes, counts[classes].argmin(1)[:, None], axis=1)[:, 0]
    return np.asarray(rarest, dtype=np.int64)


def _read(pictures: Sequence[_Picture], words: Sequence[str], most: int, preprocess: Preprocess) -> Examples:
    index = {word: place for place, word in enumerate(words)}
    images = np.empty((len(pictures), *preprocess.shape[1:], preprocess.channels), np.uint8)
    objects = np.full((len(pictures), most, 1), -1, np.int16)
    boxes = np.zeros((len(pictures), most, 4), np.float32)
    for row, picture in enumerate(pictures):
        image = picture.read()
        _check_boxes(picture, image.width, image.height)
        images[row] = preprocess.fit(image)
        scale_x, scale_y, left, top = preprocess.placement(image.width, image.height)
        for place, (box, name) in enumerate(zip(picture.boxes, picture.names, strict=True)):
            if name not in index:
                raise DataError(
                    f"{picture.where}: category {name!r} is only in the held-out part; add boxes "
                    "of it to train on"
                )
            objects[row, place, 0] = index[name]
            boxes[row, place] = np.array(box) * ([scale_x, scale_y] * 2) + ([left, top] * 2)
    return Examples(images, objects, boxes)


def _check_boxes(picture: _Picture, width: int, height: int) -> None:
    if picture.size is not None and picture.size != (width, height):
        raise DataError(
            f"{picture.where} is {width} x {height} pixels, its annotation says {picture.size[0]} x "
            f"{picture.size[1]}; mend the annotation or the picture"
        )
    for number, box in enumerate(picture.boxes):
        x0, y0, x1, y1 = box
        if not (np.isfinite(box).all() and x1 > x0 and y1 > y0):
            raise DataError(
                f"{picture.where}: box {number} has no size (x {x0:g} to {x1:g}, y {y0:g} to {y1:g}); mend "
                "or remove it"
            )
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
            raise DataError(
                f"{picture.where}: box {number} (x {x0:g} to {x1:g}, y {y0:g} to {y1:g}) lies outside of the "
                f"picture of {width} x {height} pixels; mend or remove it"
            )


def _input_shape(first: Any, options: BoxOptions) -> Preprocess:
    """The size of the input, and grey or colour, after the first image; the statistics follow later."""
    if options.size is not None:
        height, width = options.size
    elif max(first.size) <= _KEPT_SIDE:
        width, height = first.size
    else:
        width, height = (
            max(_MULTIPLE, round(side * _LONGER_SIDE / max(first.size) / _MULTIPLE) * _MULTIPLE)
            for side in first.size
        )
    if not all(16 <= side <= 1024 for side in (height, width)):
        raise DataError(f"image size is {height} x {width}; allowed: 16 to 1024 pixels")
    channels = 1 if first.mode in ("1", "L", "LA", "I", "I;16", "F") else 3
    return Preprocess(height, width, channels, (0.0,) * channels, (1.0,) * channels, crop=options.crop)


def _opener(path: Path) -> Callable[[], Any]:
    return lambda: open_picture(str(path.name), path.parent, row=0)


# --- Pascal VOC


def _voc(folder: Path) -> dict[str, list[_Picture]]:
    """Read `Annotations` and `JPEGImages`; of the splits in `ImageSets/Main`, `test` is held out, else `val`.

    Corners are whole pixels that belong to the box, counted from 1; from 0 where any box of the folder starts
    at 0.
    """
    if not (folder / "JPEGImages").is_dir():
        raise DataError(f"{folder} has Annotations but no folder JPEGImages; put the pictures there")
    files: dict[str, Path] = {}
    for path in sorted((folder / "JPEGImages").iterdir()):
        if path.suffix.lower() in _SUFFIXES:
            if path.stem in files:
                raise DataError(f"{files[path.stem]} and {path} have one name; an annotation fits only one")
            files[path.stem] = path
    sets = folder / "ImageSets" / "Main"
    names = {
        part: _lines(sets / f"{part}.txt")
        for part in ("train", "val", "trainval", "test")
        if (sets / f"{part}.txt").is_file()
    }
    parts: dict[str, list[str]] = {}
    if "test" in names:
        parts["train"] = names.get("trainval") or [*names.get("train", []), *names.get("val", [])]
        parts["test"] = names["test"]
    elif "val" in names and "train" in names:
        parts = {"train": names["train"], "val": names["val"]}
    else:
        every = [path.stem for path in sorted((folder / "Annotations").glob("*.xml"))]
        parts["train"] = names.get("trainval") or names.get("train") or every
    read = {
        part: [_voc_picture(folder / "Annotations" / f"{stem}.xml", files) for stem in stems]
        for part, stems in parts.items()
    }
    every_box = [box for pictures in read.values() for picture in pictures for box in picture.boxes]
    first = 0.0 if any(0 in box[:2] for box in every_box) else 1.0
    return {
        part: [
            replace(picture, boxes=[[x0 - first, y0 - first, x1, y1] for x0, y0, x1, y1 in picture.boxes])
            for picture in pictures
        ]
        for part, pictures in read.items()
    }


def _lines(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def _voc_picture(path: Path, files: Mapping[str, Path]) -> _Picture:
    try:
        root = ElementTree.parse(path).getroot()
        boxes, names = [], []
        for item in root.iter("object"):
            box = item.find("bndbox")
            name = (item.findtext("name") or "").strip()
            if box is None or not name:
                raise DataError(
                    f"{path}: an object lacks its name or bndbox; fill it in or remove the object"
                )
            boxes.append([float(box.findtext(side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax")])
            names.append(name)
        size = [int(root.findtext(f"size/{side}") or 0) for side in ("width", "height")]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, but ImageSets names it; add it or drop the name") from None
    except (ElementTree.ParseError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no annotation of Pascal VOC ({error}); mend or remove it") from None
    if path.stem not in files:
        raise DataError(
            f"{path}: JPEGImages has no picture named {path.stem!r} for it; add it or remove the annotation"
        )
    picture = files[path.stem]
    return _Picture(str(picture), _opener(picture), boxes, names, (size[0], size[1]) if all(size) else None)


# --- COCO


def _coco_folder(folder: Path, options: BoxOptions) -> dict[str, list[_Picture]]:
    """Find one json for training and one held out: by their names, or those of their folders."""
    files = sorted(
        path for pattern in ("*.json", "annotations/*.json", "*/*.json") for path in folder.glob(pattern)
    )
    found: dict[str, Path] = {}
    for path in dict.fromkeys(files):
        text = path.name if path.parent in (folder, folder / "annotations") else path.parent.name
        part = next((part for part in ("train", "val", "test") if part in text.casefold()), None)
        if part in found:
            raise DataError(f"{folder}: both {found[part]} and {path} look like {part!r}; remove one of them")
        if part is not None:
            found[part] = path
    if "train" not in found:
        raise DataError(
            f"{folder} is no detection data set: expected the folders Annotations and JPEGImages (Pascal "
            "VOC), or a json of COCO with 'train' in its name; found "
            f"{[path.name for path in files][:4] or 'neither'}"
        )
    kept = ["train", *[part for part in ("val", "test") if part in found][:1]]
    return {part: _coco(found[part], options) for part in kept}


def _coco(path: Path, options: BoxOptions) -> list[_Picture]:
    try:
        return _coco_pictures(path, json.loads(path.read_text()), options)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give a json of COCO") from None
    except DataError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}); give a json of COCO") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path} is no COCO json of boxes: {type(error).__name__} {error}; it needs images (id, "
            "file_name), annotations (image_id, category_id, bbox) and categories (id, name)"
        ) from None


def _coco_pictures(path: Path, record: Mapping[str, Any], options: BoxOptions) -> list[_Picture]:
    images, annotations, categories = (record[key] for key in ("images", "annotations", "categories"))
    _refuse_twice(path, "image id", (item["id"] for item in images))
    _refuse_twice(path, "category id", (item["id"] for item in categories))
    named = {item["id"]: str(item["name"]).strip() for item in categories}
    _refuse_twice(path, "category name", named.values())
    held: dict[Any, list[Any]] = {item["id"]: [] for item in images}
    for item in annotations:
        _check_annotation(path, item, held, named)
        if not item.get("iscrowd"):
            held[item["image_id"]].append(item)
    used = {named[item["category_id"]] for items in held.values() for item in items}
    empty = sorted(set(named.values()) - used)
    if empty:
        raise DataError(
            f"{path}: category {empty[0]!r} has no box; add boxes of it or remove it from the list"
        )
    folder = _image_folder(path, images, options)
    return [
        _Picture(
            str(folder / str(item["file_name"])),
            _opener(folder / str(item["file_name"])),
            [_corners(part["bbox"]) for part in held[item["id"]]],
            [named[part["category_id"]] for part in held[item["id"]]],
            (int(item["width"]), int(item["height"])) if item.get("width") and item.get("height") else None,
        )
        for item in images
    ]


def _check_annotation(
    path: Path, item: Mapping[str, Any], files: Mapping[Any, Any], named: Mapping[Any, str]
) -> None:
    where = f"{path}: annotation {item.get('id', '?')}"
    if item["image_id"] not in files:
        raise DataError(f"{where} is of image {item['image_id']!r}, which is not listed; add or remove it")
    if item["category_id"] not in named:
        raise DataError(
            f"{where} has category {item['category_id']!r}; known: {dict(list(named.items())[:12])}; add the "
            "category or remove the annotation"
        )
    if len(item["bbox"]) != 4:
        raise DataError(f"{where} has the box {item['bbox']!r}; expected x, y, width, height")


def _refuse_twice(path: Path, what: str, values: Iterable[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise DataError(f"{path}: the {what} {value!r} occurs twice; each must be there once")
        seen.add(value)


def _image_folder(path: Path, images: Sequence[Mapping[str, Any]], options: BoxOptions) -> Path:
    if options.image_folder is not None:
        if not Path(options.image_folder).is_dir():
            raise DataError(
                f"image folder {options.image_folder} does not exist; name the folder of the pictures"
            )
        return Path(options.image_folder)
    stem = path.stem.removeprefix("instances_")
    nearby = [path.parent, path.parent / "images", path.parent / stem, path.parent / "images" / stem]
    nearby += [path.parent.parent / name for name in (stem, "images", f"images/{stem}")]
    first = str(images[0]["file_name"]) if images else ""
    return next((folder for folder in nearby if (folder / first).is_file()), path.parent)


def _corners(box: Sequence[float]) -> list[float]:
    x, y, width, height = (float(value) for value in box)
    return [x, y, x + width, y + height]


# --- tables


def _table(location: str, options: BoxOptions) -> dict[str, list[_Picture]]:
    tables = open_tables(location)
    column = options.objects
    base, parts = Path(location).parent, {}
    for part, table in tables.items():
        if column not in table.column_names:
            raise DataError(
                f"column {column!r} does not exist; name the column of boxes with the option `objects`. "
                f"Columns: {', '.join(table.column_names)}"
            )
        image = image_column(table, ImageOptions(image=options.image))
        if image not in table.column_names:
            raise DataError(f"column {image!r} does not exist. Columns: {', '.join(table.column_names)}")
        labels = _label_names(table.features[column])
        parts[part] = [
            _row(f"{location}: row {number} of {part!r}", objects, labels, _cell(table, image, number, base))
            for number, objects in enumerate(table[column])
        ]
    return parts


def _cell(table: Any, column: str, number: int, base: Path) -> Callable[[], Any]:
    return lambda: open_picture(table[number][column], base, row=number)


def _label_names(feature: Any) -> list[str] | None:
    """Find the names of a `ClassLabel` inside a nested feature."""
    if hasattr(feature, "names") and hasattr(feature, "int2str"):
        return list(feature.names)
    inner = list(feature.values()) if isinstance(feature, dict) else []
    inner += feature if isinstance(feature, list) else []
    inner += [feature.feature] if hasattr(feature, "feature") else []
    return next((names for names in map(_label_names, inner) if names is not None), None)


def _row(where: str, objects: Any, labels: list[str] | None, read: Callable[[], Any]) -> _Picture:
    if isinstance(objects, list):
        objects = {key: [item.get(key) for item in objects] for key in ("bbox", "category")}
    try:
        boxes, categories = list(objects["bbox"]), list(objects["category"])
        corners = [_corners(box) for box in boxes]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{where} holds {str(objects)[:80]!r}; expected `bbox` (x, y, width, height) and `category` of "
            "each object"
        ) from None
    if len(corners) != len(categories):
        raise DataError(
            f"{where} has {len(corners)} boxes and {len(categories)} categories; give one for each"
        )
    names = []
    for category in categories:
        known = labels is None or (isinstance(category, int) and 0 <= category < len(labels))
        if category is None or not known or not str(category).strip():
            raise DataError(f"{where} has the category {category!r}; known: {labels}; mend or drop the row")
        names.append(str(category).strip() if labels is None else labels[category])
    return _Picture(where, read, corners, names)
