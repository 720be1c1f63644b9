"""The commands by name; a command's file is imported when the command is called.

Exit codes: 0 done; 1 something the user can mend, told in one line on stderr; 2 no model fits the budget
(in bulk: a request failed); 130 interrupted.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from brickyard.cli.talk import complain
from brickyard.core.errors import BrickyardError

COMMANDS = (
    "make",
    "evaluate",
    "train",
    "train supernet",
    "train exits",
    "pairs",
    "learn",
    "tasks",
    "search",
    "modularize",
    "modularize experts",
    "map",
    "map prune",
    "profile",
    "factories",
    "report",
)
"""The commands in the order of the help; each stands in the file of its name, as the function of its name.

Two words are joined there by an underscore.
"""

_USAGE_EXIT = 1
# Unknown commands and options, and values that cannot be read; typer exports only the subclass.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class LazyGroup(TyperGroup):
    """Loads a command when it is asked for, and turns errors into exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None; then all commands are loaded, so that near names can be told."""
        wanted = (cmd_name,) if cmd_name in COMMANDS else COMMANDS
        self.commands.update({name: _load(name) for name in wanted if name not in self.commands})
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and further arguments; the name may have two words."""
        words = " ".join(args[:2])
        if len(args) > 1 and words in COMMANDS:
            args = [words, *args[2:]]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command's name."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            raise _with_code(error) from None

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            typer.Exit: It failed for a reason that the user can mend; the message is on stderr.
        """
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            raise _with_code(error) from None
        except BrickyardError as error:
            complain(str(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            complain(str(error))
        raise typer.Exit(1)


def _with_code(error: Exception) -> Exception:
    """Set the exit code of a usage error: 2, its usual one, means here that no model fits."""
    error.exit_code = _USAGE_EXIT  # type: ignore[attr-defined]
    return error


class SpreadCommand(TyperCommand):
    """Lets an option that may be given several times take several words at once: `--objectives a b`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options; each word up to the next option belongs to the one before."""
        several = {
            name: parameter.opts[0]
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for name in parameter.opts
        }
        spread: list[str] = []
        current: str | None = None
        taken = True
        for word in args:
            if word.startswith("-") and not word.removeprefix("-").replace(".", "", 1).isdigit():
                current, taken = several.get(word), False
            elif current is not None:
                spread += [current] if taken else []
                taken = True
            spread.append(word)
        return super().parse_args(ctx, spread)


def _load(name: str) -> Any:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    file = name.replace(" ", "_")
    app.command(name, cls=SpreadCommand)(getattr(import_module(f"brickyard.cli.{file}"), file))
    return get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        from brickyard import __version__

        typer.echo(f"brickyard {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
)


@app.callback()
def brickyard(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make small, ready neural networks out of big modular ones: to a task and a budget, without training."""
