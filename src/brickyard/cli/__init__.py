"""The command line: each command parses, calls the factory and prints; results on stdout, talk on stderr."""


def main() -> None:
    """Run the command line with the arguments of the process, and exit with its code."""
    from brickyard.cli.app import app

    app(prog_name="brickyard")
