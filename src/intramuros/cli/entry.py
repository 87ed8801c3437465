"""The installed command: starts the command line, and ends quietly when that is interrupted."""

import sys


def main() -> None:
    """Run the command line and exit with its status; 130 when interrupted while it is loading."""
    try:
        # The rest takes a moment to load, and Ctrl-C may come before it can catch it.
        from intramuros.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
