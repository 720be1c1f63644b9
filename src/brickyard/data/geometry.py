"""Procedural scenes of coloured shapes: as many labelled images as wanted, from a seed, with numpy alone.

Each object has a size, a texture, a colour and a shape (in this order, so that a task reads "large striped red
circle"). Objects are rotated, may overlap a little and lie on noisy, graded backgrounds with lines. No object has more
than `MAX_COVER` of its bounding square in common with others, so that every label can be seen.

Legend of array shapes: N images, M objects per image at most, G = 4 groups, K objects to draw, P side of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brickyard.core.errors import DataError
from brickyard.core.task import Vocabulary
from brickyard.data.examples import Examples, Preprocess

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]

MAX_COVER = 0.2
_HARD_SHARE = 0.8
_CHUNK = 256
_CANDIDATES = 24

COLORS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.92, 0.12, 0.12),
    "green": (0.10, 0.75, 0.16),
    "blue": (0.14, 0.24, 0.96),
    "yellow": (0.96, 0.88, 0.10),
    "magenta": (0.88, 0.16, 0.86),
    "cyan": (0.10, 0.84, 0.90),
}
# Radius of the bounding circle at an image side of 32 pixels: smallest, largest.
SIZES: Mapping[str, tuple[float, float]] = {"small": (4.2, 4.8), "large": (6.8, 7.6)}
TEXTURES: tuple[str, ...] = ("plain", "striped")


def _circle(u: Floats, v: Floats, r: Floats) -> Floats:
    return np.hypot(u, v) - 0.95 * r


def _ring(u: Floats, v: Floats, r: Floats) -> Floats:
    return np.abs(np.hypot(u, v) - 0.72 * r) - 0.25 * r


def _square(u: Floats, v: Floats, r: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - 0.76 * r


def _triangle(u: Floats, v: Floats, r: Floats) -> Floats:
    slanted = np.float32(0.8660254) * np.abs(v) - np.float32(0.5) * u
    return np.maximum(slanted, u) - 0.53 * r


def _cross(u: Floats, v: Floats, r: Floats) -> Floats:
    across, along = np.abs(u), np.abs(v)
    low, high = np.minimum(across, along), np.maximum(across, along)
    return np.maximum(high - 0.97 * r, low - 0.29 * r)


def _bar(u: Floats, v: Floats, r: Floats) -> Floats:
    return np.maximum(np.abs(u) - 0.98 * r, np.abs(v) - 0.32 * r)


# Signed distance in pixels (negative inside) at the object's own coordinates u, v, for a radius r.
SHAPES: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "bar": _bar,
}
_REACH = 1.08  # the farthest that a shape reaches from its centre, in radii


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
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
        )


def scenes(spec: GeometrySpec, count: int, seed: int) -> Examples:
    """Draw scenes whose objects have independent, uniform properties.

    Args:
        spec: What scenes look like.
        count: Number of images, at least 1.
        seed: The same seed gives the same images.

    Returns:
        Images `[count, size, size, 3]`, objects `[count, max_objects, 4]` from the hindmost to the foremost, boxes.

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

    Of the scenes without one, four of five surely have an object that shares all but one of the named properties.

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
    for start in range(0, count, _CHUNK):
        part = slice(start, min(count, start + _CHUNK))
        drawn = properties(rng, part.stop - part.start)
        images[part], objects[part], boxes[part] = _draw(spec, rng, drawn)
    return Examples(images, objects, boxes)


def _draw(spec: GeometrySpec, rng: np.random.Generator, objects: Ints) -> tuple[Floats, Ints, Floats]:
    """Place, shuffle and paint the objects; those without room become -1."""
    number, most = objects.shape[:2]
    ranges = np.array([SIZES[name] for name in spec.sizes], np.float32) * np.float32(spec.size / 32)
    low, high = np.moveaxis(ranges[objects[..., 0]], -1, 0)
    radius = low + (high - low) * rng.random((number, most), np.float32)
    wanted = np.arange(most) < rng.integers(spec.min_objects, spec.max_objects + 1, number)[:, None]
    centre, placed = _place(rng, spec.size, radius, wanted)
    order = np.argsort(rng.random((number, most)) + ~placed, axis=1)
    objects = np.take_along_axis(objects, order[..., None], axis=1)
    centre = np.take_along_axis(centre, order[..., None], axis=1)
    radius, placed = (np.take_along_axis(array, order, axis=1) for array in (radius, placed))
    images, boxes = _paint(spec, rng, objects, centre, radius, placed)
    objects[~placed] = -1
    return images, objects, boxes


