"""What commands print: results on standard output, everything else on standard error."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def say(line: str) -> None:
    """Print one line of a result, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def note(line: str) -> None:
    """Print one line that is not part of the result."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def table(
    columns: Sequence[str], rows: Sequence[Mapping[str, object]], console: Console | None = None
) -> None:
    """Print rows as a table; without a terminal, as lines separated by tabs."""
    console = console or Console()
    if not console.is_terminal:
        for row in rows:
            say("\t".join(str(row.get(column) or "") for column in columns))
        return
    grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*(str(row.get(column) or "") for column in columns))
    console.print(grid)
