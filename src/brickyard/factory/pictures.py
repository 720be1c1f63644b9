"""Pictures as SVG text: which bricks are on, the curve from limit to quality, boxes. Needs no library.

Colours are CSS variables (`--brick`, `--brick-off`, `--ink`, `--muted`, `--line`) with fallbacks, so that a
picture fits a light or dark page and still reads alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from brickyard.factory.records import Block, CurvePoint

ON = "var(--brick,#b8512b)"
OFF = "var(--brick-off,#d9dce1)"
INK = "var(--ink,#1c2127)"
MUTED = "var(--muted,#5d6773)"
LINE = "var(--line,#d9dce1)"

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PER_LINE = 64
_LABEL = 150
_SHARE = 110


def xml_text(text: object) -> str:
    """Return text that is safe between tags and inside double-quoted attributes of XML and HTML."""
    return escape(_NOT_XML.sub("\ufffd", str(text)), {'"': "&quot;"})


def _open(width: float, height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'style="width:100%;max-width:{width:g}px;height:auto;font:12px system-ui,sans-serif">'
        f"<title>{xml_text(title)}</title>"
    )


def _text(
    x: float, y: float, text: str, *, fill: str = INK, anchor: str = "start", bold: bool = False
) -> str:
    weight = ";font-weight:600" if bold else ""
    style = f'text-anchor="{anchor}" style="fill:{fill}{weight}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{xml_text(text)}</text>'


def _squares(bricks: Sequence[bool], on: bool, y: float, cell: float, per_line: int) -> str:
    side = cell - max(1, round(cell / 8))
    places = (divmod(index, per_line) for index, brick in enumerate(bricks) if brick is on)
    path = "".join(
        f"M{_LABEL + column * cell:g} {y + row * cell:g}h{side:g}v{side:g}h-{side:g}z"
        for row, column in places
    )
    return f'<path d="{path}" style="fill:{ON if on else OFF}"/>' if path else ""


def bricks_svg(blocks: Sequence[Block]) -> str:
    """Draw which bricks are on: one row of squares per block, its share behind it, a legend below.

    Args:
        blocks: The blocks from the input to the output; one of more than 64 bricks takes several lines.

    Returns:
        An `<svg>` element.
    """
    per_line = min(_PER_LINE, max((len(block.bricks) for block in blocks), default=1))
    cell = max(7, min(20, 480 // per_line))
    width = _LABEL + per_line * cell + _SHARE
    parts, y = [], 4.0
    for block in blocks:
        count, total = sum(block.bricks), len(block.bricks)
        height = max(1, -(-total // per_line)) * cell
        name = block.name if len(block.name) <= 21 else f"{block.name[:20]}…"
        middle = y + min(height, cell) / 2 + 4
        parts += [
            f"<g><title>{xml_text(block.name)}: {count} of {total} bricks on</title>",
            _text(_LABEL - 12, middle, name, anchor="end"),
            _squares(block.bricks, False, y, cell, per_line),
            _squares(block.bricks, True, y, cell, per_line),
            _text(
                width - 4, middle, f"{count}/{total} · {count / max(1, total):.0%}", fill=MUTED, anchor="end"
            ),
            "</g>",
        ]
        y += height + 6
    on, total = sum(sum(block.bricks) for block in blocks), sum(len(block.bricks) for block in blocks)
    y += 8
    parts += [
        f'<path d="M{_LABEL} {y:g}h12v12h-12z" style="fill:{ON}"/>',
        _text(_LABEL + 18, y + 10, "on"),
        f'<path d="M{_LABEL + 48} {y:g}h12v12h-12z" style="fill:{OFF}"/>',
        _text(_LABEL + 66, y + 10, "off"),
        _text(
            width - 4,
            y + 10,
            f"{on} of {total} bricks on · {on / max(1, total):.0%}",
            anchor="end",
            bold=True,
        ),
    ]
    return _open(width, y + 18, f"{on} of {total} bricks on") + "".join(parts) + "</svg>"


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers in [low, high]."""
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def curve_svg(points: Sequence[CurvePoint], marked: tuple[float, float | None] | None = None) -> str:
    """Draw the curve from limit to quality, with one model marked.

    A dot stands at the share of MACs that was used and is labelled with the limit that was asked for.

    Args:
        points: Points of the curve, in any order.
        marked: Share of MACs and quality of the model; a line across where the quality is None.

    Returns:
        An `<svg>` element.
    """
    width, height, left, right, top, bottom = 640, 320, 52, 24, 22, 46
    points = sorted(points, key=lambda point: point.macs_share)
    share, quality = marked or (0.0, None)
    qualities = [point.quality for point in points] + [value for value in (quality,) if value is not None]
    high_x = max(1.0, *(point.macs_share for point in points), share)
    low, high = min(qualities, default=0.0), max(qualities, default=1.0)
    pad = max(0.02, 0.12 * (high - low))
    low, high = (
        max(0.0, low - pad) if low >= 0 else low - pad,
        min(1.0, high + pad) if high <= 1 else high + pad,
    )

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + x / high_x * (width - left - right)
        return round(across, 1), round(
            height - bottom - (y - low) / (high - low) * (height - top - bottom), 1
        )

    parts = []
    for tick in _ticks(low, high):
        x, y = place(0, tick)
        parts += [f'<path d="M{left} {y:g}H{width - right}" style="stroke:{LINE}"/>']
        parts += [_text(x - 8, y + 4, f"{tick:.3f}".rstrip("0").ljust(4, "0"), fill=MUTED, anchor="end")]
    for tick in _ticks(0, high_x):
        x, y = place(tick, low)
        parts += [_text(x, y + 18, f"{tick:.0%}", fill=MUTED, anchor="middle")]
    parts += [
        _text(
            (left + width - right) / 2,
            height - 8,
            "share of the whole network's MACs",
            fill=MUTED,
            anchor="middle",
        ),
        _text(left, top - 8, "quality", fill=MUTED),
    ]
    line = " ".join("{:g},{:g}".format(*place(point.macs_share, point.quality)) for point in points)
    parts += [f'<polyline points="{line}" style="fill:none;stroke:{ON};stroke-width:2.5"/>']
    free = -math.inf
    for point in points:
        x, y = place(point.macs_share, point.quality)
        detail = f"limit {point.limit:.1%}: {point.macs_share:.1%} used, quality {point.quality:.4f}"
        parts += [f'<circle cx="{x:g}" cy="{y:g}" r="4" style="fill:{ON}"><title>{detail}</title></circle>']
        if x >= free:
            parts += [_text(x - 4, y - 9, f"≤ {point.limit * 100:.3g} %", fill=MUTED, anchor="middle")]
            free = x + 44
    if marked is not None:
        x, y = place(share, low if quality is None else quality)
        label = f"this model: {share:.1%}" + ("" if quality is None else f", {quality:.3f}")
        parts += _mark(x, None if quality is None else y, label, top=top, bottom=height - bottom)
    return _open(width, height, "Curve from limit to quality") + "".join(parts) + "</svg>"


