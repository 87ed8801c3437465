"""One client's live view of a session: the tail of the log, with previews mixed in.

News bring the rows that this process writes, shared by all streams of a session; the log is read
by position, in bounded batches, behind a gap, a plain hint or a safety period. A slow client
therefore costs no memory, it is only behind. Previews are whispers that may
be lost. :class:`Mixer` holds the order: nothing here can show a preview before its request's start,
after its end, or after the event that it previews (contract 15.3, 18.5-18.7, 18.10).
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sqlalchemy import select

from intramuros.control.store import events
from intramuros.control.store.db import Database, Tx
from intramuros.control.store.notify import News, Subscription, Whisper
from intramuros.control.store.records import Record
from intramuros.control.store.tables import sessions
from intramuros.kernel.errors import NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock, to_micros
from intramuros.protocol.sse import KEEP_ALIVE, frame

# Events read at once: one batch is all that a stuck client keeps in memory.
BATCH: Final = 100
# Without a hint, look at the table after this long, in seconds. Within one process no hint is lost,
# and an idle stream should cost nothing.
SAFETY_S: Final = 15.0
# A silent stream says so after this long, in seconds (AMB 36).
KEEP_ALIVE_S: Final = 15.0

# After one of these nothing more will come (contract 17.9, AMB 37).
LAST_WORDS: Final = frozenset({"session.status_terminated", "session.deleted"})

_SPANS: Final = frozenset({"span.model_request_start", "span.model_request_end"})

PREVIEWS: Final = ("agent.message", "agent.thinking")

# The name of every frame: the only one that each official SDK lets through, the oldest included.
# What it holds is said in its JSON (contract 17.6).
EVENT: Final = "message"


class Mixer:
    """Merges records with the whispers of the request that is open on this connection. No I/O.

    Args:
        previews: the event types that the client asked to preview.
        numbered: whether frames carry the log position, for clients that resume.
        thread_id: the child thread whose view it is; None for the session's.
    """

    def __init__(
        self, previews: Collection[str], *, numbered: bool = False, thread_id: str | None = None
    ) -> None:
        self.thread_id = thread_id
        self._previews = frozenset(previews)
        self._numbered = numbered
        self._open: int | None = None  # position of the open request's start, once shown
        self._started: set[str] = set()  # ids that the client has an event_start of
        self._concluded: set[str] = set()  # ids of the open request that the client has whole
        self._waiting: list[Whisper] = []

    def mix(self, records: Sequence[Record], whispers: Iterable[Whisper]) -> list[bytes]:
        """Return the frames to send, in order.

        Args:
            records: what happened since the last call, by position.
            whispers: taken from the subscription before ``records`` were read, so that the start
                of every whispered request is among the records so far.
        """
        self._waiting += [w for w in whispers if w.kind in self._previews]
        frames: list[bytes] = []
        for record in records:
            if not record.seen_from(self.thread_id):
                continue
            if record.type != "span.model_request_start":
                frames += self._flush()
            frames.append(self._show(record))
            if record.type in _SPANS:
                self._open = record.seq if record.type == "span.model_request_start" else None
                self._started.clear()
                self._concluded.clear()
            elif record.type in PREVIEWS:
                self._started.discard(record.id)
                self._concluded.add(record.id)
        frames += self._flush()
        self._waiting = []
        return frames

    def _flush(self) -> list[bytes]:
        """Return what waits for the open request, leaving out deltas without their start.

        Nor what comes after the event that it previews, from a process far away.
        """
        ready = [w for w in self._waiting if w.request_seq == self._open]
        self._waiting = [w for w in self._waiting if w.request_seq != self._open]
        return [frame(EVENT, _json(whisper.event)) for whisper in ready if self._has_start(whisper)]

    def _has_start(self, whisper: Whisper) -> bool:
        begun = whisper.event.get("event")
        if isinstance(begun, Mapping):
            if begun["id"] in self._concluded:
                return False
            self._started.add(str(begun["id"]))
            return True
        return whisper.event.get("event_id") in self._started

    def _show(self, record: Record) -> bytes:
        number = str(record.seq) if self._numbered else None
        if self.thread_id is None:
            return frame(EVENT, record.text, id=number)
        return frame(EVENT, _json(record.public(self.thread_id)), id=number)


class Follower:
    """Reads one session's log as it grows.

    Use it under ``hub.subscribe(session_topic(id))``, subscribed before :meth:`open`.

    Args:
        subscription: wakes the follower and brings whispers.
        mixer: orders what is sent.
    """

    def __init__(
        self, db: Database, clock: Clock, ids: IdFactory, subscription: Subscription, mixer: Mixer
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._subscription = subscription
        self._mixer = mixer
        self._session_id = ""
        self._seq = 0
        self._behind = True  # the table may hold rows that no news will bring
        self._over = False

    @property
    def over(self) -> bool:
        """True once nothing more will come."""
        return self._over

    async def open(
        self, session_id: str, after_seq: int | None = None, *, ended: bool = False
    ) -> None:
        """Place the follower at the end of the log, or behind ``after_seq`` to resume.

        Args:
            ended: whether the thread that is followed has ended already.

        Raises:
            NotFound: there is no such session.
        """
        row = await self._db.read(lambda tx: _head(tx, session_id))
        if row is None:
            raise NotFound(f"no session {session_id!r}")
        status, last_seq = row
        self._session_id = session_id
        self._seq = last_seq if after_seq is None else min(after_seq, last_seq)
        self._over = ended or (status == "terminated" and self._seq == last_seq)

    async def next(self) -> list[bytes]:
        """Wait for more and return its frames; a keep-alive when there is nothing for long.

        After :attr:`over` it must not be called again.
        """
        quiet_until = self._clock.monotonic() + KEEP_ALIVE_S
        while True:
            self._subscription.clear()
            whispers = self._subscription.take_whispers()
            records = self._hear(self._subscription.take_news())
            if records is None:
                records = await self._look()
            elif not self._over and any(w.request_seq > self._seq for w in whispers):
                # From another process, whose news do not come here: its request's start is there.
                records += await self._look()
            frames = self._mixer.mix(records, whispers)
            if self._subscription.closed:
                self._over = True
            if frames or self._over:
                return frames
            left_s = quiet_until - self._clock.monotonic()
            if left_s <= 0:
                self._behind = True
                return [KEEP_ALIVE]
            if not await self._subscription.wait(min(left_s, SAFETY_S)):
                self._behind = True

    def _hear(self, news: Sequence[News] | None) -> list[Record] | None:
        """Return the rows that the news bring, or None if only a look at the table can tell."""
        if self._behind or news is None:
            return None
        records, seq = list[Record](), self._seq
        for item in news:
            if item.after_seq > seq:
                return None
            records += [record for record in item.records if record.seq > seq]
            seq = max(seq, item.last_seq)
        return self._pass(records, seq)

    async def _look(self) -> list[Record]:
        found = await self._db.read(self._read_in)
        if found is None:
            self._over = True
            return [self._farewell()]
        last_seq, records = found
        self._behind = len(records) == BATCH
        # Rows that clients do not see are passed over too, so that they are not read again.
        return self._pass(records, records[-1].seq if self._behind else last_seq)

    def _pass(self, records: list[Record], last_seq: int) -> list[Record]:
        """Move to ``last_seq`` and return the rows, through the last that a stream may show."""
        self._seq = max(last_seq, self._seq)
        for index, record in enumerate(records):
            if self._ends(record):
                self._over = True
                return records[: index + 1]
        return records

    def _ends(self, record: Record) -> bool:
        thread_id = self._mixer.thread_id
        if thread_id is not None and record.type == "session.thread_status_terminated":
            return record.thread_id == thread_id
        return record.type in LAST_WORDS

    def _read_in(self, tx: Tx) -> tuple[int, list[Record]] | None:
        row = _head(tx, self._session_id)
        if row is None:
            return None
        _, last_seq = row
        if last_seq <= self._seq:
            return last_seq, []
        return last_seq, events.tail(tx, self._session_id, self._seq, BATCH, self._mixer.thread_id)

    def _farewell(self) -> Record:
        """Return the event that tells of a deletion, whose log is gone (contract 10.23)."""
        at_us = to_micros(self._clock.now())
        new_id = self._ids.new("sevt")
        seq, thread_id = self._seq + 1, self._mixer.thread_id
        return Record(self._session_id, seq, new_id, "session.deleted", at_us, {}, thread_id)


def _head(tx: Tx, session_id: str) -> tuple[str, int] | None:
    row = tx.execute(
        select(sessions.c.status, sessions.c.last_seq).where(sessions.c.id == session_id)
    ).first()
    return None if row is None else (row.status, row.last_seq)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
