"""Takes clients' events, and has the turns begun that they make due."""

from collections.abc import Sequence

from intramuros.control.identity.principal import Principal
from intramuros.control.session.journal import Journal, NotBegun, Starter
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.records import Record
from intramuros.kernel.telemetry import logger
from intramuros.protocol.events import Inbound

log = logger("turn")


class Intake:
    """The API's way to the journal.

    Turns are begun by whoever runs them in this process, if anybody does (:meth:`serve`).
    """

    def __init__(self, db: Database, journal: Journal) -> None:
        self._db = db
        self._journal = journal
        self._starter: Starter | None = None

    def serve(self, starter: Starter) -> None:
        """Have turns begun by ``starter`` from now on."""
        self._starter = starter

    async def accept(
        self, caller: Principal, session_id: str, inbound: Sequence[Inbound]
    ) -> list[Record]:
        """Take a client's events, all or none, and return them as stored once they are durable.

        Raises:
            DomainError: as :meth:`Journal.accept`.
            Unavailable: the database refused; nothing happened.
        """

        def work(tx: Tx, starter: Starter | None) -> list[Record]:
            return self._journal.accept(tx, caller, session_id, inbound, starter)

        try:
            return await self._db.jot(lambda tx: work(tx, self._starter), (session_id,))
        except NotBegun as error:
            # Whoever runs the turn meets the same, and tells of it; the input is not to blame.
            log.error("turn_not_begun", session=session_id, error=str(error), exc_info=error)
            return await self._db.jot(lambda tx: work(tx, None), (session_id,))
