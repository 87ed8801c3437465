"""What a dream reads next: memories of its store, then the events of its sessions, part by part.

Each function runs in the caller's transaction and reads no more than a part holds.
"""

from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import func, select

from intramuros.control.catalog import memories
from intramuros.control.dreams import entries, rows
from intramuros.control.dreams.plan import Dream, Progress
from intramuros.control.dreams.rows import Known
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.control.store.events import Position
from intramuros.control.store.tables import memories as memories_table
from intramuros.control.store.tables import sessions

_MEMORIES: Final = 20
# Each may be as large as a request.
_EVENTS: Final = 10


@dataclass
class Part:
    """A part while it is filled: its lines, and how far they bring the dream."""

    progress: Progress
    room: int
    lines: list[str]
    filled: bool = False

    def add(self, line: str, *, heading: bool = False) -> bool:
        """Take a line if it fits; the first one always does, or a dream might never get on.

        A heading is not what a dream gets on with.
        """
        if self.filled and len(line) > self.room:
            return False
        self.lines.append(line)
        self.room -= len(line)
        self.filled = self.filled or not heading
        return True

    def step(self, **values: object) -> None:
        """Move on."""
        self.progress = replace(self.progress, **values)  # type: ignore[arg-type]  # its own fields


def fill(tx: Tx, dream: Dream, chars: int) -> tuple[list[str], Progress, bool]:
    """Return the lines of the next part, how far they bring the dream, and whether more follows.

    Args:
        chars: the most that a part shows.
    """
    part = Part(dream.progress, chars, [])
    more = _memories(tx, dream, part, chars) or _sessions(tx, dream, part)
    return part.lines, part.progress, more


def held(tx: Tx, dream: Dream) -> int:
    """Return how many memories the output store holds."""
    here = memories_table.c.store_id == dream.output_id
    return int(tx.scalar(select(func.count()).select_from(memories_table).where(here)) or 0)


def _memories(tx: Tx, dream: Dream, part: Part, chars: int) -> bool:
    """Show memories; True if the part is full."""
    number, store_id = dream.progress.part + 1, str(dream.output_id)
    while (after := part.progress.path) is not None:
        query = memories.Query(_MEMORIES, after=after or None)
        found, more = memories.find(tx, store_id, query)
        listed = [item for item in found if not isinstance(item, str)]
        texts = memories.contents(tx, listed)
        for item in listed:
            # A memory that would leave no room for anything else is read by itself.
            line, whole = entries.memory(item.path, texts[item.id].decode(), chars // 2)
            if not part.add(line):
                return True
            if whole:
                _see(tx, dream, item, number)
            part.step(path=item.path)
        if not more:
            part.step(path=None)
    return False


def _see(tx: Tx, dream: Dream, item: memories.Memory, number: int) -> None:
    known = rows.known(tx, dream, item.path) or Known(item.path, None, None, 0)
    rows.know(tx, dream, replace(known, seen=item.version_id, part=number))


def _sessions(tx: Tx, dream: Dream, part: Part) -> bool:
    """Show what was said in sessions; True if the part is full."""
    while part.progress.session < len(dream.session_ids):
        session_id = dream.session_ids[part.progress.session]
        title = tx.scalar(select(sessions.c.title).where(sessions.c.id == session_id))
        # Repeated where a part begins in the middle of a session.
        if not part.add(entries.session(session_id, title), heading=True):
            return True
        if _events(tx, session_id, part):
            return True
        part.step(session=part.progress.session + 1, seq=0)
    return False


def _events(tx: Tx, session_id: str, part: Part) -> bool:
    more: Position | None = Position(waiting=False, seq=part.progress.seq)
    while more is not None and not more.waiting:
        query = events.Query(types=tuple(entries.READ), limit=_EVENTS, after=more)
        found, more = events.page(tx, session_id, query)
        for record in found:
            if record.queued:
                return False  # inputs that wait stand behind everything that happened
            if not part.add(entries.event(record)):
                return True
            part.step(seq=record.seq)
    return False
