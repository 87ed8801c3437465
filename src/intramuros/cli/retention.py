"""``intramuros db retention``: what would be deleted, and where the log lies."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intramuros.cli.options import imported
from intramuros.cli.output import say
from intramuros.cli.upkeep import ROOM, DataDir, Url, place_of
from intramuros.kernel.errors import OperatorError

if TYPE_CHECKING:
    from datetime import datetime

    from intramuros.control.upkeep.retention import Forecast

MAX_DAYS = 36_500.0


def retention(
    days: Annotated[
        float, typer.Argument(help="Days that sessions are to be kept after their end.")
    ],
    data_dir: DataDir = Path("intramuros-data"),
    database_url: Url = None,
) -> None:
    """Show which sessions --session-retention-days would delete now; changes nothing.

    On PostgreSQL also the log's partitions, and which of them would be dropped in one piece.

    Example: intramuros db retention 90 --data-dir ./data
    """
    if not 0 <= days <= MAX_DAYS:
        raise OperatorError(
            f"sessions cannot be kept for {days:g} days", f"name 0 to {MAX_DAYS:.0f} days"
        )
    attach = imported(f"{ROOM}.attached", "server", "attach")
    look = imported(f"{ROOM}.retention", "server", "forecast")
    source = attach(place_of(data_dir, database_url, None))
    try:
        found: Forecast = look(source, days)
    finally:
        source.close()
    for share in found.shares:
        say(f"{share.workspace_id}\t{share.sessions} sessions\t{share.events} events")
    for one in found.stretches:
        fate = "dropped in one piece" if one.whole else "stays"
        say(
            f"{one.partition.name}\t{_day(one.begins)} to {_day(one.ends)}"
            f"\t{one.going} of {one.sessions} sessions\t{one.partition.all_bytes} bytes\t{fate}"
        )
    sessions = sum(share.sessions for share in found.shares)
    events = sum(share.events for share in found.shares)
    say(f"would go: {sessions} sessions with {events} events")


def _day(at: "datetime | None") -> str:
    return "…" if at is None else f"{at:%Y-%m-%d}"
