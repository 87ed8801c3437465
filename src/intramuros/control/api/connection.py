"""One HTTP connection, bounded before anybody is known.

The parser keeps headers of any length and waits for them for ever, so that a few hundred strangers
could use up the server's memory or descriptors. Bodies are bounded by the boundary.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Twice what browsers and SDKs send with large cookies, and room for a long query.
MAX_HEAD_BYTES: Final = 128 * 1024
HEAD_S: Final = 20.0


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request head is too large, or takes too long to arrive."""

    head_s = HEAD_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  uvicorn's own arguments
        super().__init__(*args, **kwargs)
        self._head_bytes: int | None = None
        self._too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Expect a first request."""
        super().connection_made(transport)
        self._expect()

    def on_message_begin(self) -> None:
        """Expect the rest of a request's head."""
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        """Stop counting: the head is there."""
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what arrived, unless it makes the head too large."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._stop()
            if not self.transport.is_closing():
                self.send_400_response("Request head too large.")

    def _expect(self) -> None:
        self._stop()
        self._head_bytes = 0
        self._too_slow = self.loop.call_later(self.head_s, self._close)

    def _stop(self) -> None:
        self._head_bytes = None
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
