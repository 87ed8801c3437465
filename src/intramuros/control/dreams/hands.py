"""The memory tools of a dream, each call in the transaction that records its answer.

They reach one store, the dream's own output: no input names another. What goes wrong becomes an
error that the model reads, and nothing is half done then: every tool checks before it writes.
"""

import json
from dataclasses import replace
from typing import Final

from intramuros.control.catalog import memories
from intramuros.control.catalog.memory_versions import Writer
from intramuros.control.dreams import entries, rows
from intramuros.control.dreams.plan import Dream, Progress
from intramuros.control.dreams.rows import Known
from intramuros.control.dreams.statements import (
    BadInput,
    DeleteMemory,
    Event,
    ListMemories,
    ReadMemory,
    Source,
    ToolInput,
    Version,
    WriteMemory,
    parse,
    render,
)
from intramuros.control.store import events
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import DomainError
from intramuros.kernel.timing import rfc3339
from intramuros.protocol.resources.memory import MAX_CONTENT_BYTES, MemoryCreate, MemoryUpdate

_PAGE: Final = 200


class Hands:
    """Performs the calls of one reply, one after the other.

    Args:
        writer: the dream's session, at the output store.
    """

    def __init__(self, tx: Tx, dream: Dream, writer: Writer) -> None:
        self._tx = tx
        self._dream = dream
        self._writer = writer
        self.progress: Progress = dream.progress

    def perform(self, name: str, given: object) -> tuple[str, bool]:
        """Return the text that answers a call, and whether the call failed."""
        try:
            return self._do(parse(name, given)), False
        except (BadInput, DomainError) as error:
            return str(error), True

    def _do(self, wanted: ToolInput) -> str:
        match wanted:
            case ListMemories():
                return self._list(wanted)
            case ReadMemory():
                return self._read(wanted)
            case WriteMemory():
                return self._write(wanted)
            case DeleteMemory():
                return self._delete(wanted)

    def _list(self, wanted: ListMemories) -> str:
        query = memories.Query(_PAGE, prefix=wanted.prefix, after=wanted.after)
        found, more = memories.find(self._tx, self._store_id, query)
        lines = [
            json.dumps({"memory": item.path, "bytes": item.size_bytes}, ensure_ascii=False)
            for item in found
            if not isinstance(item, str)
        ]
        if more:
            lines.append("There is more: go on with after set to the last path.")
        return self._show("\n".join(lines) or "There are no memories here.")

    def _read(self, wanted: ReadMemory) -> str:
        found = self._find(wanted.path)
        if found is None:
            raise BadInput(f"there is no memory at {wanted.path!r}")
        text = memories.contents(self._tx, [found])[found.id].decode()
        line, _ = entries.memory(found.path, text, 10 * MAX_CONTENT_BYTES)
        shown = self._show(line)
        self._know(found.path, seen=found.version_id)
        return shown

    def _write(self, wanted: WriteMemory) -> str:
        text = render(wanted, {named: self._source(named) for named in wanted.sources})
        size = len(text.encode())
        if size > MAX_CONTENT_BYTES:
            raise BadInput(f"the text would have {size} bytes, over {MAX_CONTENT_BYTES}: split it")
        found = self._find(wanted.path)
        if found is None:
            request = MemoryCreate(path=wanted.path, content=text)
            made = memories.create(self._tx, self._writer, request)
        else:
            self._check_seen(found)
            change = MemoryUpdate(content=text)
            made = memories.change(self._tx, self._writer, found.id, change)
        self._know(made.path, seen=made.version_id)
        done = "Created" if found is None else "Replaced"
        return f"{done} {made.path} ({size} bytes)."

    def _delete(self, wanted: DeleteMemory) -> str:
        found = self._find(wanted.path)
        if found is None:
            raise BadInput(f"there is no memory at {wanted.path!r}")
        self._check_seen(found)
        memories.remove(self._tx, self._writer, found.id, None)
        self._know(found.path, seen=None, reason=wanted.reason)
        return f"Deleted {found.path}."

    def _source(self, named: str) -> Source:
        if named.startswith("/"):
            known = rows.known(self._tx, self._dream, named)
            if known is None or known.found is None:
                raise BadInput(
                    f"{named!r} is no source: the input store had no memory there; name the "
                    "events and memories that the statement comes from"
                )
            return Version(self._dream.store_id, named, known.found)
        record = events.by_id_among(self._tx, self._dream.session_ids, named)
        if record is not None and record.type in entries.READ:
            place = self._dream.session_ids.index(record.session_id)
            if self._shown(place, record.seq):
                return Event(record.session_id, record.id, rfc3339(record.at)[:10])
        raise BadInput(f"{named[:80]!r} is no source: no event of that id was shown to you")

    def _shown(self, place: int, seq: int) -> bool:
        now = self.progress
        return place < now.session or (place == now.session and seq <= now.seq)

    def _check_seen(self, found: memories.Memory) -> None:
        known = rows.known(self._tx, self._dream, found.path)
        if known is None or (known.seen, known.part) != (found.version_id, self.progress.part):
            raise BadInput(
                f"you have not seen what {found.path!r} holds now: call read_memory first"
            )

    def _know(self, path: str, *, seen: str | None, reason: str | None = None) -> None:
        known = rows.known(self._tx, self._dream, path) or Known(path, None, None, 0)
        known = replace(known, seen=seen, part=self.progress.part, reason=reason)
        rows.know(self._tx, self._dream, known)

    def _find(self, path: str) -> memories.Memory | None:
        return memories.at(self._tx, self._store_id, path)

    def _show(self, text: str) -> str:
        """Return what a tool brings, if this part still has room for it."""
        if len(text) > self.progress.room:
            raise BadInput(
                "there is no room for more in this part: write what you know and end your turn"
            )
        self.progress = replace(self.progress, room=self.progress.room - len(text))
        return text

    @property
    def _store_id(self) -> str:
        return self._writer.store.id