def _mark(x: float, y: float | None, label: str, *, top: int, bottom: int) -> list[str]:
    """Draw a dashed line at `x`, a ring at `y` if it is known, and the label at the foot."""
    anchor, away = ("end", -10) if x > 380 else ("start", 10)
    ring = (
        ""
        if y is None
        else f'<circle cx="{x:g}" cy="{y:g}" r="7" style="fill:none;stroke:{INK};stroke-width:2.5"/>'
    )
    return [
        f'<path d="M{x:g} {top}V{bottom}" style="stroke:{INK};stroke-dasharray:3 4"/>',
        ring,
        _text(x + away, bottom - 8, label, anchor=anchor, bold=True),
    ]


_BOX_COLORS = ("#ff3b6b", "#1fb6ff", "#ffb020", "#39d98a", "#b06bff", "#f4f4f4")


def boxes_svg(picture: Mapping[str, Any], found: str) -> str:
    """Draw a picture with the boxes that are there, dashed, and those that a model finds.

    Args:
        picture: A record of `brickyard.factory.boxes.show_boxes`.
        found: Name of the model in it.

    Returns:
        An `<svg>` element.
    """
    width, height = picture["width"], picture["height"]
    scale = 320 / width
    parts = [
        f'<image href="data:image/jpeg;base64,{picture["picture"]}" width="320" height="{height * scale:g}" '
        'style="image-rendering:auto"/>'
    ]
    for x0, y0, x1, y1, _ in picture["truth"]:
        parts.append(_frame((x0, y0, x1, y1), scale, 'style="fill:none;stroke:#fff;stroke-dasharray:3 3"'))
    for x0, y0, x1, y1, label, score in picture[found]:
        color = _BOX_COLORS[int(label) % len(_BOX_COLORS)]
        parts.append(_frame((x0, y0, x1, y1), scale, f'style="fill:none;stroke:{color};stroke-width:2"'))
        parts.append(_text(x0 * scale + 3, y0 * scale + 12, f"{score:.2f}", fill=color, bold=True))
    return _open(320, height * scale, f"{len(picture[found])} boxes found") + "".join(parts) + "</svg>"


def _frame(box: Sequence[float], scale: float, style: str) -> str:
    x0, y0, x1, y1 = box
    sides = f'width="{(x1 - x0) * scale:.1f}" height="{(y1 - y0) * scale:.1f}"'
    return f'<rect x="{x0 * scale:.1f}" y="{y0 * scale:.1f}" {sides} {style}/>'
