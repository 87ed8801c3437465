"""A connection to PostgreSQL that can be told several things before it answers.

Each question to a server costs a way there and back, and the interpreter is lent to other threads
meanwhile. A transaction therefore leaves what it need not know the result of, and what frames it,
to :meth:`Talk.later`; the next question takes all of that along, in order, in one conversation
(libpq's pipeline mode), and so does the commit. Nothing is forgotten: every cursor of such a
connection first says what waits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

import psycopg
from psycopg.abc import Params, Query
from psycopg.pq import TransactionStatus

from intramuros.control.store.drivers import Fetched

_COMMIT: Final = "COMMIT"


class Waiting:
    """A statement that is run when something needs its result, at the latest by the commit."""

    __slots__ = ("_found", "_talk", "cursor", "sql", "values")

    def __init__(self, talk: "Talk", sql: str, values: Mapping[str, object] | None) -> None:
        self._talk = talk
        self.sql = sql
        self.values = values
        self.cursor: psycopg.Cursor[Any] | None = None
        self._found: Fetched | None = None

    def result(self) -> Fetched:
        """Return its rows, none if it gives none, and how many it concerned.

        Raises:
            psycopg.Error: it failed, or one that waited before it.
        """
        if self._found is None:
            self._talk.settle()
            if self.cursor is None:
                raise psycopg.OperationalError("its transaction was undone before it was run")
            self._found = _fetched(self.cursor)
        return self._found


class Talk(psycopg.Connection[Any]):
    """A connection whose errors tell no values: those may be secret, and errors are logged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  as it inherits
        super().__init__(*args, **kwargs)
        self.cursor_factory = Settling
        self._waiting: list[Waiting] = []

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as it inherits
        """Run what talks to the server."""
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.Error as error:
            error.args = (plain(error),)
            raise

    def later(self, sql: str, values: Mapping[str, object] | None = None) -> Waiting:
        """Have a statement run before any other, or with the commit."""
        waiting = Waiting(self, sql, values)
        self._waiting.append(waiting)
        return waiting

    def settle(self) -> None:
        """Run what waits.

        Raises:
            psycopg.Error: the first that failed; nothing behind it was run. Its ``sql`` is the
                statement's text.
        """
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        cursors: list[psycopg.Cursor[Any]] = []
        try:
            if len(waiting) == 1:
                self._say(waiting, cursors)
            else:
                with self.pipeline():
                    self._say(waiting, cursors)
        except psycopg.Error as error:
            error.sql = _failed(waiting, cursors)  # type: ignore[attr-defined]  # for the log
            raise
        for each, cursor in zip(waiting, cursors, strict=True):
            each.cursor = cursor

    def forget(self) -> None:
        """Leave out what waits."""
        self._waiting.clear()

    def commit(self) -> None:
        """Run what waits and commit.

        Raises:
            psycopg.Error: nothing was committed; or it is unknown, if the connection is gone.
        """
        if self._waiting:
            last = self.later(_COMMIT)
            self.settle()
            if last.cursor is None or last.cursor.statusmessage != _COMMIT:
                raise psycopg.InternalError("the transaction had failed before its commit")
        elif self.info.transaction_status is TransactionStatus.INERROR:
            # The server would answer a commit with a rollback, and call that a success.
            raise psycopg.InternalError("the transaction had failed before its commit")
        super().commit()

    def rollback(self) -> None:
        """Forget what waits and undo the rest."""
        self.forget()
        super().rollback()

    def _say(self, waiting: Sequence[Waiting], cursors: list[psycopg.Cursor[Any]]) -> None:
        for each in waiting:
            cursor = psycopg.Cursor(self)
            cursors.append(cursor)
            cursor.execute(each.sql.encode(), each.values)


class Settling(psycopg.Cursor[Any]):
    """A cursor that says what waits before its own statement."""

    def execute(self, query: Any, params: Params | None = None, **how: Any) -> Self:  # noqa: ANN401  as it inherits
        """Run a statement behind all that waits."""
        _talk(self).settle()
        return super().execute(query, params, **how)

    def executemany(self, query: Query, params_seq: Iterable[Params], **how: Any) -> None:  # noqa: ANN401  as it inherits
        """Run a statement for each row of parameters, behind all that waits."""
        _talk(self).settle()
        super().executemany(query, params_seq, **how)

    def copy(self, statement: Any, *given: Any, **how: Any) -> Any:  # noqa: ANN401  as it inherits
        """Begin a COPY behind all that waits."""
        _talk(self).settle()
        return super().copy(statement, *given, **how)

    def stream(self, query: Any, *given: Any, **how: Any) -> Iterator[Any]:  # noqa: ANN401  as it inherits
        """Begin a statement whose rows come one by one, behind all that waits."""
        _talk(self).settle()
        return super().stream(query, *given, **how)


def _fetched(cursor: psycopg.Cursor[Any]) -> Fetched:
    """Return what a statement gave: its rows, none if it gives none, and how many it concerned."""
    # Not ``description``: to describe the columns takes as long as all the rest.
    result = cursor.pgresult
    return (cursor.fetchall() if result and result.nfields else ()), cursor.rowcount


def plain(error: psycopg.Error) -> str:
    """Return what may be logged of an error."""
    state = error.sqlstate
    if state is None:
        return str(error)
    # Of values that it cannot read, the server quotes from in its first line already.
    told = None if state.startswith("22") else error.diag.message_primary
    return told or f"{type(error).__name__} ({state})"


def _talk(cursor: psycopg.Cursor[Any]) -> Talk:
    connection: Any = cursor.connection
    talk: Talk = connection
    return talk


def _failed(waiting: Sequence[Waiting], cursors: Sequence[psycopg.Cursor[Any]]) -> str:
    """Return the text of the first statement without a result."""
    given = sum(1 for cursor in cursors if cursor.pgresult is not None)
    return waiting[min(given, len(waiting) - 1)].sql
