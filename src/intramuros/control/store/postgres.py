"""PostgreSQL: many processes on one database, and the order in which their transactions lock.

Whoever writes first takes the gate: alone, or shared with others. Those that share it take the keys
they work on, in order, and touch what all of them touch (the end of the audit chain, sums) only
after they have taken their turn. As everybody locks in that order, nobody waits in a circle; rows
of a queue are passed over when somebody else is claiming them. All of these locks end with the
transaction, so that they also work behind a pooler that hands out connections by transaction.

Each statement sees what was committed when it began (READ COMMITTED), which is why a statement
behind a lock sees all that its earlier holders wrote. Reads have one snapshot each.
"""

import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.types.string import StrDumper
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import interfaces
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from intramuros.control.store import postgres_begin as opening
from intramuros.control.store.codec import decode, encode
from intramuros.control.store.drivers import (
    DRIVERS,
    STATEMENT_S,
    DatabaseAway,
    Fetched,
    Keys,
    LostTransaction,
    raw,
    wrapped,
)
from intramuros.control.store.postgres_connection import Talk
from intramuros.control.store.postgres_dialect import dialect, register
from intramuros.kernel.errors import InvalidRequest, OperatorError, TimedOut, Unavailable
from intramuros.kernel.telemetry import logger

log = logger("store")

LANES: Final = 4
READERS: Final = 4
MIN_VERSION: Final = 150_000
CONNECT_TIMEOUT_S: Final = 5
# A replica is not worth a longer wait: libpq's least.
STANDBY_CONNECT_S: Final = 2
# What a statement ends with that took too long, or that an administrator cancelled.
_CUT_OFF: Final = "57014"
# So much of it is logged: its text has placeholders where values are.
_SQL_CHARS: Final = 300

# What another transaction was in the way of: serialization, deadlock, lock not available.
_MET: Final = frozenset({"40001", "40P01", "55P03"})
# Classes of failures of the server rather than of a statement: connection, resources, operator
# intervention, system, internal; and a transaction that was ended for being idle.
_DOWN: Final = ("08", "53", "57", "58", "XX", "25P03")
# What is said to clients that will not be let in later either.
_REFUSED: Final = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "does not exist",
    "is not permitted",
    "permission denied",
    "certificate",
    "does not support ssl",
    "invalid",
)
# Rows that one insert may have: a turn has fewer.
SEVERAL: Final = 12
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
_INSERT: Final = re.compile(
    r"(INSERT INTO \w+ \([\w, ]+\) VALUES )(\((?:%\(\w+\)s(?:::\w+)?(?:, )?)+\))"
)


class _Whole(Loader):
    """Reads sums of whole numbers as what they are."""

    def load(self, data: Buffer) -> int:
        return int(bytes(data))


class _Sought(StrDumper):
    """Sends text that is looked for. PostgreSQL holds none with U+0000, so that finds nothing."""

    def dump(self, obj: str) -> Buffer | None:
        try:
            return super().dump(obj)
        except psycopg.DataError:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))


class PostgresDriver:
    """Prepared statements by way of psycopg, which has the server keep them after a few runs."""

    dialect: interfaces.Dialect = dialect(encode, decode)
    failure: type[Exception] = psycopg.Error

    def fetch(self, connection: Connection, sql: str, values: Mapping[str, object]) -> Fetched:
        """Run one statement; return its rows, none if it gives none, and how many it concerned."""
        return _talk(connection).later(sql, values).result()

    def later(
        self, connection: Connection, sql: str, values: Mapping[str, object]
    ) -> Callable[[], Fetched]:
        """Have one statement run with the next whose result is asked for; return who asks."""
        return _talk(connection).later(sql, values).result

    def run_many(
        self, connection: Connection, sql: str, rows: Sequence[Mapping[str, object]]
    ) -> None:
        """Run one statement once for each row of parameters, with what follows."""
        several = _several(sql, len(rows)) if 1 < len(rows) <= SEVERAL else None
        talk = _talk(connection)
        if len(rows) == 1:
            talk.later(sql, rows[0])
        elif several is None:
            talk.cursor().executemany(sql, rows)
        else:
            numbered = {f"{k}_{n}": value for n, row in enumerate(rows) for k, value in row.items()}
            talk.later(several, numbered)


def _talk(connection: Connection) -> Talk:
    here: Talk = raw(connection)
    return here


def _settle(talk: Talk) -> None:
    """Run what waits; what fails is told as if it had been run at once."""
    try:
        talk.settle()
    except psycopg.Error as error:
        raise wrapped(DRIVERS["postgresql"], "", error) from error


@lru_cache(maxsize=64)
def _several(sql: str, count: int) -> str | None:
    """Return an insert of one row as an insert of several, with numbered parameters.

    It takes half the time of as many inserts in a pipeline. None for any other statement.
    """
    found = _INSERT.fullmatch(sql)
    if found is None:
        return None
    rows = [_PARAMETER.sub(rf"%(\g<1>_{n})s", found[2]) for n in range(count)]
    return found[1] + ", ".join(rows)


