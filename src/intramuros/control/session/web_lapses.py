"""Answers the web calls of workers that are gone.

A worker that makes a call says every second that it lives. One that says nothing for
:data:`~intramuros.protocol.web_calls.LEASE_S` seconds is taken for dead, and the model is told;
whatever that worker brings later is refused, so a call has one result. The call is given to nobody
else: whether it went out is unknown, a search is paid for, and a page may count its readers. Nor
are more calls handed over for that worker's sake, until it polls again.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import anyio

from intramuros.control.identity import audit
from intramuros.control.session.drafts import error_result
from intramuros.control.session.journal import Journal
from intramuros.control.session.web_queue import MICROS, SEEN_S, routed
from intramuros.control.store import web_claims
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.web_claims import Lapsed
from intramuros.kernel.errors import DomainError, NotFound
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.web_calls import LEASE_S
from intramuros.web.base import FETCH, SEARCH

log = logger("web")

# How late a claim that ran out may be noticed, in seconds.
PERIOD_S: Final = 1.0
WEB_DEAD: Final = (
    "unavailable: the worker that made this call stopped before it answered. Make the call again "
    "if you still need it."
)


class Lapses:
    """Looks for claims that ran out.

    Args:
        rand: numbers in [0, 1), to spread replicas.
    """

    def __init__(
        self, db: Database, clock: Clock, journal: Journal, rand: Callable[[], float]
    ) -> None:
        self._db = db
        self._clock = clock
        self._journal = journal
        self._rand = rand

    async def run(self, stop: Stop) -> None:
        """Look every :data:`PERIOD_S` seconds until asked to stop."""
        # A server that was away heard no sign of life: workers get the time to give one first.
        pause_s = LEASE_S
        while True:
            with anyio.move_on_after(pause_s):
                await stop.wait()
            if stop.requested:
                return
            pause_s = PERIOD_S * (0.75 + self._rand() / 2)
            try:
                await self.look()
            except DomainError as error:
                log.warning("web_lapses_not_read", error=repr(error))
                pause_s = LEASE_S  # signs of life could not be written either

    async def look(self) -> None:
        """Answer the calls whose claims have run out; writes only if there are any."""
        now_us = to_micros(self._clock.now())
        for claim in await self._db.read(lambda tx: web_claims.lapsed(tx, now_us)):
            if await self._db.write(partial(self._answer, claim=claim)):
                log.info("web_call_lost", call=claim.key, holder=claim.holder)

    def _answer(self, tx: Tx, claim: Lapsed) -> bool:
        """Tell the model, unless the worker was heard of meanwhile or nobody waits any more."""
        now_us = to_micros(self._clock.now())
        if not web_claims.drop(tx, claim, now_us):
            return False
        self._doubt(tx, claim, now_us)
        session_id, call_id, _ = claim.key.split("/")
        try:
            held = self._journal.hold(tx, session_id)
        except NotFound:
            return False
        found = held.state.locate(call_id)
        if found is None or found[1].until_us is None:
            return False
        thread, call = found
        said = error_result(call, WEB_DEAD, self_hosted=thread.self_hosted)
        self._journal.append(tx, held, [routed(held, thread, said)])
        audit.record(
            tx,
            self._clock,
            "web.lost",
            workspace_id=held.row.workspace_id,
            session_id=session_id,
            fields={"call": call_id, "holder": claim.holder},
        )
        return True

    def _doubt(self, tx: Tx, claim: Lapsed, now_us: int) -> None:
        """Hand no more calls over for the sake of this worker, until it polls again."""
        before_us = now_us - round(SEEN_S * MICROS) - 1
        place = claim.queue.rpartition("/")[0]
        for name in (FETCH, SEARCH):
            web_claims.doubt(tx, f"{place}/{name}", claim.holder or "", before_us)
