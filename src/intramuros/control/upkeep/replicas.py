"""Says of each read replica whether lists can be read there, and what to do if they cannot."""

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy.exc import DBAPIError

from intramuros.control.store import standing
from intramuros.control.store.arrival import POSITION, Position
from intramuros.control.store.drivers import DRIVERS, Elsewhere
from intramuros.control.store.postgres import Postgres, driver_error, shown
from intramuros.control.upkeep.check import Finding
from intramuros.kernel.errors import OperatorError

# A replica that says nothing for so long is of no use to a list, which does not wait either.
PATIENCE_S: Final = 5.0
_ABSENT: Final = "start it, or take it out of --database-replica"


def examine_replicas(url: str, replicas: Sequence[str]) -> Iterator[Finding]:
    """Yield what was found of each replica, in order.

    Args:
        url: of the primary.
        replicas: their URLs.

    Raises:
        OperatorError: the primary cannot be reached, or is none.
    """
    if not url.startswith("postgres"):
        raise OperatorError("a SQLite database has no replicas", "leave --database-replica away")
    primary = Postgres.open(url, PATIENCE_S, positions=True)
    try:
        with primary.readers.connect() as connection, connection.begin():
            written: Position | None = connection.info[POSITION]
    finally:
        primary.engine.dispose()
        primary.readers.dispose()
    if written is None:
        raise OperatorError(
            f"{shown(url)} is a replica itself", "name the primary as --database-url"
        )
    for replica in replicas:
        yield _look(replica, written)


def _look(url: str, written: Position) -> Finding:
    name = f"replica {shown(url)}"
    backend = Postgres.standby(url, PATIENCE_S)
    try:
        with backend.readers.connect() as connection, connection.begin():
            found = standing.look(connection)
            found.check(written)
            standing.check_rights(connection)
    except Elsewhere as why:
        return Finding(
            f"{name} is not to be read ({why.reason})", standing.FIXES.get(why.reason, _ABSENT)
        )
    except (DBAPIError, DRIVERS["postgresql"].failure) as error:
        cause = driver_error(error)
        why_not = standing.AWAY if cause is None else standing.reason_of(cause)
        return Finding(f"{name} does not answer ({why_not})", standing.FIXES.get(why_not, _ABSENT))
    finally:
        backend.readers.dispose()
    left = written.offset - found.position.offset if found.position else 0
    return Finding(f"{name} is {left} bytes behind" if left > 0 else f"{name} has everything")
