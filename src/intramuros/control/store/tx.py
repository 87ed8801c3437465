"""An open transaction, as the functions of every other room see it."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from intramuros.control.store import sqlite  # noqa: F401  registers its driver
from intramuros.control.store.drivers import DRIVERS, wrapped
from intramuros.control.store.prepared import Prepared, Rows


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

    def run_many(self, statement: Prepared, rows: Sequence[Mapping[str, object]]) -> None:
        """Run a prepared statement once for each row of parameters, which have the same names.

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
