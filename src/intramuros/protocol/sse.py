"""Server-sent events, as official clients read them (contract 17.5-17.8), and as others send them.

Pure.
"""

from typing import Final

# Skipped by every client, and it keeps proxies and read timeouts quiet (contract 17.7, AMB 36).
KEEP_ALIVE: Final = b": keep-alive\n\n"
# The first bytes after the headers, so that no proxy holds those back (contract 17.4).
OPENED: Final = b": open\n\n"

_LINE_BREAKS: Final = ("\r", "\n")
_BOM: Final = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event, or a line of it, is larger than its reader takes."""


def frame(event: str, data: str, *, id: str | None = None) -> bytes:
    """Return one frame.

    Args:
        event: the event's name; it must have one, or clients drop the frame.
        data: one line of JSON.
        id: what a resuming client sends back; left out for None.

    Raises:
        ValueError: a part is empty or spans lines, which would let it forge another frame.
    """
    for part in (event, data, *(() if id is None else (id,))):
        if not part or any(mark in part for mark in _LINE_BREAKS):
            raise ValueError("a part of a frame is one line and not empty")
    number = "" if id is None else f"id: {id}\n"
    return f"event: {event}\n{number}data: {data}\n\n".encode()


class EventReader:
    """Splits a stream into events (WHATWG HTML 9.2.5), each a list of its lines.

    Args:
        max_bytes: of one event.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._lines: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[list[bytes]]:
        """Take bytes and return the events that they complete.

        Raises:
            EventTooLarge: an event is too large.
        """
        events = []
        for line in self._split(chunk):
            if line:
                self._lines.append(line)
                self._size += len(line)
            elif self._lines:
                events.append(self._lines)
                self._lines, self._size = [], 0
            if self._size > self._max_bytes:
                raise EventTooLarge("an event is too large")
        return events

    def end(self) -> list[list[bytes]]:
        """Return the event that the end of the stream completes: what was held is half of nothing.

        Raises:
            EventTooLarge: it is too large.
        """
        return self.feed(b"\n") if self._held.endswith(b"\r") else []

    def _split(self, chunk: bytes) -> list[bytes]:
        if self._begun and not _ends_line(bytes(self._held[-1:]) + chunk):
            # Nothing is complete; what is held only grows, however small the pieces.
            self._hold(chunk)
            return []
        held = bytes(self._held) + chunk
        self._held.clear()
        if not self._begun:
            if len(held) < len(_BOM) and _BOM.startswith(held):
                self._hold(held)
                return []
            self._begun = True
            held = held.removeprefix(_BOM)
        # A CR at the end may be half of a line's end; what follows tells.
        whole = held[:-1] if held.endswith(b"\r") else held
        lines = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._hold(lines.pop() + held[len(whole) :])
        return lines

    def _hold(self, rest: bytes) -> None:
        self._held += rest
        if len(self._held) > self._max_bytes:
            raise EventTooLarge("a line is too long")


def field(line: bytes) -> bytes:
    """Return the name of the field that a line sets."""
    return line.partition(b":")[0]


def value(line: bytes) -> bytes:
    """Return what a line sets its field to."""
    return line.partition(b":")[2].removeprefix(b" ")


def _ends_line(data: bytes) -> bool:
    return b"\n" in data or b"\r" in data
