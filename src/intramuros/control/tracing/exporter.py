"""Sends finished spans to every destination that covers their workspace.

A destination remembers how far it is. What it could not take is tried again a few times and then
dropped: traces are for looking, and must never pile up or hold anything else up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.to_thread
from sqlalchemy import ColumnElement, Row, delete, func, select, update

from intramuros.control.identity import audit
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.metering_tables import telemetry_destinations, telemetry_spans
from intramuros.control.tracing import destinations
from intramuros.control.tracing.coverage import covers
from intramuros.control.tracing.deliver import Courier, NotDelivered
from intramuros.control.tracing.destinations import Rules
from intramuros.control.tracing.endpoints import traces_url
from intramuros.control.tracing.otlp import CONTENT_TYPE, TEST_SPAN, Span, encode
from intramuros.control.tracing.recorder import Recorder
from intramuros.kernel.errors import DomainError, OperatorError, RateLimited
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s, to_micros
from intramuros.protocol.resources.telemetry import MAX_CONTENT_BYTES

log = logger("tracing")

MICROS: Final = 1_000_000
PERIOD_S: Final = 2.0
# Spans of one request; with content this is at most a few megabytes.
BATCH: Final = 100
MAX_ATTEMPTS: Final = 6
BACKOFF_BASE_S: Final = 2.0
BACKOFF_CAP_S: Final = 60.0
# Another process may take over a delivery whose sender died after this long.
CLAIM_S: Final = 60.0
# A destination that failed all this time is disabled.
SUSTAINED_S: Final = 24 * 3600.0
# Spans that nobody took are dropped: after an hour, or beyond so many.
KEEP_S: Final = 3600.0
KEEP_SPANS: Final = 50_000
TEST_PAUSE_S: Final = 10.0


@dataclass(frozen=True)
class _Batch:
    """What one destination is to get: spans up to ``upto_seq``, those it covers."""

    row: Row[Any]
    spans: Sequence[Span]
    upto_seq: int


@dataclass(frozen=True)
class Desk:
    """What delivering needs of the process; ``rand`` gives numbers in [0, 1), to spread retries."""

    db: Database
    clock: Clock
    ids: IdFactory
    organization_id: str
    rand: Callable[[], float]


class Exporter:
    """The delivery job, and the test call."""

    def __init__(self, desk: Desk, rules: Rules, courier: Courier, recorder: Recorder) -> None:
        self._db = desk.db
        self._clock = desk.clock
        self._ids = desk.ids
        self._organization_id = desk.organization_id
        self._rand = desk.rand
        self.rules = rules
        self._courier = courier
        self._recorder = recorder
        self._tested: dict[str, float] = {}

    async def run(self, stop: Stop) -> None:
        """Deliver every :data:`PERIOD_S` seconds until a stop is asked for."""
        while not stop.requested:
            try:
                await self._recorder.refresh(self._db)
                await self.deliver_once()
            except DomainError as error:
                log.warning("delivery_failed", error=repr(error))
            with anyio.move_on_after(PERIOD_S * (0.75 + self._rand() / 2)):
                await stop.wait()

    async def deliver_once(self) -> None:
        """Send what is due now, to all destinations at once; one never waits for another."""
        due = await self._db.read(self._due)
        async with anyio.create_task_group() as group:
            for destination_id in due:
                group.start_soon(self._deliver, destination_id)
        if await self._db.read(lambda tx: tx.scalar(select(telemetry_spans.c.seq).limit(1))):
            await self._db.write(self._prune)

    async def test(self, by: str, destination_id: str) -> dict[str, Any]:
        """Send one span, once, and say how that went; nothing is remembered of it.

        Raises:
            NotFound: no such destination.
            RateLimited: the last test was a moment ago.
        """
        row = await self._db.read(lambda tx: destinations.find_row(tx, destination_id))
        now_s = self._clock.monotonic()
        last_s = self._tested.get(destination_id)
        if last_s is not None and now_s - last_s < TEST_PAUSE_S:
            wait_s = TEST_PAUSE_S - (now_s - last_s)
            raise RateLimited("wait between tests of a destination", retry_after_s=wait_s)
        self._tested = {k: v for k, v in self._tested.items() if now_s - v < TEST_PAUSE_S}
        self._tested[destination_id] = now_s
        await self._db.write(
            lambda tx: audit.record(
                tx,
                self._clock,
                "telemetry_destination.test",
                workspace_id=None,
                fields={"id": destination_id, "by": by},
            )
        )
        try:
            await self._send(row, [self._test_span()])
        except NotDelivered as failed:
            result = {"type": "failure", "error": failed.error}
        else:
            result = {"type": "success"}
        return {"type": "telemetry_destination_test", "result": result}

    def _due(self, tx: Tx) -> list[str]:
        """Return the enabled destinations that have spans before them and may be tried now."""
        newest = tx.scalar(select(func.max(telemetry_spans.c.seq)))
        if newest is None:
            return []
        table = telemetry_destinations.c
        which = select(table.id).where(
            table.disabled.is_(None),
            table.due_us <= to_micros(self._clock.now()),
            table.sent_seq < newest,
        )
        return list(tx.execute(which).scalars())

    async def _deliver(self, destination_id: str) -> None:
        batch = await self._db.write(lambda tx: self._claim(tx, destination_id))
        if batch is None:
            return
        failed: NotDelivered | None = None
        if batch.spans:
            try:
                await self._send(batch.row, batch.spans)
            except NotDelivered as error:
                failed = error
                log.info("spans_not_delivered", destination=destination_id, error=error.error)
        await self._db.write(lambda tx: self._settle(tx, batch, failed))

    async def _send(self, row: Row[Any], spans: Sequence[Span]) -> None:
        traces = row.config["traces"]
        content = traces["content_mode"] == "content"
        limit = min(traces["max_content_bytes"] or MAX_CONTENT_BYTES, MAX_CONTENT_BYTES)
        # With content it is megabytes: not on the event loop.
        try:
            body = await anyio.to_thread.run_sync(
                encode, spans, self._organization_id, limit if content else None
            )
        except Exception as error:
            # One span that the library does not take must not stop all others for ever.
            log.error("spans_do_not_encode", destination=row.id, exc_info=error)
            raise NotDelivered("connection failure", retryable=False) from error
        url = traces_url(row.config["endpoint_url"], traces["endpoint_url"])
        try:
            headers = destinations.headers_of(self.rules, row)
        except OperatorError as error:
            log.error("headers_do_not_open", destination=row.id)
            raise NotDelivered("connection failure") from error
        await self._courier.post(url, headers, body, CONTENT_TYPE)

    def _claim(self, tx: Tx, destination_id: str) -> _Batch | None:
        """Take the right to deliver to a destination for a while, and what to deliver."""
        now_us = to_micros(self._clock.now())
        table = telemetry_destinations.c
        mine = update(telemetry_destinations).where(
            table.id == destination_id, table.disabled.is_(None), table.due_us <= now_us
        )
        if not tx.execute(mine.values(due_us=now_us + round(CLAIM_S * MICROS))).rowcount:
            return None
        row = destinations.find_row(tx, destination_id)
        rows = tx.execute(
            select(telemetry_spans)
            .where(telemetry_spans.c.seq > row.sent_seq)
            .order_by(telemetry_spans.c.seq)
            .limit(BATCH)
        ).all()
        wanted = {one.workspace_id for one in rows if self._covered(tx, row, one.workspace_id)}
        spans = [one.span for one in rows if one.workspace_id in wanted]
        if not row.config["traces"]["enabled"]:
            spans = []
        if spans:
            fields = {"id": row.id, "spans": len(spans), "attempt": row.attempts + 1}
            audit.record(
                tx, self._clock, "telemetry_destination.deliver", workspace_id=None, fields=fields
            )
        return _Batch(row, spans, rows[-1].seq if rows else row.sent_seq)

    def _covered(self, tx: Tx, row: Row[Any], workspace_id: str) -> bool:
        table = telemetry_destinations.c
        which = select(table.id).where(table.id == row.id, covers([workspace_id]))
        return tx.scalar(which) is not None

    def _settle(self, tx: Tx, batch: _Batch, failed: NotDelivered | None) -> None:
        """Remember how a delivery went; the caller's changes meanwhile are kept."""
        table = telemetry_destinations.c
        row = tx.execute(select(telemetry_destinations).where(table.id == batch.row.id)).first()
        if row is None:
            return
        now_us = to_micros(self._clock.now())
        values: dict[str, Any] = {"due_us": now_us}
        done = {"sent_seq": max(row.sent_seq, batch.upto_seq), "attempts": 0}
        if failed is None:
            values |= done
            if batch.spans:
                values |= {"last_success_us": now_us, "failing_us": None}
        else:
            values |= {"last_error": failed.error, "last_error_us": now_us}
            since_us = row.failing_us or now_us
            values["failing_us"] = since_us
            attempts = row.attempts + 1
            if failed.retryable and attempts < MAX_ATTEMPTS:
                delay_s = backoff_s(attempts - 1, BACKOFF_BASE_S, BACKOFF_CAP_S, self._rand())
                values |= {"attempts": attempts, "due_us": now_us + round(delay_s * MICROS)}
            else:
                values |= done
                log.warning("spans_dropped", destination=row.id, spans=len(batch.spans))
            sustained = now_us - since_us >= SUSTAINED_S * MICROS
            # What was said of the old address tells nothing of a new one.
            same = row.config == batch.row.config
            if same and (failed.reason == "redirect" or sustained):
                values |= self._disable(tx, row, failed.reason, now_us)
        tx.execute(update(telemetry_destinations).where(table.id == row.id).values(**values))

    def _disable(self, tx: Tx, row: Row[Any], reason: str, now_us: int) -> dict[str, Any]:
        if row.disabled is not None:
            return {}
        log.warning("destination_disabled", destination=row.id, reason=reason)
        fields = {"id": row.id, "reason": reason}
        kind = "telemetry_destination.disable"
        audit.record(tx, self._clock, kind, workspace_id=None, fields=fields)
        return {
            "disabled": reason,
            "version": row.version + 1,
            "updated_us": max(now_us, row.updated_us + 1),
        }

    def _prune(self, tx: Tx) -> None:
        """Drop what everybody has, what is old, and what is too much."""
        table = telemetry_spans.c
        enabled = telemetry_destinations.c.disabled.is_(None)
        done = tx.scalar(select(func.min(telemetry_destinations.c.sent_seq)).where(enabled))
        newest = tx.scalar(select(func.max(table.seq))) or 0
        old_us = to_micros(self._clock.now()) - round(KEEP_S * MICROS)
        for gone in _gone(newest if done is None else done, newest, old_us):
            tx.execute(delete(telemetry_spans).where(gone))

    def _test_span(self) -> Span:
        now_us = to_micros(self._clock.now())
        return Span(
            name=TEST_SPAN,
            kind="internal",
            trace_id=self._ids.random(16).hex(),
            span_id=self._ids.random(8).hex(),
            parent_id="",
            start_us=now_us,
            end_us=now_us,
            error=None,
            attributes={},
            content={},
        )


def _gone(done_seq: int, newest_seq: int, old_us: int) -> list[ColumnElement[bool]]:
    table = telemetry_spans.c
    return [table.seq <= max(done_seq, newest_seq - KEEP_SPANS), table.at_us < old_us]
