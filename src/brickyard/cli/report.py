"""`brickyard report`: what a model or factory folder says about itself, and where its page is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brickyard.core.errors import ArtifactError
from brickyard.core.files import read_json, write_text


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model folder or a factory folder.")],
) -> None:
    """Sum up a model or factory, and name its report page.

    The page of a model is written again where it is missing.
    """
    kind = read_json(folder / "manifest.json").get("kind")
    if kind == "model":
        _model(folder)
    elif kind == "factory":
        _factory(folder)
    else:
        raise ArtifactError(f"{folder} holds a {kind!r}; expected a model folder or a factory folder")


def _model(folder: Path) -> None:
    from pydantic import ValidationError

    from brickyard.factory.exit_records import is_cut

    if is_cut(folder):
        _cut(folder)
        return

    from brickyard.cli.summary import summary, text_summary
    from brickyard.factory.records import Report
    from brickyard.factory.report_html import render
    from brickyard.factory.text_model import text_job
    from brickyard.factory.text_records import TextReport
    from brickyard.factory.text_report_html import render_text

    kind = Report if text_job(folder) is None else TextReport
    try:
        record: Report | TextReport = kind.model_validate(read_json(folder / "report.json"))
    except ValidationError as error:
        raise ArtifactError(f"{folder / 'report.json'} is not a report of this brickyard: {error}") from None
    page = folder / "report.html"
    if not page.is_file():
        pictures = folder / "pictures.json"
        shown = read_json(pictures) if pictures.is_file() else []
        text = render_text(record) if isinstance(record, TextReport) else render(record, shown)
        write_text(page, text)
    record = record.model_copy(
        update={"files": {role: str(folder / Path(file).name) for role, file in record.files.items()}}
    )
    typer.echo(text_summary(record) if isinstance(record, TextReport) else summary(record))


def _cut(folder: Path) -> None:
    from pydantic import ValidationError

    from brickyard.cli.summary import exit_summary
    from brickyard.factory.exit_records import ExitReport

    try:
        record = ExitReport.model_validate(read_json(folder / "report.json"))
    except ValidationError as error:
        raise ArtifactError(f"{folder / 'report.json'} is not a report of this brickyard: {error}") from None
    places = {role: str(folder / Path(file).name) for role, file in record.files.items()}
    typer.echo(exit_summary(record.model_copy(update={"files": places})))


def _factory(folder: Path) -> None:
    from brickyard.cli.factories import describe, outline
    from brickyard.factory.folder import FactoryFolder

    typer.echo(outline(describe(FactoryFolder.open(folder))))
    typer.echo(f"  {'report':<12}{folder / 'training' / 'report.html'}")
