"""Writes `docs/help.md` from the help of the commands: `python -m brickyard.cli.helppage > docs/help.md`."""

from __future__ import annotations

import typer
from typer.main import get_command

from brickyard.cli.app import COMMANDS, app

_WIDTH = 100


def help_page() -> str:
    """Return the help of every command as one Markdown page."""
    parts = [
        "# Commands",
        "Made by `python -m brickyard.cli.helppage`; a test checks that it is current.",
        "Exit codes: 0 done; 1 something that can be mended, told on stderr; 2 no model fits the budget, or "
        "in bulk a request failed; 130 interrupted. Results are printed on stdout, all talk on stderr.",
        _block([]),
    ]
    for command in COMMANDS:
        parts += [f"## brickyard {command}", _block([command])]
    return "\n\n".join(parts) + "\n"


def _block(path: list[str]) -> str:
    command = get_command(app)
    context = command.make_context("brickyard", [], resilient_parsing=True, terminal_width=_WIDTH)
    for name in path:
        command = command.get_command(context, name)  # type: ignore[attr-defined]
        context = command.make_context(name, [], resilient_parsing=True, parent=context)
    return f"```text\n{command.get_help(context).rstrip()}\n```"


if __name__ == "__main__":
    typer.echo(help_page(), nl=False)
