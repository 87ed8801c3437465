"""An open transaction, as the functions of every other room see it."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from intramuros.control.store import sqlite  # noqa: F401  registers its driver
from intramuros.control.store.drivers import DRIVERS, Driver, Fetched, wrapped
from intramuros.control.store.prepared import Plan, Prepared, Rows


class Tx:
    """An open transaction: a SQLAlchemy connection and what to do once it is durable.

    Args:
        wait: waits until it is this transaction's turn; None when it is alone.
    """

    def __init__(
        self, connection: Connection, wait: Callable[[Connection], None] | None = None
    ) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.scalar = connection.scalar
        self._driver = DRIVERS[connection.dialect.name]
        self._wait = wait
        self._hooks: list[Callable[[], None]] = []

    def run(self, statement: Prepared, parameters: Mapping[str, object] | None = None) -> Rows:
        """Run a prepared statement, and read all that it gives.

        Raises:
            DBAPIError: the database refused, as for :meth:`execute`.
        """
        given = {} if parameters is None else parameters
        driver = self._driver
        plan = statement.plan(given, driver.dialect)
        try:
            values, count = driver.fetch(self.connection, plan.sql, plan.bound(given))
        except driver.failure as error:
            raise wrapped(driver, plan.sql, error) from error
        return Rows(plan, values, count)

    def later(self, statement: Prepared, parameters: Mapping[str, object] | None = None) -> "Later":
        """Run a prepared statement before the next one whose result is asked for.

        On a database elsewhere, what nobody needs the result of takes no way there of its own. If
        it fails, the next statement fails in its place, or the commit.

        Raises:
            DBAPIError: the database refused.
        """
        given = {} if parameters is None else parameters
        driver = self._driver
        plan = statement.plan(given, driver.dialect)
        try:
            return Later(driver, plan, driver.later(self.connection, plan.sql, plan.bound(given)))
        except driver.failure as error:
            raise wrapped(driver, plan.sql, error) from error

    def run_many(self, statement: Prepared, rows: Sequence[Mapping[str, object]]) -> None:
        """Run a prepared statement once for each row of parameters, which have the same names.

        As with :meth:`later`, what follows may fail in its place.

        Raises:
            DBAPIError: the database refused.
        """
        driver = self._driver
        plan = statement.plan(rows[0], driver.dialect)
        try:
            driver.run_many(self.connection, plan.sql, [plan.bound(row) for row in rows])
        except driver.failure as error:
            raise wrapped(driver, plan.sql, error) from error

    def take_turn(self) -> None:
        """Before touching what every writer touches: let those finish that came first.

        The end of the audit chain, sums and counters are such rows. From here on the transaction is
        alone among those that took their turn, until its end; call it late, and again at will.
        """
        if self._wait is not None:
            self._wait(self.connection)
            self._wait = None

    def after_commit(self, hook: Callable[[], None], *, early: bool = False) -> None:
        """Call ``hook`` on the event loop once the commit is durable; it must not raise.

        Args:
            early: before those that were registered so far.
        """
        self._hooks.insert(0 if early else len(self._hooks), hook)

    @property
    def hooks(self) -> list[Callable[[], None]]:
        """The hooks registered so far."""
        return self._hooks


class Later:
    """A statement that :meth:`Tx.later` was given, and in the end what it gave."""

    __slots__ = ("_ask", "_driver", "_plan")

    def __init__(self, driver: Driver, plan: Plan, ask: Callable[[], Fetched]) -> None:
        self._driver = driver
        self._plan = plan
        self._ask = ask

    def rows(self) -> Rows:
        """Return its result; whatever waits is run first, if it has not been.

        Raises:
            DBAPIError: the database refused it, or one before it.
        """
        try:
            values, count = self._ask()
        except self._driver.failure as error:
            raise wrapped(self._driver, self._plan.sql, error) from error
        return Rows(self._plan, values, count)
