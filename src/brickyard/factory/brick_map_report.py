"""The page of a map of bricks: heat maps of scores, changes and overlaps, and the curve of sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from brickyard.factory.page_parts import card, count, page, table, tile
from brickyard.factory.pictures import INK, LINE, MUTED, xml_text

Record = Mapping[str, Any]
_COLORS = ("#1f6feb", "#d1495b", "#2e8b57", "#8b5cf6", "#c77d0a", "#0e7c86", "#b5179e", "#5d6773")
_NOTES = (
    "<b>Score</b>: average precision of texts ranked by the mean absolute activation of a neuron, where the "
    "texts of the function are the right ones. Chance gives their share of the texts. A best neuron is found "
    "on one half of the texts, and its score is that on the other half.",
    "<b>Change</b>: on held-out texts, without the located neurons in all layers at once. Of embeddings 1 - "
    "cosine; of language models the relative increase of perplexity.",
    "<b>Random neurons</b>: as many, drawn anew for each row, nothing else changed.",
    "<b>Control</b>: the same model with weights as they are before training. Words alone tell some "
    "functions apart, so its best scores may lie above chance; its changes tell whether neurons serve one.",
    "<b>Experts that pass</b> hold more located neurons of some function than a hypergeometric test "
    "explains (p up to 0.001 for each function); enrichment is found over expected neurons where it passes.",
    "<b>Sparsity</b>: for each token, the neurons of each layer that give least (absolute activation times "
    "the length of the column that reads it) are set to 0.",
)


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    top: float,
    corner: str = "",
    digits: int = 2,
) -> str:
    """Build a table whose cells are the darker the higher their number.

    Args:
        rows: Names of the rows.
        columns: Names of the columns.
        values: Numbers, row by row.
        top: The number of the darkest cell.
        corner: What stands above the names of the rows.
        digits: Digits behind the point.

    Returns:
        Ready HTML.
    """

    def cell(value: float) -> str:
        part = 100 * min(1.0, max(0.0, value / top if top > 0 else 0.0)) * 0.75
        paint = f"background:color-mix(in srgb,var(--brick) {part:.0f}%,transparent)"
        return f'<td style="{paint};padding:5px 10px">{value:.{digits}f}</td>'

    head = "".join(f"<th>{xml_text(name)}</th>" for name in (corner, *columns))
    body = "".join(
        f"<tr><td>{xml_text(name)}</td>{''.join(map(cell, numbers))}</tr>"
        for name, numbers in zip(rows, values, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def render_map(record: Record, control: Record | None = None, *, title: str) -> str:
    """Render a map as one self-contained page.

    Args:
        record: The map, from `brickyard.modularize.map_record`.
        control: The map of the control, None where there is none.
        title: Name of the model.

    Returns:
        A whole HTML page, well-formed as XML too.
    """
    cards = [_scores(record, control), _changes(record, "Without the located neurons")]
    if control is not None:
        cards.append(_changes(control, "The same in the control"))
    cards += [_overlap(record), _experts(record, control), _sparsity(record)]
    notes = "".join(f"<li>{note}</li>" for note in _NOTES)
    cards.append(card("What the numbers are", f"<ul>{notes}</ul>", wide=True))
    body = f'{_header(record, title)}{_tiles(record, control)}<div class="cards">{"".join(cards)}</div>'
    return page(f"{title}: a map of its bricks", body)


def _header(record: Record, title: str) -> str:
    neurons = sum(layer["neurons"] for layer in record["layers"])
    badges = (f"{len(record['layers'])} feed-forward networks", f"{count(neurons)} neurons")
    shown = "".join(f'<span class="badge">{badge}</span>' for badge in badges)
    texts = ", ".join(
        f"{name} {first} + {other}"
        for name, (first, other) in zip(record["functions"], record["texts"], strict=True)
    )
    return (
        f"<header><h1>{xml_text(title)}</h1><p>{shown}</p><p>texts to locate on + held out: "
        f"{xml_text(texts)}; seed {record['seed']}</p></header>"
    )


def _tiles(record: Record, control: Record | None) -> str:
    names = record["functions"]
    means = {
        name: _mean([layer["best"][place] for layer in record["layers"]]) for place, name in enumerate(names)
    }
    lowest = min(names, key=lambda name: means[name])

    def beside(key: str) -> str:
        return "" if control is None else f"control {control[key]:.2f}"

    tiles = (
        tile("Best score, mean over layers", f"{means[lowest]:.2f}", f"of {xml_text(lowest)}, the lowest"),
        tile("Change, own function / others", f"{record['diagonal_ratio']:.2f}", beside("diagonal_ratio")),
        tile("Change, own function / random neurons", f"{record['over_random']:.2f}", beside("over_random")),
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _scores(record: Record, control: Record | None) -> str:
    names, layers = record["functions"], record["layers"]
    rows = [str(place) for place in range(len(layers))]
    held = [heat(rows, names, [layer["best"] for layer in layers], top=1.0, corner="layer")]
    held.append(f"<h3>Mean of the located {record['share']:.1%}</h3>")
    held.append(heat(rows, names, [layer["located_mean"] for layer in layers], top=1.0, corner="layer"))
    split = [place for place, layer in enumerate(layers) if layer["best_expert"] is not None]
    if split:
        held.append("<h3>Best expert</h3>")
        best = [layers[place]["best_expert"] for place in split]
        held.append(heat([str(place) for place in split], names, best, top=1.0, corner="layer"))
    held.append("<h3>Mean of all neurons</h3>")
    held.append(heat(rows, names, [layer["mean"] for layer in layers], top=1.0, corner="layer"))
    if control is not None:
        held.append("<h3>Best neuron of the control</h3>")
        best = [layer["best"] for layer in control["layers"]]
        held.append(heat(rows, names, best, top=1.0, corner="layer"))
    return card("Best neuron: score on held-out texts", *held, wide=True)


def _changes(record: Record, title: str) -> str:
    names = record["functions"]
    draws = len(record["random"])
    columns = list(zip(*record["random"], strict=True))
    mean = [_mean(column) for column in columns]
    spread = [(max(column) - min(column)) / 2 for column in columns]
    rows = [*names, "random neurons"]
    top = max(max(line) for line in [*record["change"], mean])
    shown = heat(rows, names, [*record["change"], mean], top=top, corner="without / change of", digits=3)
    spreads = ", ".join(f"{value:.3f}" for value in spread)
    note = (
        f"<p><small>{record['share']:.1%} of each layer's neurons, change of {record['measure']}. Random: "
        f"mean of {draws} draws, half ranges {spreads}.</small></p>"
    )
    return card(title, note, shown, wide=True)


def _overlap(record: Record) -> str:
    names = record["functions"]
    note = (
        "<p><small>Share of the neurons located for the row that are located for the column too, mean over "
        f"layers; by chance {record['share']:.2f}.</small></p>"
    )
    return card("Overlap", note, heat(names, names, record["overlap"], top=0.3), wide=True)


def _experts(record: Record, control: Record | None) -> str:
    rows = []
    for place, layer in enumerate(record["layers"]):
        if not layer["enrichment"]:
            continue
        tests = [layer["enrichment"]["experts"], layer["enrichment"]["random partition"]]
        tests += [] if control is None else [control["layers"][place]["enrichment"]["experts"]]
        rows.append((str(place), *(f"{test['share']:.0%}, {test['mean']:.1f}" for test in tests)))
    if not rows:
        return ""
    head = ("layer", "experts", "random partition", *([] if control is None else ["control"]))
    note = "<p><small>Experts that pass, and their mean enrichment.</small></p>"
    return card("Functions gather in experts", note, table(head, rows), wide=True)


def _sparsity(record: Record) -> str:
    shares, values = record["shares"], record["sparsity"]
    if len(shares) < 2:
        return ""
    width, height, left, foot = 560.0, 260.0, 48.0, 34.0
    top = max(max(line) for line in values) or 1.0
    last = max(shares)

    def point(share: float, value: float) -> str:
        x = left + (width - left - 8) * share / last
        return f"{x:.1f},{8 + (height - foot - 8) * (1 - max(0.0, value) / top):.1f}"

    parts = []
    for step in range(5):
        level = top * step / 4
        y = point(0, level).split(",")[1]
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{y}" y2="{y}" style="stroke:{LINE}"/>'
            f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end" style="fill:{MUTED}">'
            f"{level:.2g}</text>"
        )
    for share in shares:
        x = point(share, 0).split(",")[0]
        parts.append(
            f'<text x="{x}" y="{height - 16}" text-anchor="middle" style="fill:{MUTED}">{share:.0%}</text>'
        )
    keys = []
    for place, name in enumerate(record["functions"]):
        color = _COLORS[place % len(_COLORS)]
        dots = " ".join(point(share, line[place]) for share, line in zip(shares, values, strict=True))
        parts.append(f'<polyline points="{dots}" style="fill:none;stroke:{color};stroke-width:1.8"/>')
        keys.append(f'<span class="badge" style="border-color:{color}">{xml_text(name)}</span>')
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'style="width:100%;max-width:{width:g}px;height:auto;font:12px system-ui,sans-serif;color:{INK}">'
        f"<title>Change by share of neurons left out</title>{''.join(parts)}</svg>"
    )
    rows = [f"{share:.0%}" for share in shares]
    shown = heat(rows, record["functions"], values, top=top, corner="left out", digits=3)
    note = (
        f"<p><small>Change of {record['measure']} by the share of neurons left out of each token.</small></p>"
    )
    details = f"<details><summary>Numbers</summary>{shown}</details>"
    return card("Sparsity", note, picture, f"<p>{''.join(keys)}</p>", details, wide=True)
