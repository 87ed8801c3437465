"""What differs between databases, behind two small interfaces.

Statements are SQLAlchemy Core and the same everywhere. A :class:`Driver` hands prepared ones to
the database's own library; a :class:`Backend` opens connections and frames transactions. SQLite's
are in ``sqlite.py``, PostgreSQL's in ``postgres.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import DBAPIError

from intramuros.kernel.errors import OperatorError

# Names of the locks that one transaction holds against others, such as sessions.
Keys = Sequence[str]
# How long a statement may take, in seconds: longer than any of ours does, shorter than anybody
# waits for an answer.
STATEMENT_S: Final = 30.0
Fetched = tuple[Sequence[Sequence[Any]], int]


class DatabaseAway(OperatorError):
    """The database cannot be reached now; a little later it may be."""


class Elsewhere(Exception):
    """A list is to be read on the primary.

    Args:
        reason: a word; ``standby.py`` has them.
        detail: for the log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class LostTransaction(Exception):
    """The engine ended the whole transaction by itself (disk full, I/O error, connection lost)."""


class Driver(Protocol):
    """How prepared statements reach a database."""

    @property
    def dialect(self) -> Dialect:
        """What compiles them."""
        ...

    @property
    def failure(self) -> type[Exception]:
        """The base class of the library's errors."""
        ...

    def fetch(self, connection: Connection, sql: str, values: Mapping[str, object]) -> Fetched:
        """Run one statement; return its rows, none if it gives none, and how many it concerned."""
        ...

    def later(
        self, connection: Connection, sql: str, values: Mapping[str, object]
    ) -> Callable[[], Fetched]:
        """Run one statement now or when something asks for it or commits; return who tells."""
        ...

    def run_many(
        self, connection: Connection, sql: str, rows: Sequence[Mapping[str, object]]
    ) -> None:
        """Run one statement once for each row of parameters, now or with what follows."""
        ...


class Backend(Protocol):
    """An open database.

    Args:
        engine: makes connections that write.
        readers: makes connections that cannot.
        lanes: threads for transactions that hold keys only; 0 where all writers take turns anyway.
        reading: threads that read.
        looks_here: whether a look-up, or a change of a few rows, is so short that the loop's own
            thread may do it.
        shared_url: where other processes may use it too; None if none may.
    """

    engine: Engine
    readers: Engine
    lanes: int
    reading: int
    looks_here: bool
    shared_url: str | None

    def transaction(
        self, connection: Connection, keys: Keys | None
    ) -> AbstractContextManager[object]:
        """Frame a transaction that is alone, or one among others that have no key in common.

        Args:
            keys: None to be alone among all writers of the database.
        """
        ...

    def snapshot(self, connection: Connection) -> AbstractContextManager[object]:
        """Frame reads of one state of the database."""
        ...

    def begin_now(self, connection: Connection) -> bool:
        """Begin a transaction that is alone if that takes no waiting; :meth:`transaction` ends it.

        Returns:
            whether it did.
        """
        ...

    def roll_back(self, connection: Connection) -> None:
        """End what :meth:`begin_now` began, and undo it."""
        ...

    def apart(self, connection: Connection, *, only: bool) -> AbstractContextManager[None]:
        """Frame a part that may fail by itself.

        Args:
            only: the transaction has no other part.

        Raises:
            LostTransaction: it failed, and took the whole transaction along.
        """
        ...

    def take_turn(self, connection: Connection) -> None:
        """Wait for other transactions that have taken their turn; be alone among those then."""
        ...

    def passing(self, error: BaseException) -> bool:
        """Tell whether the same work may succeed at once, in a transaction of its own."""
        ...

    def verdict(self, error: BaseException) -> BaseException:
        """Return what the caller of work that raised ``error`` is told."""
        ...

    def lost(self, connection: Connection) -> bool:
        """Tell whether a connection is of no use any more."""
        ...


def raw(connection: Connection) -> Any:  # noqa: ANN401  a driver's own connection
    """Return the driver's connection: what frames transactions needs nothing of SQLAlchemy."""
    return connection.connection.dbapi_connection


def waited(error: BaseException) -> bool:
    """Tell whether a statement failed that had waited to be run with the next, or the commit."""
    return hasattr(error.orig if isinstance(error, DBAPIError) else error, "sql")


def wrapped(driver: Driver, sql: str, error: Exception) -> DBAPIError:
    """Return a driver's error as SQLAlchemy raises it, without parameters, which may be secret."""
    # It may have been another that waited to be run before.
    made = DBAPIError.instance(
        getattr(error, "sql", sql),
        None,
        cast("Any", error),
        driver.failure,
        hide_parameters=True,
        dialect=driver.dialect,
    )
    return cast("DBAPIError", made)


# By the name of SQLAlchemy's dialect; a backend's module adds its own when it is imported.
DRIVERS: Final[dict[str, Driver]] = {}
# Opens a URL of that scheme.
Opener = Callable[[str], Backend]