DRIVERS["postgresql"] = PostgresDriver()
register()


class Postgres:
    """A PostgreSQL database, which other processes may use too."""

    lanes = LANES
    reading = READERS
    looks_here = False

    def __init__(self, engine: Engine, readers: Engine, url: str, limits: str) -> None:
        self.engine = engine
        self.readers = readers
        self.shared_url: str | None = url
        self._limits = limits
        self._noted: weakref.ref[psycopg.Error] | None = None

    @classmethod
    def open(
        cls, url: str, statement_s: float = STATEMENT_S, *, positions: bool = False
    ) -> "Postgres":
        """Open ``postgresql://user@host:port/name``.

        Parameters of libpq may follow (``?sslmode=verify-full``), and ``prepare_threshold=none``
        for a pooler that cannot have the server keep statements.

        Args:
            url: where it is.
            statement_s: seconds that a statement may take; 0 for as long as it takes.
            positions: have each read know where the server stood when it began.

        Raises:
            DatabaseAway: it is not up, or not yet.
            OperatorError: it cannot be used, or is too old.
        """
        limits = opening.limits(statement_s)
        writers = _engine(url, opening.begin(limits), reads=False)
        begun = opening.placed if positions else None
        readers = _engine(url, opening.snapshot(limits), reads=True, begun=begun)
        if positions:

            @event.listens_for(readers, "connect")
            def _connect(connection: "psycopg.Connection[Any]", record: Any) -> None:  # noqa: ANN401  SQLAlchemy's own
                opening.place(connection, record.info, limits)

        made = cls(writers, readers, plain_url(url), limits)
        try:
            with made.readers.connect() as probe:
                version = raw(probe).info.server_version
        except (DBAPIError, psycopg.Error) as error:
            away = OperatorError if _for_good(error) else DatabaseAway
            raise away(
                f"cannot reach the database {shown(url)} ({_reason(error)})",
                "check the address, the user, the password and pg_hba.conf",
            ) from error
        if version < MIN_VERSION:
            raise OperatorError(
                f"PostgreSQL {version // 10_000} is too old", "use PostgreSQL 15 or newer"
            )
        return made

    @classmethod
    def standby(cls, url: str, statement_s: float) -> "Postgres":
        """Open a read replica, which need not be up.

        Args:
            url: as for :meth:`open`.
            statement_s: seconds that a statement may take.

        Raises:
            OperatorError: the URL cannot be read.
        """
        limits = opening.limits(statement_s)
        snapshot = opening.snapshot(limits, opening.WHO)
        readers = _engine(
            url, snapshot, reads=True, begun=opening.told, connect_s=STANDBY_CONNECT_S
        )
        return cls(readers, readers, plain_url(url), limits)

    @contextmanager
    def transaction(self, connection: Connection, keys: Keys | None) -> Iterator[None]:
        """Frame a transaction that is alone, or one among others that have no key in common.

        Args:
            keys: in the order of :func:`number_of`; None to be alone.
        """
        connection.info["begin"] = opening.begin(self._limits, keys)
        transaction = connection.begin()
        try:
            yield
        except BaseException:
            if not self.lost(connection):
                transaction.rollback()
            raise
        try:
            transaction.commit()
        except (DBAPIError, psycopg.Error) as error:
            if not self.lost(connection):
                # What waited for the commit was refused before it; SQLAlchemy would undo nothing.
                _talk(connection).rollback()
                transaction.rollback()
            found = driver_error(error)
            # A server that says why it closed the connection has not committed.
            if self.lost(connection) and (found is None or found.sqlstate is None):
                raise Unavailable(
                    "the database went away during the commit; look whether it happened"
                ) from error
            raise

    def snapshot(self, connection: Connection) -> AbstractContextManager[object]:
        """Frame reads of one state of the database."""
        return connection.begin()

    def begin_now(self, connection: Connection) -> bool:
        """Tell that nothing begins without waiting: the server is elsewhere."""
        return False

    def roll_back(self, connection: Connection) -> None:
        """End a transaction and undo it."""
        connection.rollback()

    @contextmanager
    def apart(self, connection: Connection, *, only: bool) -> Iterator[None]:
        """Frame a part that may fail by itself.

        Raises:
            LostTransaction: the connection is gone.
        """
        if only:
            yield
            return
        here = _talk(connection)
        try:
            here.execute("SAVEPOINT one")
        except psycopg.Error as error:
            # What waited belongs to all of them.
            raise LostTransaction from error
        try:
            yield
            _settle(here)
        except BaseException as error:
            if self.lost(connection):
                raise LostTransaction from error
            here.forget()
            here.later("ROLLBACK TO one")
            here.later("RELEASE one")
            raise
        here.later("RELEASE one")

    def take_turn(self, connection: Connection) -> None:
        """Wait for other transactions that have taken their turn; be alone among those then."""
        _talk(connection).later(opening.TURN)

    def passing(self, error: BaseException) -> bool:
        """Tell whether the same work may succeed at once: it met another, or its connection."""
        cause = error.__cause__ if isinstance(error, LostTransaction) else error
        found = driver_error(cause)
        if found is None:
            return False
        if found.sqlstate is None:
            return isinstance(found, psycopg.OperationalError)
        return found.sqlstate in _MET or found.sqlstate.startswith(("08", "57P", "25P03"))

    def verdict(self, error: BaseException) -> BaseException:
        """Return what the caller is told: that the database is away, or what went wrong."""
        found = driver_error(error)
        if found is None:
            return error
        told: Exception
        if found.sqlstate is None and isinstance(found, psycopg.DataError):
            # Found by the driver before anything was sent: text that the database cannot hold.
            told = InvalidRequest("text must not contain the character U+0000")
        elif found.sqlstate == _CUT_OFF:
            self._note(error, found)
            told = TimedOut("the database took too long; nothing was changed")
        elif (isinstance(found, psycopg.OperationalError) and found.sqlstate is None) or _state(
            found
        ).startswith(_DOWN):
            told = Unavailable("the database failed; nothing was changed")
        else:
            return error
        told.__cause__ = error
        return told

    def _note(self, error: BaseException, found: psycopg.Error) -> None:
        """Log a statement that was cut off, once for all who waited for its transaction."""
        if self._noted is not None and self._noted() is found:
            return
        self._noted = weakref.ref(found)
        sql = getattr(found, "sql", None) or getattr(error, "statement", None) or ""
        log.warning("statement_cut_off", sql=sql[:_SQL_CHARS])

    def lost(self, connection: Connection) -> bool:
        """Tell whether a connection is of no use any more."""
        if connection.closed or connection.invalidated:
            return True
        here = raw(connection)
        return bool(here.closed)


