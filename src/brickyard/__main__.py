"""Runs the command line as ``python -m brickyard``."""

from brickyard.cli import main

if __name__ == "__main__":
    main()
