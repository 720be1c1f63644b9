"""Procedural scenes of coloured shapes: as many labelled images as wanted, from a seed, with numpy alone.

Each object has a size, a texture, a colour and a shape, in this order, so that a task reads "large
striped red circle". Objects are rotated, may overlap a little and lie on noisy, graded backgrounds with
lines. What an object shares of its bounding square with others is bounded, so that every label can be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import DataError
from brickyard.core.task import Vocabulary
from brickyard.data._scene import COLORS, SHAPES, SIZES, TEXTURES, Ints, Painter, place
from brickyard.data.examples import Examples, Preprocess

_HARD_SHARE = 0.8
_CHUNK_ROWS = (
    2048  # of pixels in the scenes that are painted at a time, few enough for the processor's caches
)
# glibc keeps freed memory for later up to twice the largest block that a program gave back; with this one the
# temporaries of a chunk stay, which otherwise go to the system and come back page by page at each chunk.
_KEPT_BYTES = 24 * 2**20


@dataclass(frozen=True, kw_only=True)
class GeometrySpec:
    """What scenes look like.

    Args:
        size: Side of the images in pixels, 32 to 96, a multiple of 4. Objects grow with it.
        sizes: Object sizes to draw, of `SIZES`.
        textures: Textures to draw, of `TEXTURES`.
        colors: Colours to draw, of `COLORS`.
        shapes: Shapes to draw, of `SHAPES`.
        min_objects: Fewest objects of a scene, at least 1.
        max_objects: Most objects of a scene, at most 5. Scenes have fewer where there is no room.
        noise: Strength of noise, gradients and lines of the background, 0 to 1.

    Raises:
        DataError: A value outside of what stands above, or a name twice.
    """

    size: int = 32
    sizes: tuple[str, ...] = tuple(SIZES)
    textures: tuple[str, ...] = TEXTURES
    colors: tuple[str, ...] = tuple(COLORS)
    shapes: tuple[str, ...] = tuple(SHAPES)
    min_objects: int = 1
    max_objects: int = 5
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 96 or self.size % 4:
            raise DataError(f"geometry size is {self.size}; allowed: 32 to 96 pixels, a multiple of 4")
        if not 1 <= self.min_objects <= self.max_objects <= 5:
            raise DataError(
                f"objects per scene are {self.min_objects} to {self.max_objects}; allowed: 1 to 5"
            )
        if not 0 <= self.noise <= 1:
            raise DataError(f"geometry noise is {self.noise}; allowed: 0 to 1")
        known: dict[str, tuple[str, ...]] = {
            "sizes": tuple(SIZES),
            "textures": TEXTURES,
            "colors": tuple(COLORS),
            "shapes": tuple(SHAPES),
        }
        for name, allowed in known.items():
            words = tuple(getattr(self, name))
            object.__setattr__(self, name, words)
            if not words or len(set(words)) < len(words) or not set(words) <= set(allowed):
                raise DataError(f"geometry {name} are {words}; allowed: one or more of {allowed}, each once")

    @property
    def vocabulary(self) -> Vocabulary:
        """The property groups size, texture, color and shape."""
        groups = {"size": self.sizes, "texture": self.textures, "color": self.colors, "shape": self.shapes}
        return Vocabulary("properties", groups)

    @property
    def preprocess(self) -> Preprocess:
        """Fixed normalisation of the scenes."""
        return Preprocess(self.size, self.size, 3, (0.45, 0.45, 0.45), (0.25, 0.25, 0.25))

    def to_json(self) -> dict[str, Any]:
        """Return a record that `from_json` reads."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GeometrySpec:
        """Read what `to_json` gave; fields that are left out have their defaults.

        Raises:
            DataError: An unknown field, or a value that is not allowed.
        """
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(record) - set(names))
        if unknown:
            raise DataError(f"geometry has no option {unknown[0]!r}; it has {', '.join(names)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
        }
        return cls(**values)


def scenes(spec: GeometrySpec, count: int, seed: int) -> Examples:
    """Draw scenes whose objects have independent, uniform properties.

    Args:
        spec: What scenes look like.
        count: Number of images, at least 1.
        seed: The same seed gives the same images.

    Returns:
        Images `[count, size, size, 3]`, objects `[count, max_objects, 4]` from the hindmost to the
        foremost, boxes.

    Raises:
        DataError: `count` is below 1.
    """

    def properties(rng: np.random.Generator, number: int) -> Ints:
        return rng.integers(0, spec.vocabulary.sizes, size=(number, spec.max_objects, 4))

    return _make(spec, count, seed, properties)


