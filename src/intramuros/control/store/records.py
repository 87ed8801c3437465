"""Rows of a session's log. Pure.

The log is append-only and gapless. A row is one of three:

* an **event** that clients see, with a time of processing;
* a **queued** event: a client's input that has arrived and waits for a turn; when the loop consumes
  it, a second row with the same event id follows, and only that one has a place in the history;
* an **internal** mark that steers the loop (a call was started, a retry is due), never shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from intramuros.kernel.timing import from_micros, micros_rfc3339

Body = Mapping[str, object]

_USES = frozenset({"agent.tool_use", "agent.mcp_tool_use", "agent.custom_tool_use"})


@dataclass(frozen=True)
class Draft:
    """A row to be appended.

    Args:
        type: the event type, or ``internal.*`` for marks.
        body: the public members besides ``id``, ``type`` and ``processed_at``.
        id: the event id; the journal makes one when None.
        thread_id: the thread the row belongs to; None is the primary thread.
        queued: the input waits for a turn.
        private: what only the loop may see (the model's own blocks, attempts), never shown.
        shared: a child thread's row that the primary thread's view shows too.
    """

    type: str
    body: Body = field(default_factory=dict)
    id: str | None = None
    thread_id: str | None = None
    queued: bool = False
    private: Body | None = None
    shared: bool = False

    @property
    def internal(self) -> bool:
        """True for a mark that is never shown."""
        return self.type.startswith("internal.")


@dataclass(frozen=True)
class Record:
    """A row of the log.

    ``at`` is the time of processing, or of arrival for a queued row; strictly increasing within a
    session (contract AMB 25).
    """

    session_id: str
    seq: int
    id: str
    type: str
    at_us: int
    body: Body
    thread_id: str | None = None
    queued: bool = False
    private: Body | None = None
    shared: bool = False

    @property
    def internal(self) -> bool:
        """True for a mark that is never shown."""
        return self.type.startswith("internal.")

    @property
    def at(self) -> datetime:
        """Time of processing, or of arrival for a queued row."""
        return from_micros(self.at_us)

    @property
    def visible(self) -> bool:
        """True for an event that clients see happen: neither a mark nor an input that waits."""
        return not (self.queued or self.internal)

    @cached_property
    def text(self) -> str:
        """The event as the session's stream shows it; kept, because many may show the same row."""
        return json.dumps(self.public(), separators=(",", ":"))

    def seen_from(self, thread_id: str | None) -> bool:
        """Tell whether a thread's view shows this row; None is the primary thread's.

        The primary thread's view is its own rows, and what children share (contract 17.11).
        """
        if thread_id is None:
            return self.thread_id is None or self.shared
        return self.thread_id == thread_id

    def public(self, thread_id: str | None = None) -> dict[str, object]:
        """Return the event as the API shows it; ``processed_at`` is null while queued.

        Args:
            thread_id: whose view shows it. A tool use of a child names the child only in the
                primary thread's view, None (contract 19.9).
        """
        processed_at = None if self.queued else micros_rfc3339(self.at_us)
        shown = {"id": self.id, "type": self.type, **self.body, "processed_at": processed_at}
        if thread_id is None and self.thread_id is not None and self.type in _USES:
            shown["session_thread_id"] = self.thread_id
        return shown


def primary_thread_id(session_id: str) -> str:
    """Return the id of a session's primary thread: the session's own, as a thread's."""
    return "sthr_" + session_id.removeprefix("sesn_")
