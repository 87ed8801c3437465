"""Server-sent events, as official clients read them (contract 17.5-17.8). Pure."""

from typing import Final

# Skipped by every client, and it keeps proxies and read timeouts quiet (contract 17.7, AMB 36).
KEEP_ALIVE: Final = b": keep-alive\n\n"
# The first bytes after the headers, so that no proxy holds those back (contract 17.4).
OPENED: Final = b": open\n\n"

_LINE_BREAKS: Final = ("\r", "\n")


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
