"""Placing and painting the objects of procedural scenes, for many images at once.

Every shape is a signed distance, so that its edges are smooth at any rotation. Images are painted
rank by rank (hindmost objects first) over the whole batch, each object on a small patch.

Legend of array shapes: N images, M objects per image at most, K objects to paint now, P side of a
patch in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_COVER = 0.2
_CANDIDATES = 24
_GRAIN = bytes(((17 * byte >> 8) - 8) % 256 for byte in range(256))  # bytes to two's complement of -8 to 8
_REACH = 1.08  # the farthest that a shape reaches from its centre, in radii

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


def _cross(u: Floats, v: Floats, r: Floats) -> Floats:
    across, along = np.abs(u), np.abs(v)
    arms: Floats = np.maximum(np.maximum(across, along) - 0.97 * r, np.minimum(across, along) - 0.29 * r)
    return arms


# Signed distance in pixels (negative inside) at the object's own coordinates u, v, for a radius r.
SHAPES: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "circle": lambda u, v, r: np.hypot(u, v) - 0.95 * r,
    "square": lambda u, v, r: np.maximum(np.abs(u), np.abs(v)) - 0.76 * r,
    "triangle": lambda u, v, r: np.maximum(np.float32(0.75**0.5) * np.abs(v) - 0.5 * u, u) - 0.53 * r,
    "cross": _cross,
    "ring": lambda u, v, r: np.abs(np.hypot(u, v) - 0.72 * r) - 0.25 * r,
    "bar": lambda u, v, r: np.maximum(np.abs(u) - 0.98 * r, np.abs(v) - 0.32 * r),
}


def place(rng: np.random.Generator, side: int, radius: Floats, wanted: Bools) -> tuple[Floats, Bools]:
    """Find centres, one object after the other, so that no object shares too much of its square with others.

    Args:
        rng: Source of randomness.
        side: Side of the images in pixels.
        radius: Radii in pixels, `[N, M]`.
        wanted: Which objects shall be placed, `[N, M]`.

    Returns:
        Centres x, y in pixels, `[N, M, 2]`, and which objects found room, `[N, M]`; the first always does.
    """
    number, most = radius.shape
    centre = np.zeros((number, most, 2), np.float32)
    cover = np.zeros((number, most), np.float32)
    placed = wanted.copy()
    rows = np.arange(number)
    for now in range(most):
        reach = radius[:, now, None, None] * np.float32(_REACH)
        tries = reach + (side - 2 * reach) * rng.random((number, _CANDIDATES, 2), np.float32)
        shared = np.zeros((number, _CANDIDATES, now), np.float32)
        for other in range(now):
            gap = np.abs(tries - centre[:, None, other])
            touching = (radius[:, now] + radius[:, other])[:, None, None] - gap
            inside = 2 * np.minimum(radius[:, now], radius[:, other])[:, None, None]
            overlap = np.clip(touching, 0, inside)
            shared[:, :, other] = overlap[..., 0] * overlap[..., 1] * placed[:, other, None]
        others = cover[:, None, :now] + shared / (2 * radius[:, None, :now]) ** 2
        own = shared.sum(axis=2) / (2 * radius[:, now, None]) ** 2
        fits = (own <= MAX_COVER) & (others <= MAX_COVER).all(axis=2)
        choice = fits.argmax(axis=1)
        placed[:, now] &= fits[rows, choice]
        centre[:, now] = tries[rows, choice]
        cover[:, :now] = np.where(placed[:, now, None], others[rows, choice], cover[:, :now])
        cover[:, now] = own[rows, choice]
    return centre, placed


@dataclass(frozen=True)
class Painter:
    """Paints objects on cluttered grey backgrounds.

    Args:
        side: Side of the images in pixels.
        textures: Names by value index, of `TEXTURES`.
        colors: Names by value index, of `COLORS`.
        shapes: Names by value index, of `SHAPES`.
        noise: Strength of everything that is no object, 0 to 1.
    """

    side: int
    textures: tuple[str, ...]
    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    noise: float

    def paint(
        self, rng: np.random.Generator, objects: Ints, centre: Floats, radius: Floats, placed: Bools
    ) -> tuple[NDArray[np.uint8], Floats]:
        """Paint a batch of scenes, hindmost objects first.

        Args:
            rng: Source of randomness.
            objects: Values of size, texture, color and shape, `[N, M, 4]`.
            centre: x, y in pixels, `[N, M, 2]`.
            radius: In pixels, `[N, M]`.
            placed: Which objects are there, `[N, M]`.

        Returns:
            Images, `[N, side, side, 3]`, and tight boxes x0, y0, x1, y1, `[N, M, 4]`.
        """
        number, most = placed.shape
        patch = int(np.ceil(2 * _REACH * radius.max())) + 3
        margin = patch // 2 + 1
        inner = slice(margin, margin + self.side)
        canvas = np.zeros((number, 3, self.side + 2 * margin, self.side + 2 * margin), np.float32)
        canvas[:, :, inner, inner] = self._background(rng, number)
        boxes = np.zeros((number, most, 4), np.float32)
        palette = np.array([COLORS[name] for name in self.colors], np.float32)
        for rank in range(most):
            rows = np.flatnonzero(placed[:, rank])
            middle = centre[rows, rank]
            corner = np.floor(middle).astype(np.int64) - patch // 2
            angle = _uniform(rng, 0, 2 * np.pi, (len(rows), 1, 1))
            phase = self._phases(rng, objects[rows, rank, 1])
            paint = palette[objects[rows, rank, 2]] * _uniform(rng, 0.82, 1.04, (len(rows), 1))
            paint += _uniform(rng, -0.05, 0.05, paint.shape)
            for ours, inset in _by_size(radius[rows, rank], patch):
                ours = ours[np.argsort(objects[rows[ours], rank, 3], kind="stable")]
                here, place = rows[ours], corner[ours] + inset
                frame = _frame(angle[ours], middle[ours] - corner[ours] - np.float32(0.5), (inset, patch))
                mask = self._mask(objects[here, rank, 3], frame, radius[here, rank])
                boxes[here, rank] = _boxes(mask, place)
                shade = self._shade(phase[ours], frame[0])
                _blend_(canvas, (here, place + margin), paint=paint[ours], shade=shade, mask=mask)
        images = canvas[:, :, inner, inner] * (255 * _uniform(rng, 0.85, 1.1, (number, 1, 1, 1)))
        grain = _grain(rng, images.size).reshape(images.shape)
        images += grain if self.noise == 1 else grain * np.float32(self.noise)
        np.clip(images, 0, 255, out=images)
        planes = images.astype(np.uint8)
        pixels = np.empty((number, self.side, self.side, 3), np.uint8)
        for channel in range(3):  # several times faster than one transposed cast
            pixels[..., channel] = planes[:, channel]
        return pixels, boxes

    def _mask(self, shapes: Ints, frame: tuple[Floats, Floats], radius: Floats) -> Floats:
        """Share of each pixel that the object covers, `[K, P, P]`; the shapes are in ascending order."""
        covered = np.empty_like(frame[0])
        bounds = np.searchsorted(shapes, np.arange(len(self.shapes) + 1))
        for name, start, stop in zip(self.shapes, bounds, bounds[1:], strict=False):
            ours = slice(start, stop)
            distance = SHAPES[name](frame[0][ours], frame[1][ours], radius[ours, None, None])
            np.subtract(np.float32(0.5), distance, out=covered[ours])
        np.clip(covered, 0, 1, out=covered)
        return covered

    def _phases(self, rng: np.random.Generator, textures: Ints) -> Floats:
        """Where stripes begin, as a share of their period, `[K, 1, 1]`; -1 for plain objects."""
        phase = np.full((len(textures), 1, 1), -1, np.float32)
        if "striped" in self.textures:
            ours = np.flatnonzero(textures == self.textures.index("striped"))
            phase[ours] = rng.random((len(ours), 1, 1), np.float32)
        return phase

    def _shade(self, phase: Floats, u: Floats) -> Floats:
        """Brightness of the texture, `[K, P, P]`: dark stripes across u, or 1 everywhere."""
        shade = np.ones_like(u)
        ours = np.flatnonzero(phase >= 0)
        period = np.float32(3.7 * self.side / 32)
        turns = u[ours] / period
        turns += phase[ours]
        turns -= np.floor(turns)
        wave = np.abs(turns - 0.5) * period
        shade[ours] = 0.36 + 0.64 * np.clip(wave - period * np.float32(0.22) + 0.5, 0, 1)
        return shade

    def _background(self, rng: np.random.Generator, number: int) -> Floats:
        """Grey with gradients, blotches, lines and a weak tint, 0.1 to 0.8, `[number, 3, side, side]`."""
        side = self.side
        grey: Floats = _uniform(rng, 0.28, 0.52, (number, 1, 1))
        grid = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        for _ in range(2):
            angle = _uniform(rng, 0, np.pi, (number, 1, 1))
            offset = _uniform(rng, -side / 2, side / 2, (number, 1, 1))
            distance = np.cos(angle) * grid[:, None] + np.sin(angle) * grid
            distance -= offset
            np.abs(distance, out=distance)
            strength = _uniform(rng, -0.18, 0.18, (number, 1, 1)) * np.float32(self.noise)
            np.subtract(np.float32(side / 32 + 0.2), distance, out=distance)
            np.clip(distance, 0, 1, out=distance)
            distance *= strength
            distance += grey
            grey = distance
        result = np.zeros((number, 3, side, side), np.float32)
        part = np.empty_like(result)
        for cells, contrast in ((2, 0.16), (7, 0.09)):
            weights = _interpolation(side, cells)
            knots = _uniform(rng, -contrast, contrast, (number, 1, cells, cells))
            knots = knots + _uniform(rng, -0.04, 0.04, (number, 3, cells, cells))
            columns = knots.reshape(-1, cells) @ weights.T
            result += np.matmul(weights, columns.reshape(number, 3, cells, side), out=part)
        if self.noise != 1:
            result *= np.float32(self.noise)
        result += grey[:, None]
        return result


def _frame(angle: Floats, middle: Floats, extent: tuple[int, int]) -> tuple[Floats, Floats]:
    """Rotated coordinates around the middle of each object, two of `[K, P, P]`, in pixels.

    Args:
        angle: `[K, 1, 1]`.
        middle: x, y in the patch, `[K, 2]`.
        extent: Pixels at the rim of the patch that are left out, and the patch's side.
    """
    inset, patch = extent
    cos, sin = np.cos(angle), np.sin(angle)
    grid = np.arange(inset, patch - inset, dtype=np.float32)
    x = (grid - middle[:, :1])[:, None, :]
    y = (grid - middle[:, 1:])[:, :, None]
    return cos * x + sin * y, cos * y - sin * x


def _by_size(radius: Floats, patch: int) -> Iterator[tuple[Ints, int]]:
    """Yield small and large objects, and how many pixels at the rim of the patch they do not reach."""
    is_small = (radius < 0.75 * radius.max(initial=0)) & (patch > 30)  # below, splitting costs more
    for ours in (np.flatnonzero(is_small), np.flatnonzero(~is_small)):
        if len(ours):
            reach = int(np.ceil(_REACH * radius[ours].max())) + 2
            yield ours, max(0, patch // 2 - reach)


def _blend_(canvas: Floats, place: tuple[Ints, Ints], *, paint: Floats, shade: Floats, mask: Floats) -> None:
    """Lay one object over each of some images, in place.

    Args:
        canvas: `[N, 3, height, width]`.
        place: Images `[K]` and upper left corners x, y `[K, 2]`.
        paint: Colours `[K, 3]`.
        shade: Brightness `[K, P, P]`.
        mask: Share of each pixel that the object covers `[K, P, P]`.
    """
    rows, corner = place
    windows = sliding_window_view(canvas, mask.shape[1:], axis=(2, 3), writeable=True)
    where = (rows, slice(None), corner[:, 1], corner[:, 0])
    change = paint[:, :, None, None] * shade[:, None]
    under = windows[where]
    change -= under
    change *= mask[:, None]
    change += under
    windows[where] = change


def _uniform(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> Floats:
    return np.float32(low) + np.float32(high - low) * rng.random(shape, np.float32)


def _grain(rng: np.random.Generator, number: int) -> NDArray[np.int8]:
    """Uniform integers from -8 to 8 by rejection: of 256 byte values, zero is drawn again."""
    grain = b""
    while len(grain) < number:
        missing = number - len(grain)
        grain += rng.bytes(missing + -missing % 4).translate(_GRAIN, b"\0")
    return np.frombuffer(grain, np.int8, number)


def _interpolation(side: int, cells: int) -> Floats:
    """Linear interpolation of `cells` knots at `side` pixels, `[side, cells]`."""
    position = np.linspace(0, cells - 1, side)
    weights: Floats = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)
    return weights


def _boxes(mask: Floats, corner: Ints) -> Floats:
    """Tight boxes around the pixels that are at least half covered, `[K, 4]`."""
    solid = mask >= 0.5
    boxes = np.empty((len(mask), 4), np.float32)
    for axis in (0, 1):
        along: Bools = np.asarray(solid.any(axis=axis + 1))
        boxes[:, axis] = corner[:, axis] + along.argmax(axis=1)
        boxes[:, axis + 2] = corner[:, axis] + mask.shape[1] - along[:, ::-1].argmax(axis=1)
    return boxes
