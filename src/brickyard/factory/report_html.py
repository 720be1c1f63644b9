"""The report of a made model as one self-contained HTML page: no scripts, nothing loaded from elsewhere.

It is rendered inside a request on the device itself, so it is text alone: no plotting library, no template
engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from brickyard.factory.page_parts import bar, card, count, milliseconds, page, pairs, size, table, tile
from brickyard.factory.pictures import boxes_svg, bricks_svg, curve_svg, xml_text
from brickyard.factory.records import Report

_NOT_COUNTED = (
    "<b>Latency</b> is one picture through the model alone: decoding, resizing and normalising the picture "
    "are not in it.",
    "<b>MACs</b> are those of convolutions and linear layers; activations, pooling, additions and scalings "
    "are not counted.",
    "<b>Weights and activations</b> are what lives at the worst moment, as counted from the graph in 32-bit "
    "numbers; the runtime's own code, buffers and packed copies of weights come on top.",
    "<b>Memory in the runtime</b>, where it was asked for, is measured on the machine that made the file: by "
    "how much the peak of a fresh process grows while ONNX Runtime loads the file and runs it. Code is "
    "not in it.",
    "<b>Energy</b> is that of the processor package by its own counter, idle power and whatever else runs "
    "included; memory chips and the rest of the machine are not in it. With the profile or table of another "
    "machine it is predicted.",
    "<b>Predictions</b> come from the device profile and the counts before the file is written; the rest "
    "is measured on, or counted from, the file itself.",
    "<b>The curve</b> is the mean over tasks from the factory's training; the mark is this one task.",
)
_NAMES: dict[str, str] = {
    "latency_ms": "Latency (p50)",
    "macs": "MACs",
    "parameters": "Parameters",
    "file_bytes": "File",
    "peak_memory_bytes": "Weights and activations",
    "runtime_memory_bytes": "Memory in the runtime",
    "energy_mj": "Energy",
}


def _amount(name: str, value: float) -> str:
    if name == "latency_ms":
        return milliseconds(value)
    if name == "energy_mj":
        return f"{value:.3f} mJ"
    return f"{size(value)} <small>({count(value)} B)</small>" if name.endswith("bytes") else count(value)


def _spent(report: Report) -> dict[str, float]:
    """What the model costs, by the quantities that can be limited."""
    further = {
        "runtime_memory_bytes": report.runtime_memory_bytes,
        "energy_mj": report.predicted.energy_mj if report.energy is None else report.energy.mj,
    }
    return {
        "latency_ms": report.measured.p50,
        "macs": report.macs,
        "parameters": report.parameters,
        "file_bytes": report.file_bytes,
        "peak_memory_bytes": report.peak_memory_bytes,
        **{name: value for name, value in further.items() if value is not None},
    }


def _header(report: Report, limits: dict[str, float]) -> str:
    spent = _spent(report)
    over = [_NAMES[name] for name, ceiling in limits.items() if spent[name] > ceiling]
    badges = []
    if not report.feasible:
        badges.append(("bad", "not feasible"))
    elif over:
        badges.append(("bad", f"feasible, but over the limit: {', '.join(over)}"))
    elif limits:
        badges.append(
            ("good", f"feasible: {'limit' if len(limits) == 1 else f'all {len(limits)} limits'} met")
        )
    else:
        badges.append(("good", "feasible: no limits were set"))
    if report.known_task is not None:
        badges.append(
            ("", "combination known from training" if report.known_task else "combination never trained")
        )
    shown = "".join(f'<span class="badge {kind}">{text}</span>' for kind, text in badges)
    facts = [f"factory <b>{xml_text(report.factory)}</b>"]
    facts += (
        [f"device <b>{xml_text(report.device)}</b>"] if report.device is not None else ["no device profile"]
    )
    facts += [
        f"made <b>{xml_text(report.created)}</b>",
        f"in <b>{report.seconds.get('total', 0.0):.2f} s</b>",
    ]
    return f"<header><h1>{xml_text(report.task)}</h1><p>{shown}</p><p>{' · '.join(facts)}</p></header>"


def _tiles(report: Report, limits: dict[str, float]) -> str:
    measured, ceiling = report.measured, limits.get("latency_ms")
    met = "" if ceiling is None else "good" if measured.p50 <= ceiling else "bad"
    detail = f"p10 {milliseconds(measured.p10)} · p90 {milliseconds(measured.p90)}<br/>"
    detail += f"{measured.runs} runs after {measured.warmup} warm-up"
    threads = f"{measured.threads} thread" + ("s" if measured.threads != 1 else "")
    asked = "no latency limit" if ceiling is None else "at most, median of one picture"
    forecast = "no device profile"
    if report.predicted.latency_ms is not None:
        off = report.predicted.latency_ms / measured.p50 - 1 if measured.p50 > 0 else 0.0
        forecast = f"{off:+.1%} against the measured p50"
    rounds = "the first file was kept" if report.rounds == 1 else f"round {report.rounds} was kept"
    tiles = [
        tile("Requested latency", milliseconds(ceiling), asked),
        tile("Predicted latency", milliseconds(report.predicted.latency_ms), f"{forecast}<br/>{rounds}"),
        tile(
            "Measured latency, p50",
            milliseconds(measured.p50),
            f"{detail} · {threads}<br/>on {xml_text(report.measured_on)}",
            met,
        ),
    ]
    quality = report.quality
    if quality is None:
        tiles.append(
            tile(
                "Quality",
                "–",
                "no labelled pictures to measure it on"
                + (", or no pycocotools" if "decode" in report.files else ""),
            )
        )
    else:
        whole = "" if quality.whole is None else f"whole network {quality.whole:.3f}<br/>"
        metric = quality.metric_name[0].upper() + quality.metric_name[1:]
        source = f"{count(quality.examples)} held-out pictures: {xml_text(quality.source)}"
        tiles.append(tile(metric, f"{quality.value:.3f}", whole + source))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _limits(report: Report, limits: dict[str, float]) -> str:
    if not limits:
        return card("Limits", "<p>The request set no limits.</p>", wide=True)
    spent = _spent(report)
    rows = []
    for name, ceiling in limits.items():
        used = spent[name] / ceiling
        tag = ' <span class="badge">binding</span>' if name == report.binding_limit else ""
        mark = '<span class="yes">met</span>' if used <= 1 else '<span class="no">exceeded</span>'
        rows.append(
            (
                _NAMES[name] + tag,
                _amount(name, ceiling),
                _amount(name, spent[name]),
                f"{used:.1%} {bar(used)}",
                mark,
            )
        )
    asked = ", ".join(f"{key} {value}" for key, value in report.budget.model_dump(exclude_none=True).items())
    note = f"<p><small>As asked: {xml_text(asked)}</small></p>"
    return card("Limits", table(("Quantity", "Ceiling", "This model", "Used", ""), rows), note, wide=True)


def _before_after(report: Report) -> str:
    whole, guess = report.whole, report.predicted
    latency = whole.latency_ms if report.whole_measured is None else report.whole_measured
    kind = "predicted" if report.whole_measured is None else "measured"
    before: dict[str, float | None] = {
        "latency_ms": latency,
        "macs": whole.macs,
        "parameters": whole.parameters,
        "file_bytes": whole.file_bytes,
        "peak_memory_bytes": whole.peak_memory_bytes,
        "runtime_memory_bytes": whole.runtime_memory_bytes,
        "energy_mj": whole.energy_mj,
    }
    after = _spent(report)
    rows = []
    for name, value in before.items():
        if name not in after:
            continue
        share = f"{after[name] / value:.1%} {bar(after[name] / value)}" if value else "–"
        forecast: float | None = getattr(guess, name)
        shown = "–" if value is None else _amount(name, value)
        shown += f" <small>({kind})</small>" if name == "latency_ms" and value is not None else ""
        told = "–" if forecast is None else _amount(name, forecast)
        rows.append((_NAMES[name], shown, told, _amount(name, after[name]), share))
    head = ("Quantity", "Whole network", "Predicted", "This model", "Share")
    return card("Before and after", table(head, rows), wide=True)


def _bricks(report: Report) -> str:
    choices = "<h3>Other decisions</h3>" + pairs(report.choices.items()) if report.choices else ""
    if not report.blocks:
        return card("Bricks", "<p>This network has no subsets of bricks.</p>", choices)
    note = f"{report.macs_share:.1%} of the whole network's MACs. One row per block, input first."
    return card("Bricks that are on", f"<p><small>{note}</small></p>", bricks_svg(report.blocks), choices)


def _curve(report: Report) -> str:
    if not report.curve:
        return ""
    quality = None if report.quality is None else report.quality.value
    rows = [
        (f"at most {point.limit:.1%}", f"{point.macs_share:.1%}", f"{point.quality:.4f}")
        for point in sorted(report.curve, key=lambda point: point.limit)
    ]
    shown = table(("Limit on MACs", "MACs used", "Quality"), rows)
    numbers = f"<details><summary>The curve in numbers</summary>{shown}</details>"
    return card("From limit to quality", curve_svg(report.curve, (report.macs_share, quality)), numbers)


def _per_class(report: Report) -> str:
    quality = report.quality
    if quality is None:
        return ""
    rows = [(xml_text(label), f"{value:.4f} {bar(value)}") for label, value in quality.per_class.items()]
    whole = "" if quality.whole is None else f" Whole network for the same task: <b>{quality.whole:.4f}</b>."
    note = f"<p>This model: {quality.metric_name} <b>{quality.value:.4f}</b>.{whole}</p>"
    if quality.ap is not None:
        note += f"<p>Mean over overlaps of 0.5 to 0.95 (AP): <b>{quality.ap:.4f}</b>.</p>"
    each = "Recall" if quality.ap is None else quality.metric_name
    return card("Quality per label", note, table(("Label", each), rows))


def _pictures(report: Report, pictures: Sequence[Mapping[str, Any]]) -> str:
    """Show what the whole network and the made model find, side by side."""
    if not pictures:
        return ""
    note = (
        "<p><small>Held-out pictures. Dashed: boxes that are there; solid: boxes that were found, with "
        "their scores. The whole network has the same task and no limit.</small></p>"
    )
    rows = "".join(
        '<div class="pair">'
        f"<figure>{boxes_svg(picture, 'whole')}<figcaption>whole network</figcaption></figure>"
        f"<figure>{boxes_svg(picture, 'made')}<figcaption>this model</figcaption></figure></div>"
        for picture in pictures
    )
    return card("What it finds", note, rows, wide=True)


def _checks(report: Report) -> str:
    facts = pairs(
        (
            ("Largest difference of any score", f"{report.parity_error:.2e}"),
            ("compared with", report.parity_reference),
            ("Rounds", report.rounds),
            ("Seed", report.seed),
            ("Config sha256", report.config_sha256),
        )
    )
    return card(
        "Parity and provenance", facts, _energy(report), "<h3>Versions</h3>", pairs(report.versions.items())
    )


def _energy(report: Report) -> str:
    energy = report.energy
    if energy is None:
        return ""
    facts = (
        ("Of one picture", f"{energy.mj:.3f} mJ, idle power included"),
        ("Above idle", f"{energy.above_idle_mj:.3f} mJ"),
        ("Idle machine", f"{energy.idle_watts:.2f} W"),
        ("Counted by", f"{energy.counter}, {count(energy.runs)} runs in {energy.seconds:.2f} s"),
    )
    return "<h3>Energy</h3>" + pairs(facts)


def _format(report: Report) -> str:
    check = report.format_check
    if check is None:
        return ""
    facts: list[tuple[object, object]] = [
        ("Format", report.format),
        ("compared with", "the model in ONNX Runtime, 32-bit numbers"),
        ("Largest difference of any score", f"{check.largest_difference:.2e} of {check.largest_score:.3g}"),
    ]
    if check.agreement is not None:
        facts.append(("Answers that agree", f"{check.agreement:.1%} of {check.inputs} calibration pictures"))
    if check.reference_quality is not None:
        facts.append(("Quality in 32-bit numbers", f"{check.reference_quality:.4f}"))
        facts.append(("Points lost", f"{check.drop_points:.1f}"))
    warning = "" if check.warning is None else f'<p class="no">{xml_text(check.warning)}</p>'
    return card("Format of the file", warning, pairs(facts))


def _seconds(report: Report) -> str:
    total = report.seconds.get("total") or sum(report.seconds.values()) or 1.0
    rows = [
        (
            f"<b>{xml_text(part)}</b>" if part == "total" else xml_text(part),
            f"{value:.4f} s {bar(value / total)}",
        )
        for part, value in report.seconds.items()
    ]
    return card("Time it took to make", table(("Part", "Seconds"), rows))


def _files(report: Report) -> str:
    return card("Files", pairs(report.files.items()), "<h3>sha256</h3>", pairs(report.sha256.items()))


def render(report: Report, pictures: Sequence[Mapping[str, Any]] = ()) -> str:
    """Render the report of a made model.

    Args:
        report: The record; all its text is escaped.
        pictures: For detectors, pictures with boxes, see `brickyard.factory.boxes.show_boxes`.

    Returns:
        A whole HTML page, well-formed as XML too.
    """
    limits = report.budget.limits(whole_macs=report.whole.macs)
    plain = card(
        "What is not counted", "<ul>", *(f"<li>{line}</li>" for line in _NOT_COUNTED), "</ul>", wide=True
    )
    cards = (
        _limits(report, limits),
        _before_after(report),
        _bricks(report),
        _curve(report),
        _per_class(report),
        _pictures(report, pictures),
        _seconds(report),
        _checks(report),
        _format(report),
        _files(report),
        plain,
    )
    body = f'{_header(report, limits)}{_tiles(report, limits)}<div class="cards">{"".join(cards)}</div>'
    return page(f"{report.task}: report of a model made by brickyard", body)
