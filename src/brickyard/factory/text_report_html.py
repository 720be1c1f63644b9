"""The report of a made model that reads texts as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from brickyard.factory.page_parts import bar, card, count, milliseconds, page, pairs, size, table, tile
from brickyard.factory.pictures import xml_text
from brickyard.factory.text_records import TextReport

_FEWEST = 12  # recalls that are shown at once
_NAMES = {
    "macs": "MACs",
    "parameters": "Parameters",
    "file_bytes": "Files",
    "latency_ms": "Latency of a pass",
    "energy_mj": "Energy of a pass",
    "accuracy": "Accuracy",
    "bleu": "BLEU",
}
_PASSES = {
    "model.onnx": "Latency, one text of the most tokens",
    "encoder.onnx": "Latency, reading a source of the most tokens",
    "decoder.onnx": "Latency of one more token behind the most",
}
_NOT_COUNTED = (
    "<b>Time of a text</b> is that of the held-out texts as they are, one after the other, from text to "
    "answer: tokens, every pass of the files, and text again.",
    "<b>Latency</b> is one pass over a text of the most tokens, which most texts do not have.",
    "<b>MACs</b> are those of matrix products, attention included, over texts of the most tokens; of a "
    "translator one pass over a source and a target. Normalisation, softmax and additions are not counted.",
    "<b>What the search measured</b> is of a file of fixed shape, which for a translator gives the scores of "
    "all tokens of a target at once; these files take any number of tokens, and a translator's decoder gives "
    "the scores of the next token alone.",
    "<b>The texts of the search</b> have chosen this model, so its quality on them is a little too good; "
    "<code>brickyard evaluate</code> measures it on others.",
)
_USE = {
    "texts": 'model.classify(["a text", "another"])  # a class for each',
    "translation": 'model.translate(["a text", "another"])  # a translation for each',
}


def _header(report: TextReport) -> str:
    facts = (
        f"network <b>{xml_text(report.factory)}</b>",
        f"place <b>{report.place}</b> of the front of <b>{xml_text(report.study)}</b>",
        f"made <b>{xml_text(report.created)}</b>",
        f"in <b>{report.seconds.get('total', 0.0):.1f} s</b>",
    )
    badge = f'<span class="badge">up to {report.max_tokens} tokens a text</span>'
    badge += f'<span class="badge">{count(report.vocabulary)} known tokens</span>'
    return f"<header><h1>{xml_text(report.title)}</h1><p>{badge}</p><p>{' · '.join(facts)}</p></header>"


def _tiles(report: TextReport) -> str:
    quality, time, costs, whole = report.quality, report.text_ms, report.costs, report.whole
    detail = f"whole network {quality.shown(quality.whole)}<br/>{count(quality.texts)} held-out texts"
    spread = f"p10 {milliseconds(time.p10)} · p90 {milliseconds(time.p90)}<br/>"
    threads = f"{time.threads} thread" + ("s" if time.threads != 1 else "")
    spread += f"{count(time.runs)} held-out texts, {threads}<br/>on {xml_text(report.measured_on)}"
    name = quality.metric_name[0].upper() + quality.metric_name[1:]
    tiles = (
        tile(name, quality.shown(quality.value), detail),
        tile("Time of a text, p50", milliseconds(time.p50), spread),
        tile(
            "Files",
            size(costs.file_bytes),
            f"{costs.file_bytes / whole.file_bytes:.1%} of the whole network's",
        ),
        tile("MACs", count(costs.macs), f"{costs.macs / whole.macs:.1%} of the whole network's"),
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _before_after(report: TextReport) -> str:
    made, whole, quality = report.costs, report.whole, report.quality
    name = quality.metric_name[0].upper() + quality.metric_name[1:]
    share = (
        f"{quality.value / quality.whole:.1%} {bar(quality.value / quality.whole)}" if quality.whole else "–"
    )
    rows = [(name, quality.shown(quality.whole), quality.shown(quality.value), share)]
    for label, before, after, write in (
        ("MACs", whole.macs, made.macs, count),
        ("Parameters", whole.parameters, made.parameters, count),
        ("Files", whole.file_bytes, made.file_bytes, size),
    ):
        rows.append((label, write(before), write(after), f"{after / before:.1%} {bar(after / before)}"))
    for file, ms in made.latency.items():
        before_ms = whole.latency[file]
        share = f"{ms / before_ms:.1%} {bar(ms / before_ms)}"
        rows.append((_PASSES[file], milliseconds(before_ms), milliseconds(ms), share))
    return card(
        "Before and after", table(("Quantity", "Whole network", "This model", "Share"), rows), wide=True
    )


def _judged(report: TextReport) -> str:
    """Show what the search measured beside what these files have."""
    quality, costs = report.quality, report.costs
    here = {
        quality.metric: quality.shown(quality.value),
        "macs": count(costs.macs),
        "parameters": count(costs.parameters),
        "file_bytes": size(costs.file_bytes),
    }
    rows = []
    for name, value in report.judged.items():
        if name == quality.metric:
            told = quality.shown(value)
        elif name.endswith("bytes"):
            told = size(value)
        else:
            told = count(value) if name in ("macs", "parameters") else f"{value:.3f}"
        rows.append((xml_text(_NAMES.get(name, name)), told, here.get(name, "–")))
    note = "<p><small>The search judged the subnet in torch; this model is judged by its files.</small></p>"
    return card("What the search measured", note, table(("Quantity", "Search", "This model"), rows))


def _choices(report: TextReport) -> str:
    rows = []
    for choice in report.choices:
        shown = f"{choice.value} of {choice.largest}"
        if isinstance(choice.value, int) and isinstance(choice.largest, int) and choice.largest > 0:
            shown += f" {bar(choice.value / choice.largest)}"
        rows.append((xml_text(choice.name), shown))
    note = "<p><small>Decisions of layers that are left out are not listed.</small></p>"
    return card("The subnet", note, table(("Decision", "Chosen"), rows))


def _per_class(report: TextReport) -> str:
    recalls = report.quality.per_class
    if not recalls:
        return ""
    ordered = sorted(recalls.items(), key=lambda item: (item[1], item[0]))
    rows = [(xml_text(label), f"{value:.4f} {bar(value)}") for label, value in ordered]
    head = ("Class", "Recall")
    if len(rows) <= _FEWEST:
        return card("Quality per class", table(head, rows))
    most = f"<details><summary>All {len(rows)} classes</summary>{table(head, rows)}</details>"
    note = f"<p><small>The {_FEWEST} lowest of {len(rows)}.</small></p>"
    return card("Quality per class", note, table(head, rows[:_FEWEST]), most)


def _examples(report: TextReport) -> str:
    blocks = []
    for example in report.examples:
        right = "right class" if report.job == "texts" else "by people"
        answers = ((right, example.right), ("whole network", example.whole), ("this model", example.made))
        blocks.append(pairs((("text", example.text), *answers)))
    note = "Held-out texts"
    note += ", wrong answers first: up to half of these." if report.job == "texts" else ", drawn at random."
    return card("Some answers", f"<p><small>{note}</small></p>", "<hr/>".join(blocks), wide=True)


def _checks(report: TextReport) -> str:
    facts = (
        ("Largest difference of any score", f"{report.parity_error:.2e}"),
        ("compared with", f"the subnet in torch, {report.parity_texts} texts of different lengths"),
        ("Seed", report.seed),
        ("Config sha256", report.config_sha256),
    )
    versions = pairs(report.versions.items())
    return card("Parity and provenance", pairs(facts), "<h3>Versions</h3>", versions)


def _seconds(report: TextReport) -> str:
    total = report.seconds.get("total") or 1.0
    rows = [(xml_text(part), f"{value:.2f} s {bar(value / total)}") for part, value in report.seconds.items()]
    return card("Time it took to make", table(("Part", "Seconds"), rows))


def _use(report: TextReport) -> str:
    folder = Path(report.files["page"]).parent.name
    lines = (
        "from brickyard.factory.text_model import TextModel",
        f"model = TextModel.load({folder!r})",
        _USE[report.job],
    )
    code = "<br/>".join(f"<code>{xml_text(line)}</code>" for line in lines)
    needs = "<p><small>Needs onnxruntime and tokenizers, no torch.</small></p>"
    files = pairs((role, Path(file).name) for role, file in report.files.items())
    return card("How to run it", needs, f"<p>{code}</p>", "<h3>Files</h3>", files, wide=True)


def render_text(report: TextReport) -> str:
    """Render the report of a made model that reads texts.

    Args:
        report: The record; all its text is escaped.

    Returns:
        A whole HTML page, well-formed as XML too.
    """
    notes = "".join(f"<li>{line}</li>" for line in _NOT_COUNTED)
    cards = (
        _before_after(report),
        _examples(report),
        _judged(report),
        _choices(report),
        _per_class(report),
        _seconds(report),
        _checks(report),
        _use(report),
        card("What the numbers are", f"<ul>{notes}</ul>", wide=True),
    )
    body = f'{_header(report)}{_tiles(report)}<div class="cards">{"".join(cards)}</div>'
    return page(f"{report.title}: report of a model made by brickyard", body)
