"""One function for every kind of data: `geometry:size=48`, `digits`, a folder, a table or a hub id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from brickyard.core.errors import DataError
from brickyard.core.task import Vocabulary
from brickyard.data.boxes import BoxOptions, load_boxes
from brickyard.data.examples import Crop, Examples, Preprocess
from brickyard.data.geometry import GeometrySpec, scenes

Job = Literal["classify", "detect"]

# Images drawn for a geometry source unless asked otherwise.
_TRAIN, _HELDOUT = 20_000, 4_000


@dataclass(frozen=True, eq=False)
class DataSource:
    """A data set that is ready for training and testing.

    Args:
        name: Short name for listings.
        vocabulary: The words that tasks on this data are made of.
        preprocess: How images become inputs.
        train: Examples to train on.
        heldout: Examples to test on; none is in `train`.
        spec: JSON record of how the data were made; the factory keeps it.
    """

    name: str
    vocabulary: Vocabulary
    preprocess: Preprocess
    train: Examples
    heldout: Examples
    spec: Mapping[str, Any]

    @property
    def geometry(self) -> GeometrySpec | None:
        """The generator, from which fresh scenes for any task can be drawn; None for recorded data."""
        return GeometrySpec.from_json(self.spec["scenes"]) if self.spec["kind"] == "geometry" else None


def load_data(
    text: str | Path,
    *,
    attributes: Sequence[str] = (),
    label: str | None = None,
    image: str | None = None,
    size: int | tuple[int, int] | None = None,
    crop: Crop = "squash",
    heldout_share: float = 0.15,
    seed: int = 0,
    job: Job = "classify",
    objects: str | None = None,
    image_folder: str | None = None,
) -> DataSource:
    """Load the data that a text names.

    Args:
        text: `geometry`, possibly with options as in `geometry:size=48,shapes=circle+ring` (the fields of
            `GeometrySpec`, and `train` and `heldout` for the number of images); `digits`; a folder that has
            one folder of images per class, possibly below `train`, `validation` or `test`; a csv, tsv, jsonl
            or parquet file with a column of image paths or bytes; or a hub id with its owner, `owner/name`.
            For detection a COCO json, a folder of those for several splits, a Pascal VOC folder, a table with
            a column of boxes, or a hub id; `geometry` has boxes, too.
        attributes: Columns that hold properties; without them the data have classes.
        label: Column that holds the class; found by type or usual name if None.
        image: Column that holds the image; found by type or usual name if None.
        size: Side in pixels that images are brought to. If None, the size of the first image is taken where
            that is at most 96 pixels, otherwise 64 x 64; for detection the longer side is brought to 320
            then. Detection takes height and width as well.
        crop: `squash`, `center` or (the only other one for detection) `letterbox`, see `Preprocess`.
        heldout_share: Share held out where the data have no validation or test split.
        seed: Seed of scenes and splits.
        job: `classify` or `detect`.
        objects: For detection in tables, the column of boxes and categories; `objects` if None.
        image_folder: For COCO, the folder of the pictures; looked for near the json if None.

    Raises:
        DataError: The data are missing or malformed, or an option does not exist for them.
        MissingExtraError: A library that is needed is not installed.
    """
    name, _, options = str(text).partition(":")
    if job == "classify":
        _refuse(str(text), objects=objects, image_folder=image_folder)
        if isinstance(size, tuple):
            raise DataError(
                f"size = {size[0]} x {size[1]}: data to classify need square pictures; give one side"
            )
    if name == "geometry":
        _refuse(name, attributes=attributes, label=label, image=image, objects=objects)
        if isinstance(size, tuple):
            raise DataError(f"size = {size[0]} x {size[1]}: scenes are square; give one side")
        return _geometry(options, size=size, seed=seed)
    if job == "detect":
        _refuse(f"{text}, read for detection,", attributes=attributes, label=label)
        return _boxes(
            str(text),
            BoxOptions(
                image_folder=image_folder,
                objects=objects or "objects",
                image=image,
                size=(size, size) if isinstance(size, int) else size,
                crop=crop,
                heldout_share=heldout_share,
                seed=seed,
            ),
        )
    assert not isinstance(size, tuple)
    if text == "digits":
        _refuse(name, attributes=attributes, label=label, image=image, size=size)
        from brickyard.data.digits import load_digits

        vocabulary, preprocess, train, heldout = load_digits(heldout_share=heldout_share, seed=seed)
        spec = {"kind": "digits", "heldout_share": heldout_share, "seed": seed}
        return DataSource("digits", vocabulary, preprocess, train, heldout, spec)
    from brickyard.data.images import ImageOptions, load_images

    wanted = ImageOptions(
        attributes=tuple(attributes),
        label=label,
        image=image,
        size=size,
        crop=crop,
        heldout_share=heldout_share,
        seed=seed,
    )
    vocabulary, preprocess, train, heldout = load_images(str(text), wanted)
    spec = {"kind": "images", "location": str(text), **asdict(wanted), "attributes": list(attributes)}
    return DataSource(Path(str(text)).stem, vocabulary, preprocess, train, heldout, spec)


def _boxes(location: str, options: BoxOptions) -> DataSource:
    vocabulary, preprocess, train, heldout = load_boxes(location, options)
    spec = {"kind": "boxes", "location": location, **asdict(options)}
    return DataSource(Path(location).stem, vocabulary, preprocess, train, heldout, spec)


def _refuse(name: str, **given: object) -> None:
    for option, value in given.items():
        if value:
            raise DataError(f"{name} takes no option {option!r}, but {value!r} was given; leave it out")


def _geometry(text: str, *, size: int | None, seed: int) -> DataSource:
    options: dict[str, Any] = {} if size is None else {"size": size}
    kinds = {field.name: field.type for field in fields(GeometrySpec)} | {"train": "int", "heldout": "int"}
    for item in filter(None, text.split(",")):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in kinds or not value:
            raise DataError(
                f"{item!r} is no option of geometry; write name=value with a name of {', '.join(kinds)}"
            )
        if key in options:
            raise DataError(f"geometry option {key!r} is given twice; give it once")
        try:
            options[key] = {"int": int, "float": float}.get(str(kinds[key]), lambda words: words.split("+"))(
                value
            )
        except ValueError:
            raise DataError(f"geometry option {key}={value} is not a number; give one") from None
    counts = {"train": options.pop("train", _TRAIN), "heldout": options.pop("heldout", _HELDOUT)}
    scenery = GeometrySpec.from_json(options)
    # Seeds of the two parts differ for every pair of source seeds.
    train, heldout = (scenes(scenery, counts[part], 2 * seed + place) for place, part in enumerate(counts))
    spec = {"kind": "geometry", "scenes": scenery.to_json(), **counts, "seed": seed}
    return DataSource("geometry", scenery.vocabulary, scenery.preprocess, train, heldout, spec)
