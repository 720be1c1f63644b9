"""The summary of a made model that `make` and `report` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brickyard.factory.exit_records import ExitReport
    from brickyard.factory.records import Budget, Report
    from brickyard.factory.text_records import TextReport


def _limit(budget: Budget, name: str, unit: str = "") -> str:
    value = getattr(budget, name)
    return "" if value is None else f", limit {value}{unit}"


def _runtime(report: Report) -> str:
    if report.runtime_memory_bytes is None:
        return ""
    limit = _limit(report.budget, "max_memory_mb", " MB")
    return f"; {report.runtime_memory_bytes / 1e6:.3f} MB in the runtime, measured{limit}"


def summary(report: Report) -> str:
    """Describe a made model in a few aligned lines.

    Args:
        report: Its report.
    """
    budget, measured, quality = report.budget, report.measured, report.quality
    predicted = report.predicted.latency_ms
    guess = "" if predicted is None else f", predicted {predicted:.3f}"
    whole_ms = "" if report.whole_measured is None else f", whole network {report.whole_measured:.3f}"
    rows = [
        (
            "latency",
            f"{measured.p50:.3f} ms p50, {measured.p90:.3f} p90{_limit(budget, 'latency_ms')}"
            f"{guess}{whole_ms}; threads {measured.threads}",
        ),
        ("MACs", f"{report.macs:,}, {report.macs_share:.1%} of the network{_limit(budget, 'max_macs')}"),
        ("parameters", f"{report.parameters:,}{_limit(budget, 'max_parameters')}"),
        ("file", f"{report.file_bytes / 1e6:.3f} MB{_limit(budget, 'max_file_mb', ' MB')}"),
        ("memory", f"{report.peak_memory_bytes / 1e6:.3f} MB of weights and activations{_runtime(report)}"),
    ]
    if report.energy is not None:
        rows.append(
            (
                "energy",
                f"{report.energy.mj:.3f} mJ, {report.energy.above_idle_mj:.3f} above idle"
                f"{_limit(budget, 'energy_mj', ' mJ')}",
            )
        )
    elif report.predicted.energy_mj is not None:
        rows.append(
            ("energy", f"{report.predicted.energy_mj:.3f} mJ predicted{_limit(budget, 'energy_mj', ' mJ')}")
        )
    if quality is not None:
        whole = "" if quality.whole is None else f" (without limits {quality.whole:.3f})"
        ap = "" if quality.ap is None else f", AP {quality.ap:.3f}"
        told = f"{quality.metric_name} {quality.value:.3f}{whole}{ap} on {quality.examples} {quality.source}"
        rows.append(("quality", told))
    elif "decode" in report.files:
        rows.append(
            ("quality", "not measured: no labelled pictures, or run: pip install 'brickyard[detection]'")
        )
    check = report.format_check
    if check is not None:
        lost = (
            ""
            if check.drop_points is None
            else f"; {check.drop_points:.1f} points lost against 32-bit numbers"
        )
        agree = "" if check.agreement is None else f", {check.agreement:.1%} of {check.inputs} answers agree"
        rows.append(
            (
                "format",
                f"{report.format}: scores differ by {check.largest_difference:.1e} of "
                f"{check.largest_score:.3g} at most{agree}{lost}",
            )
        )
    rows += [
        ("made in", f"{report.seconds['total']:.2f} s, parity error {report.parity_error:.1e}"),
        ("model", report.files["model"]),
        ("report", report.files["page"]),
    ]
    known = {True: "", False: ", a combination that was never trained", None: ""}[report.known_task]
    return "\n".join([f"{report.task}{known}", *(f"  {name:<11}{text}" for name, text in rows)])


def text_summary(report: TextReport) -> str:
    """Describe a made model that reads texts in a few aligned lines.

    Args:
        report: Its report.
    """
    costs, whole, quality, time = report.costs, report.whole, report.quality, report.text_ms
    rows = [
        (
            "quality",
            f"{quality.metric_name} {quality.shown(quality.value)} (whole network "
            f"{quality.shown(quality.whole)}) on {quality.texts} held-out texts",
        ),
        ("a text", f"{time.p50:.3f} ms p50, {time.p90:.3f} p90; threads {time.threads}"),
        *(
            (
                file.removesuffix(".onnx"),
                f"{ms:.3f} ms a pass of the most tokens, whole {whole.latency[file]:.3f}",
            )
            for file, ms in costs.latency.items()
        ),
        ("MACs", f"{costs.macs:,}, {costs.macs / whole.macs:.1%} of the network"),
        ("parameters", f"{costs.parameters:,}"),
        ("files", f"{costs.file_bytes / 1e6:.3f} MB"),
        ("made in", f"{report.seconds['total']:.2f} s, parity error {report.parity_error:.1e}"),
        ("folder", str(Path(report.files["page"]).parent)),
        ("report", report.files["page"]),
    ]
    return "\n".join([report.title, *(f"  {name:<11}{text}" for name, text in rows)])


def exit_summary(report: ExitReport) -> str:
    """Describe an encoder that was cut at an exit in a few aligned lines.

    Args:
        report: Its report.
    """
    chosen, last = report.chosen, report.choices[-1]
    mrr = "not measured: no pairs were held out in training"
    if chosen.mrr is not None:
        mrr = f"MRR {chosen.mrr:.3f} (last exit {last.mrr:.3f}) on pairs that were held out"
    rows = [
        ("quality", mrr),
        (
            "a text",
            f"{chosen.latency_ms:.3f} ms p50 (last exit {last.latency_ms:.3f}), {report.tokens} tokens; "
            f"threads {report.threads}; {report.timed_on}",
        ),
        (
            "parameters",
            f"{chosen.parameters:,}, {chosen.parameters / last.parameters:.1%} of the last exit's",
        ),
        ("file", f"{report.file_bytes / 1e6:.3f} MB"),
        ("made in", f"{report.seconds['total']:.2f} s"),
        ("model", report.files["model"]),
        ("folder", f"{Path(report.files['model']).parent}, for SentenceTransformer(...)"),
    ]
    exits = ", ".join(str(choice.exit) for choice in report.choices)
    title = f"encoder of texts, cut at exit {report.exit} of {exits}"
    return "\n".join([title, *(f"  {name:<11}{text}" for name, text in rows)])
