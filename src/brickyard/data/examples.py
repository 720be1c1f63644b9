"""Labelled images in memory, and the preprocessing that turns them into what a network reads."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import DataError
from brickyard.core.files import write_bytes

Resize = Literal["bilinear", "nearest"]
Crop = Literal["squash", "center", "letterbox"]

_GREY = 114  # what fills the rest of a letterbox


def read_picture(source: Path | io.BytesIO) -> Any:
    """Read a picture whole, upright as its camera was held.

    Args:
        source: File or content in any format that Pillow reads, up to its limit of about 179 million pixels.
            From half of that on Pillow warns, which is not passed on: a damaged head may claim any size.

    Returns:
        A Pillow image.

    Raises:
        OSError: The file is missing (`FileNotFoundError`) or damaged.
        ValueError: The content is damaged, or larger than the limit.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except (SyntaxError, TypeError, Image.DecompressionBombError) as error:  # kinds that decoders raise
        raise ValueError(str(error)) from error


def some_of(places: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw at most so many places, in their order; of data that are sorted the first ones would tell little.

    Args:
        places: The places.
        count: Most of them.
        seed: Seed of the draw.
    """
    if len(places) <= count:
        return places
    return np.sort(np.random.default_rng(seed).permutation(places)[:count])


@dataclass(frozen=True, eq=False)
class Examples:
    """Images and what is on them.

    Args:
        images: uint8 `[N, H, W, C]`.
        objects: int16 `[N, M, G]`: value of each of G property groups for each of up to M objects, -1 where
            there is no object. For classes `[N, 1, 1]`, the index of the class; `[N, M, 1]` where
            each object has one.
        boxes: float32 `[N, M, 4]` or None: x0, y0, x1, y1 of each object in pixels, 0 where there is none.

    Raises:
        DataError: A type or shape differs from the above.
    """

    images: NDArray[np.uint8]
    objects: NDArray[np.int16]
    boxes: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        images, objects, boxes = self.images, self.objects, self.boxes
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(f"images are {images.dtype} {images.shape}; expected uint8 [N, H, W, C]")
        if objects.dtype != np.int16 or objects.ndim != 3 or len(objects) != len(images):
            raise DataError(
                f"objects are {objects.dtype} {objects.shape}; expected int16 [{len(images)}, M, G]"
            )
        if boxes is not None and (boxes.dtype != np.float32 or boxes.shape != (*objects.shape[:2], 4)):
            raise DataError(
                f"boxes are {boxes.dtype} {boxes.shape}; expected float32 {(*objects.shape[:2], 4)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> NDArray[np.int16]:
        """Class index of each image of a class data set, int16 `[N]`.

        Raises:
            DataError: These are not class data.
        """
        if self.objects.shape[1:] != (1, 1):
            raise DataError(f"objects have shape {self.objects.shape}; only [N, 1, 1] holds classes")
        return self.objects[:, 0, 0]

    def _matches(self, values: Mapping[int, int]) -> NDArray[np.int_]:
        groups = self.objects.shape[2]
        if any(group not in range(groups) for group in values):
            raise DataError(f"values name the groups {sorted(values)}; these examples have 0 to {groups - 1}")
        counts = np.zeros(self.objects.shape[:2], np.int_)
        for group, value in values.items():
            counts += self.objects[:, :, group] == value
        counts[self.objects[:, :, 0] < 0] = -1
        return counts

    def holds(self, values: Mapping[int, int]) -> NDArray[np.bool_]:
        """Tell for each image whether one object has all the values.

        Args:
            values: Group index to value index, as `Task.values` gives them.

        Returns:
            bool `[N]`.
        """
        result: NDArray[np.bool_] = (self._matches(values) == len(values)).any(axis=1)
        return result

    def near_miss(self, values: Mapping[int, int]) -> NDArray[np.bool_]:
        """Tell for each image whether no object has all the values but some object has all but one of them.

        Args:
            values: Group index to value index.

        Returns:
            bool `[N]`; the hard negatives of the task.
        """
        matches = self._matches(values)
        result: NDArray[np.bool_] = (matches == len(values) - 1).any(axis=1) & ~(matches == len(values)).any(
            axis=1
        )
        return result

    def subset(self, index: Any) -> Examples:
        """Return the examples that a numpy index (slice, integers or booleans over N) selects."""
        boxes = None if self.boxes is None else self.boxes[index]
        return Examples(self.images[index], self.objects[index], boxes)

    def save(self, path: Path) -> None:
        """Write a compressed npz file, whole or not at all."""
        arrays = {"images": self.images, "objects": self.objects}
        if self.boxes is not None:
            arrays["boxes"] = self.boxes
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Examples:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            DataError: The file is missing or does not hold examples.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; expected a file of examples there") from None
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a file of examples ({error}); make it again") from None
        if not {"images", "objects"} <= set(arrays) <= {"images", "objects", "boxes"}:
            raise DataError(f"{path} holds {sorted(arrays)}; expected images, objects and possibly boxes")
        return cls(**arrays)


@dataclass(frozen=True)
class Preprocess:
    """How an image file becomes the input of a network; stands in each factory and model folder.

    Args:
        height: Rows of the input, in pixels.
        width: Columns of the input, in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: Per channel, subtracted after scaling.
        std: Per channel, what is left is divided by it; above 0.
        scale: What pixel values are multiplied by, so that 255 becomes 1.
        resize: `bilinear` (with antialiasing when shrinking) or `nearest`.
        crop: `squash` changes the aspect ratio; `center` keeps it and cuts the longer side, `letterbox` keeps
            it and fills the rest with grey.

    Raises:
        DataError: A value outside of what stands above.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    resize: Resize = "bilinear"
    crop: Crop = "squash"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        if self.height < 1 or self.width < 1 or self.channels not in (1, 3):
            raise DataError(
                f"input is {self.height} x {self.width} x {self.channels}; expected positive sides and "
                "1 or 3 channels"
            )
        if len(self.mean) != self.channels or len(self.std) != self.channels or min(self.std) <= 0:
            raise DataError(
                f"mean {self.mean} and std {self.std} must have {self.channels} entries, std above 0"
            )
        if self.resize not in ("bilinear", "nearest") or self.crop not in get_args(Crop):
            raise DataError(
                f"resize {self.resize!r} / crop {self.crop!r}; allowed: bilinear, nearest / "
                f"{', '.join(get_args(Crop))}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input of the network: channels, height, width."""
        return self.channels, self.height, self.width

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise images.

        Args:
            images: uint8 `[N, height, width, channels]`.

        Returns:
            float32 `[N, channels, height, width]`, contiguous.

        Raises:
            DataError: The images have another type or shape.
        """
        expected = (self.height, self.width, self.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise DataError(f"images are {images.dtype} {images.shape}; expected uint8 [N, *{expected}]")
        gain = np.array([self.scale / std for std in self.std], np.float32)[:, None, None]
        shift = np.array([mean / std for mean, std in zip(self.mean, self.std, strict=True)], np.float32)
        result = np.multiply(images.transpose(0, 3, 1, 2), gain, dtype=np.float32, order="C")
        result -= shift[:, None, None]
        return result

    def placement(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Tell where the pixels of an image come to lie in the input.

        Args:
            width: Columns of the image.
            height: Rows of the image.

        Returns:
            Scale of x, scale of y, and the x and y of the image's upper left corner: a point x, y of the
            image lies at `x * scale_x + left, y * scale_y + top` of the input.
        """
        if self.crop == "squash":
            return self.width / width, self.height / height, 0.0, 0.0
        sides = self.width / width, self.height / height
        if self.crop == "center":
            scale = max(sides)
            return scale, scale, (self.width - scale * width) / 2, (self.height - scale * height) / 2
        inner = [max(1, round(side * min(sides))) for side in (width, height)]
        left, top = (self.width - inner[0]) // 2, (self.height - inner[1]) // 2
        return inner[0] / width, inner[1] / height, float(left), float(top)

    def fit(self, image: Any) -> NDArray[np.uint8]:
        """Bring an image to the size and channels of the input.

        Args:
            image: A `PIL.Image.Image` of any size and mode.

        Returns:
            uint8 `[height, width, channels]`.
        """
        from PIL import Image

        image = image.convert("RGB" if self.channels == 3 else "L")
        box: tuple[float, float, float, float] = (0, 0, image.width, image.height)
        if self.crop == "center":
            scale = min(image.width / self.width, image.height / self.height)
            left, top = (image.width - scale * self.width) / 2, (image.height - scale * self.height) / 2
            box = (left, top, left + scale * self.width, top + scale * self.height)
        mode = Image.Resampling.BILINEAR if self.resize == "bilinear" else Image.Resampling.NEAREST
        if self.crop == "letterbox":
            scale_x, scale_y, left, top = self.placement(*image.size)
            inner = round(image.width * scale_x), round(image.height * scale_y)
            canvas = Image.new(image.mode, (self.width, self.height), (_GREY,) * len(image.getbands()))
            canvas.paste(image.resize(inner, mode), (int(left), int(top)))
            image = canvas
        elif image.size != (self.width, self.height) or box != (0, 0, image.width, image.height):
            image = image.resize((self.width, self.height), mode, box=box)
        return np.array(image, np.uint8).reshape(self.height, self.width, self.channels)

    def load_image(self, path: Path) -> NDArray[np.uint8]:
        """Read an image file and `fit` it.

        Args:
            path: File in any format that Pillow reads.

        Returns:
            uint8 `[height, width, channels]`.

        Raises:
            DataError: The file is missing or not a readable image; it is named.
        """
        try:
            return self.fit(read_picture(path))
        except FileNotFoundError:
            raise DataError(f"image {path} does not exist") from None
        except (OSError, ValueError) as error:
            raise DataError(f"image {path} cannot be read ({error}); remove or replace it") from None

    def to_json(self) -> str:
        """Return JSON that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """Read what `to_json` wrote.

        Raises:
            DataError: No JSON object with exactly the fields of this record.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"the preprocessing is not JSON: {error}") from None
        names = [field.name for field in fields(cls)]
        if not isinstance(record, dict) or set(record) != set(names):
            raise DataError(f"the preprocessing reads {text[:80]!r}; expected an object with exactly {names}")
        return cls(**record)