def _place(
    rng: np.random.Generator, side: int, radius: Floats, wanted: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Find centres one object after the other; the first always has room, others are left out where none is found."""
    number, most = radius.shape
    centre = np.zeros((number, most, 2), np.float32)
    cover = np.zeros((number, most), np.float32)
    placed = wanted.copy()
    rows = np.arange(number)
    for place in range(most):
        reach = radius[:, place, None, None] * np.float32(_REACH)
        tries = reach + (side - 2 * reach) * rng.random((number, _CANDIDATES, 2), np.float32)
        shared = np.zeros((number, _CANDIDATES, place), np.float32)
        for other in range(place):
            near = radius[:, place] + radius[:, other]
            gap = np.abs(tries - centre[:, None, other])
            overlap = np.minimum(
                near[:, None, None] - gap, 2 * np.minimum(radius[:, place], radius[:, other])[:, None, None]
            )
            np.maximum(overlap, 0, out=overlap)
            shared[:, :, other] = overlap[..., 0] * overlap[..., 1] * placed[:, other, None]
        others = cover[:, None, :place] + shared / (2 * radius[:, None, :place]) ** 2
        own = shared.sum(axis=2) / (2 * radius[:, place, None]) ** 2
        fits = (own <= MAX_COVER) & (others <= MAX_COVER).all(axis=2)
        choice = fits.argmax(axis=1)
        placed[:, place] &= fits[rows, choice]
        centre[:, place] = tries[rows, choice]
        present = placed[:, place]
        cover[:, :place] = np.where(present[:, None], others[rows, choice], cover[:, :place])
        cover[:, place] = own[rows, choice]
    return centre, placed


def _paint(
    spec: GeometrySpec,
    rng: np.random.Generator,
    objects: Ints,
    centre: Floats,
    radius: Floats,
    placed: NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """Paint hindmost first on a canvas with a margin; gives pixel values 0 to 255 and the boxes of what was painted."""
    number, most = placed.shape
    patch = int(np.ceil(2 * _REACH * radius.max())) + 3
    margin = patch // 2 + 1
    side = spec.size + 2 * margin
    canvas = np.zeros((number, side, side, 3), np.float32)
    inner = slice(margin, margin + spec.size)
    canvas[:, inner, inner] = _background(spec, rng, number)
    canvas = canvas.reshape(number, side * side, 3)
    boxes = np.zeros((number, most, 4), np.float32)
    grid = np.arange(patch, dtype=np.float32)
    for place in range(most):
        rows = np.flatnonzero(placed[:, place])
        if not len(rows):
            break
        middle = centre[rows, place]
        corner = np.floor(middle).astype(np.intp) - patch // 2
        mask, shade = _masks(
            spec, rng, objects[rows, place], radius[rows, place], middle - corner - 0.5, grid
        )
        boxes[rows, place] = _boxes(mask, corner)
        paint = np.array([COLORS[name] for name in spec.colors], np.float32)[objects[rows, place, 2]]
        paint = paint * rng.uniform(0.82, 1.04, (len(rows), 1)).astype(np.float32)
        paint += rng.uniform(-0.05, 0.05, paint.shape).astype(np.float32)
        ys, xs = (corner[:, axis, None] + margin + np.arange(patch) for axis in (1, 0))
        where = (ys[:, :, None] * side + xs[:, None, :]).reshape(len(rows), -1)
        under = canvas[rows[:, None], where]
        shaded = paint[:, None] * shade.reshape(len(rows), -1, 1)
        canvas[rows[:, None], where] = under + mask.reshape(len(rows), -1, 1) * (shaded - under)
    images = canvas.reshape(number, side, side, 3)[:, inner, inner]
    light = rng.uniform(0.85, 1.1, (number, 1, 1, 1)).astype(np.float32)
    grain = rng.integers(-8, 9, images.shape, np.int8) * np.float32(spec.noise)
    return np.clip(images * (255 * light) + grain, 0, 255), boxes


def _masks(
    spec: GeometrySpec, rng: np.random.Generator, objects: Ints, radius: Floats, middle: Floats, grid: Floats
) -> tuple[Floats, Floats]:
    """Coverage of each pixel of a patch and the brightness of the texture there, both `[K, P, P]` in 0 to 1."""
    angle = rng.random(len(objects), np.float32) * np.float32(2 * np.pi)
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    x = (grid - middle[:, :1])[:, None, :]
    y = (grid - middle[:, 1:])[:, :, None]
    u, v = cos * x + sin * y, cos * y - sin * x
    mask = np.empty_like(u)
    for index, name in enumerate(spec.shapes):
        ours = np.flatnonzero(objects[:, 3] == index)
        mask[ours] = SHAPES[name](u[ours], v[ours], radius[ours, None, None])
    np.subtract(0.5, mask, out=mask)
    np.clip(mask, 0, 1, out=mask)
    shade = np.ones_like(u)
    if "striped" in spec.textures:
        ours = np.flatnonzero(objects[:, 1] == spec.textures.index("striped"))
        period = np.float32(3.7 * spec.size / 32)
        phase = rng.random((len(ours), 1, 1), np.float32)
        wave = np.abs((u[ours] / period + phase) % 1 - 0.5) * period
        shade[ours] = 0.36 + 0.64 * np.clip(wave - period * np.float32(0.22) + 0.5, 0, 1)
    return mask, shade


def _boxes(mask: Floats, corner: Ints) -> Floats:
    """Tight boxes of the half-covered pixels, float32 `[K, 4]`."""
    patch = mask.shape[1]
    solid = mask >= 0.5
    boxes = np.empty((len(mask), 4), np.float32)
    for axis in (0, 1):
        along = solid.any(axis=axis + 1)
        boxes[:, axis] = corner[:, axis] + along.argmax(axis=1)
        boxes[:, axis + 2] = corner[:, axis] + patch - along[:, ::-1].argmax(axis=1)
    return boxes


def _background(spec: GeometrySpec, rng: np.random.Generator, number: int) -> Floats:
    """Grey levels with gradients, blotches, lines and a weak tint, `[number, size, size, 3]`, about 0.2 to 0.65."""
    side = spec.size
    result = rng.uniform(0.28, 0.52, (number, 1, 1, 1)).astype(np.float32)
    result = result + np.zeros((1, side, side, 3), np.float32)
    for cells, strength, tint in ((2, 0.16, 0.04), (7, 0.09, 0.04)):
        weights = _interpolation(side, cells)
        knots = rng.uniform(-strength, strength, (number, cells, cells, 1))
        knots = (knots + rng.uniform(-tint, tint, (number, cells, cells, 3))).astype(np.float32)
        rows = weights @ knots.reshape(number, cells, cells * 3)
        blotches = weights @ rows.reshape(number * side, cells, 3)
        result += np.float32(spec.noise) * blotches.reshape(number, side, side, 3)
    grid = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    for _ in range(2):
        angle = rng.random((number, 1, 1), np.float32) * np.float32(np.pi)
        offset = (rng.random((number, 1, 1), np.float32) - np.float32(0.5)) * side
        distance = np.abs(np.cos(angle) * grid[:, None] + np.sin(angle) * grid - offset)
        strength = rng.uniform(-0.18, 0.18, (number, 1, 1)).astype(np.float32) * np.float32(spec.noise)
        line = strength * np.clip(np.float32(side / 32 + 0.2) - distance, 0, 1)
        result += line[..., None]
    return result


def _interpolation(side: int, cells: int) -> Floats:
    """Linear interpolation of `cells` knots at `side` pixels, float32 `[side, cells]`."""
    place = np.linspace(0, cells - 1, side)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells))).astype(np.float32)
