"""Parts of report pages as ready HTML, well-formed as XML: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from brickyard.factory.pictures import xml_text

_CSS = Path(__file__).with_name("report.css")


def milliseconds(value: float | None) -> str:
    """Write a time; a dash for None."""
    return "–" if value is None else f"{value:.3f} ms"


def size(value: float) -> str:
    """Write a number of bytes in kB or MB."""
    return f"{value / 1e6:.3f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def count(value: float) -> str:
    """Write a whole number."""
    return f"{value:,.0f}"


def tile(label: str, value: str, detail: str, kind: str = "") -> str:
    """Build a tile of ready HTML: one number, what it is, and what belongs to it."""
    return f'<div class="tile {kind}"><p>{label}</p><strong>{value}</strong><small>{detail}</small></div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Build a table of ready HTML; the first column is text, the others are right-aligned."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def pairs(rows: Iterable[tuple[object, object]]) -> str:
    """Build a list of names with values; both are escaped."""
    cells = "".join(f"<dt>{xml_text(key)}</dt><dd>{xml_text(value)}</dd>" for key, value in rows)
    return f"<dl>{cells}</dl>"


def bar(share: float) -> str:
    """Build a bar that is filled to a share, 0 to 1."""
    return f'<i class="bar"><b style="width:{100 * min(1.0, max(0.0, share)):.1f}%"></b></i>'


def card(title: str, *parts: str, wide: bool = False) -> str:
    """Build a card of ready HTML under a title."""
    return f'<section class="{"wide" if wide else ""}"><h2>{title}</h2>{"".join(parts)}</section>'


def page(title: str, body: str) -> str:
    """Build a whole page.

    Args:
        title: Title, which is escaped.
        body: Ready HTML.
    """
    return (
        '<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"/>'
        f"<title>{xml_text(title)}</title><style>{_CSS.read_text()}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
