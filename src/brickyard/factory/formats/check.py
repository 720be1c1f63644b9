"""What a file of another format than ONNX is checked for before it is written."""

from __future__ import annotations

import numpy as np

from brickyard.core.errors import ExportError
from brickyard.devices.runtimes import Session
from brickyard.factory.formats.base import Floats, Format
from brickyard.factory.quality import outputs_of
from brickyard.factory.records import FormatCheck, Quality

WARN_POINTS = 1.0
"""Points of accuracy whose loss is worth a warning."""


def compare(form: Format, session: Session, reference: Session, inputs: Floats) -> FormatCheck:
    """Compare the files of a format with the float32 graph that they were made from.

    Args:
        form: The format.
        session: Its files, opened.
        reference: The graph in ONNX Runtime.
        inputs: Inputs `[N, channels, height, width]`.

    Returns:
        What was found; quality is not yet in it.

    Raises:
        ExportError: The scores differ by more than the format allows.
    """
    pairs = list(zip(outputs_of(reference, inputs), outputs_of(session, inputs), strict=True))
    error = max(float(np.abs(actual - expected).max()) for expected, actual in pairs)
    largest = max(float(np.abs(expected).max()) for expected, _ in pairs)
    scale = max(1.0, largest)
    if form.tolerance is not None and not error <= form.tolerance * scale:
        raise ExportError(
            f"the {form.name} file differs from the model in ONNX Runtime by {error:.3g} (allowed "
            f"{form.tolerance:g} of the scores' scale); nothing was written. Take --format onnx, and report "
            f"this with the version of {form.runtime.library}"
        )
    return FormatCheck(
        largest_difference=error,
        largest_score=largest,
        agreement=None if len(pairs) > 1 else _agreement(*pairs[0]),
        inputs=len(inputs),
    )


def _agreement(expected: Floats, actual: Floats) -> float:
    return float((actual.argmax(1) == expected.argmax(1)).mean())


def with_quality(check: FormatCheck, made: Quality | None, reference: Quality | None) -> FormatCheck:
    """Add what a format costs in quality.

    Args:
        check: What was found before.
        made: Quality of the files, None where no pictures are labelled.
        reference: Quality of the float32 graph on the same pictures.
    """
    if made is None or reference is None:
        return check
    drop = 100 * (reference.value - made.value)
    warning = None
    if drop > WARN_POINTS:
        warning = (
            f"{drop:.1f} points of {made.metric_name} are lost against 32-bit numbers, on "
            f"{made.examples} pictures; more than {WARN_POINTS:g} is much. Take another format, or a larger "
            "model"
        )
    return check.model_copy(
        update={"reference_quality": reference.value, "drop_points": drop, "warning": warning}
    )