def task_scenes(
    spec: GeometrySpec, values: Mapping[int, int], count: int, seed: int
) -> tuple[Examples, NDArray[np.bool_]]:
    """Draw scenes for one property task, half of them with an object that satisfies it.

    Of the scenes without one, four of five surely have an object that shares all but one of
    the named properties.

    Args:
        spec: What scenes look like.
        values: Group index to value index, as `Task.values` gives them; at least one.
        count: Number of images, at least 1; with an odd number there is one negative more.
        seed: The same seed gives the same images.

    Returns:
        The examples and bool `[count]`, whether some object has all the values.

    Raises:
        DataError: A value is outside of the vocabulary, or every object of this spec satisfies the task.
    """
    sizes = spec.vocabulary.sizes
    if not values or any(
        group not in range(4) or not 0 <= value < sizes[group] for group, value in values.items()
    ):
        raise DataError(
            f"task values are {dict(values)}; expected group to value index within the sizes {sizes}"
        )
    if all(sizes[group] == 1 for group in values):
        raise DataError(
            "every object of this geometry satisfies the task; name a property that has several values"
        )
    labels = np.arange(count) % 2 == 1
    np.random.default_rng([seed, 1]).shuffle(labels)
    done = 0

    def properties(rng: np.random.Generator, number: int) -> Ints:
        nonlocal done
        positive = labels[done : done + number]
        done += number
        objects = rng.integers(0, sizes, size=(number, spec.max_objects, 4))
        near = rng.random((number, spec.max_objects)) < 0.2
        near[:, 0] = rng.random(number) < _HARD_SHARE
        for group, value in values.items():
            objects[..., group][near] = value
        target = np.zeros_like(near)
        target[:, 0] = positive
        wrong = near | (~positive[:, None] & _satisfies(objects, values))
        _spoil(rng, objects, wrong & _satisfies(objects, values) & ~target, values, sizes)
        for group, value in values.items():
            objects[..., group][target] = value
        return objects

    examples = _make(spec, count, seed, properties)
    return examples, labels


def _satisfies(objects: Ints, values: Mapping[int, int]) -> NDArray[np.bool_]:
    result = np.ones(objects.shape[:-1], np.bool_)
    for group, value in values.items():
        result &= objects[..., group] == value
    return result


def _spoil(
    rng: np.random.Generator,
    objects: Ints,
    where: NDArray[np.bool_],
    values: Mapping[int, int],
    sizes: tuple[int, ...],
) -> None:
    """Give one of the named properties another value, in place."""
    images, places = np.nonzero(where)
    groups = np.array([group for group in values if sizes[group] > 1])
    group = rng.choice(groups, len(images))
    size = np.array(sizes)[group]
    step = 1 + (rng.random(len(images)) * (size - 1)).astype(np.intp)
    objects[images, places, group] = (objects[images, places, group] + step) % size


def _make(
    spec: GeometrySpec, count: int, seed: int, properties: Callable[[np.random.Generator, int], Ints]
) -> Examples:
    if count < 1:
        raise DataError(f"{count} images were asked for; ask for at least 1")
    rng = np.random.default_rng([seed, 0])
    images = np.empty((count, spec.size, spec.size, 3), np.uint8)
    objects = np.empty((count, spec.max_objects, 4), np.int16)
    boxes = np.empty((count, spec.max_objects, 4), np.float32)
    chunk = max(1, _CHUNK_ROWS // spec.size)
    np.empty(_KEPT_BYTES, np.uint8)  # given back at once, never touched: see _KEPT_BYTES
    for start in range(0, count, chunk):
        part = slice(start, min(count, start + chunk))
        drawn = properties(rng, part.stop - part.start)
        images[part], objects[part], boxes[part] = _draw(spec, rng, drawn)
    return Examples(images, objects, boxes)


def _draw(
    spec: GeometrySpec, rng: np.random.Generator, objects: Ints
) -> tuple[NDArray[np.uint8], Ints, NDArray[np.float32]]:
    """Place, shuffle and paint the objects; those without room become -1 and come last."""
    number, most = objects.shape[:2]
    ranges = np.array([SIZES[name] for name in spec.sizes], np.float32) * np.float32(spec.size / 32)
    low, high = ranges.T[:, objects[:, :, 0]]
    radius = (low + (high - low) * rng.random((number, most), np.float32)).astype(np.float32)
    wanted = np.arange(most) < rng.integers(spec.min_objects, spec.max_objects + 1, (number, 1))
    centre, placed = place(rng, spec.size, radius, wanted)
    order = np.argsort(rng.random((number, most)) + ~placed, axis=1)
    objects = np.take_along_axis(objects, order[..., None], axis=1)
    centre = np.take_along_axis(centre, order[..., None], axis=1)
    radius = np.take_along_axis(radius, order, axis=1)
    placed = np.take_along_axis(placed, order, axis=1)
    painter = Painter(spec.size, spec.textures, spec.colors, spec.shapes, spec.noise)
    images, boxes = painter.paint(rng, objects, centre, radius, placed)
    objects[~placed] = -1
    return images, objects, boxes