def _engine(
    url: str,
    begin: str,
    *,
    reads: bool,
    begun: opening.Begun | None = None,
    connect_s: int = CONNECT_TIMEOUT_S,
) -> Engine:
    options: dict[str, Any] = {
        "connect_timeout": connect_s,
        "application_name": "intramuros",
    }
    parsed = parsed_url(url).set(drivername="postgresql+intramuros")
    if "prepare_threshold" in parsed.query:
        wanted = parsed.query["prepare_threshold"]
        options["prepare_threshold"] = int(str(wanted)) if str(wanted).isdigit() else None
        parsed = parsed.difference_update_query(["prepare_threshold"])
    engine = create_engine(
        parsed,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",  # transactions are begun below, with their locks
        connect_args=options,
        hide_parameters=True,
        json_serializer=encode,
        json_deserializer=decode,
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: "psycopg.Connection[Any]", _record: object) -> None:
        connection.adapters.register_loader("numeric", _Whole)
        if reads:
            connection.adapters.register_dumper(str, _Sought)

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        here = raw(connection)
        try:
            info = connection.info
            cursor = here.execute(info.pop("begin", None) or info.get(opening.SNAPSHOT, begin))
            if begun is not None:
                begun(connection, cursor)
        except psycopg.Error:
            # SQLAlchemy knows of no transaction yet that it could roll back.
            if not here.closed:
                here.rollback()
            raise

    return engine


def parsed_url(url: str) -> URL:
    """Return the parts of a URL.

    Raises:
        OperatorError: it cannot be read.
    """
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise OperatorError(
            "the database URL cannot be read", "write it as postgresql://USER@HOST/NAME"
        ) from error


def plain_url(url: str) -> str:
    """Return a URL as libpq reads it.

    Raises:
        OperatorError: it cannot be read.
    """
    parsed = parsed_url(url).set(drivername="postgresql")
    plain = parsed.difference_update_query(["prepare_threshold"])
    return plain.render_as_string(hide_password=False)


def driver_error(error: BaseException | None) -> psycopg.Error | None:
    """Return the driver's own error in one of SQLAlchemy's, or None for any other."""
    if isinstance(error, DBAPIError):
        return error.orig if isinstance(error.orig, psycopg.Error) else None
    return error if isinstance(error, psycopg.Error) else None


def _state(error: psycopg.Error) -> str:
    return error.sqlstate or ""


def shown(url: str) -> str:
    """Return a URL without what may be secret in it."""
    parsed = make_url(url)
    return f"{parsed.host or 'localhost'}/{parsed.database or ''}"


def _for_good(error: Exception) -> bool:
    """Tell whether a connection was refused for a reason that time does not cure.

    A connection that fails bears no code, only the server's words. In another language than
    English they are not known, and then somebody waits in vain for a while.
    """
    said = str(driver_error(error) or error).lower()
    return any(words in said for words in _REFUSED)


def _reason(error: Exception) -> str:
    found = driver_error(error)
    return (
        type(found or error).__name__
        if found is None or not str(found)
        else str(found).splitlines()[0]
    )
