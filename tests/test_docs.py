"""The pages tell the truth: help is current, commands parse, Python runs, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from brickyard.cli.app import app
from brickyard.cli.helppage import help_page
from brickyard.factory.folder import bundled_factories

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)\)")


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(page.read_text()) if language in languages]


def commands() -> list[tuple[str, str]]:
    """Each line of a shell block that runs brickyard, with its page; a prompt may stand before it."""
    return [
        (page.name, line.strip().removeprefix("$ "))
        for page in PAGES
        for block in blocks(page, "console", "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().removeprefix("$ ").startswith("brickyard ")
    ]


def test_help_page_is_current():
    assert (ROOT / "docs" / "help.md").read_text() == help_page(), "run: make docs/help.md"


@pytest.mark.parametrize(("page", "line"), commands())
def test_documented_commands_parse(page: str, line: str):
    _, *words = shlex.split(line, comments=True)
    group = get_command(app)
    context = group.make_context("brickyard", list(words), resilient_parsing=True)
    name, command, arguments = group.resolve_command(context, list(words))
    assert command is not None, f"{page}: no command {name!r}"
    command.make_context(name, list(arguments), parent=context)


def test_readme_shows_every_command_that_matters():
    shown = {line.split()[1] for page, line in commands() if page == "README.md"}
    assert shown >= {"make", "train", "evaluate"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path):
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", ["concepts.md", "modularize.md", "brick_map.md"])
def test_python_of_the_pages_runs(page):
    for block in blocks(ROOT / "docs" / page, "python"):
        exec(compile(block, page, "exec"), {})


def test_python_about_supernets_runs(capsys):
    block = next(text for text in blocks(ROOT / "docs" / "training.md", "python") if "load_trained" in text)
    exec(compile(block, "training.md", "exec"), {})
    assert capsys.readouterr().out.startswith("{'accuracy': 0.")


@pytest.mark.skipif("geometry" not in bundled_factories(), reason="no factory is bundled")
def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "red_circle/model.onnx" in capsys.readouterr().out


def test_python_of_the_search_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "search.md", "python"):
        exec(compile(block, "search.md", "exec"), names)


def test_python_of_the_continual_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "continual.md", "python"):
        exec(compile(block, "continual.md", "exec"), names)


def test_python_of_the_page_on_exits_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "exits.md", "python"):
        exec(compile(block, "exits.md", "exec"), names)
