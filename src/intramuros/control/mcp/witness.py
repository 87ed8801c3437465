"""A transport that watches another: bounds replies and remembers how the last ones failed.

The MCP SDK folds every HTTP failure into one JSON-RPC error; what we tell the session (try the
older transport, the credential was refused, the server is away) depends on the status it hides.
"""

import json
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING, Final

import httpx2

from intramuros.control.mcp.bearer import BearerTransport, CredentialRefused
from intramuros.control.mcp.resuming import ResumingTransport, check_plain

if TYPE_CHECKING:
    import anyio

# A tool result of this size is a mistake of the server; larger outputs belong into files.
MAX_REPLY_BYTES: Final = 32 * 1024 * 1024
_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429


class Witness(httpx2.AsyncBaseTransport):
    """Wraps a transport; ``failures`` counts refused or broken requests, ``status`` is the last."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self.failures = 0
        self.status: int | None = None
        self.error: str | None = None
        self.sessions_unknown = 0
        """Requests that were turned away because the server knows their session no longer."""
        self.waiting: set[anyio.CancelScope] = set()
        """Calls whose answer comes over another request, and not at all if theirs fails."""

    @property
    def secrets(self) -> Collection[str]:
        """Return the tokens that were sent, which must not be repeated to anybody."""
        way = self._inner
        if isinstance(way, ResumingTransport):
            way = way.way
        return way.sent if isinstance(way, BearerTransport) else ()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request and note a failure; GET is the optional event stream, so it is not."""
        request.headers["accept-encoding"] = "identity"
        try:
            response = await self._inner.handle_async_request(request)
            await check_plain(response)
        except Exception as error:
            refused = _UNAUTHORIZED if isinstance(error, CredentialRefused) else None
            self.note(refused, str(error) or type(error).__name__)
            raise
        if self._fails(request, response):
            self.note(response.status_code, f"HTTP {response.status_code}")
            if response.status_code == _NOT_FOUND and _asks_in_session(request):
                self.sessions_unknown += 1
        stream = response.stream
        if isinstance(stream, httpx2.AsyncByteStream):
            response.stream = _Bounded(stream, self)
        return response

    async def aclose(self) -> None:
        """Close the watched transport."""
        await self._inner.aclose()

    def _fails(self, request: httpx2.Request, response: httpx2.Response) -> bool:
        """Whether a response ends the session.

        Who is over a limit is told so in an answer to the call, and may go on later; on the
        transport of old nobody would read that answer.
        """
        if response.status_code < 400 or request.method != "POST":
            return False
        told = response.headers.get("content-type", "").startswith("application/json")
        return response.status_code != _TOO_MANY or not told or bool(self.waiting)

    def note(self, status: int | None, error: str) -> None:
        """Remember a failure."""
        self.failures += 1
        self.status = status
        self.error = error
        for scope in self.waiting:
            scope.cancel()


def _asks_in_session(request: httpx2.Request) -> bool:
    """Tell whether it is a call, not a notice or an answer, within a session."""
    if "mcp-session-id" not in request.headers:
        return False
    try:
        message = json.loads(request.content)
    except (ValueError, httpx2.RequestNotRead):
        return False
    return isinstance(message, dict) and str(message.get("method")).startswith("tools/")


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, witness: Witness) -> None:
        self._inner = inner
        self._witness = witness

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        try:
            async for chunk in self._inner:
                total += len(chunk)
                if total > MAX_REPLY_BYTES:
                    raise httpx2.ReadError(f"reply larger than {MAX_REPLY_BYTES} bytes")
                yield chunk
        except httpx2.TransportError as error:
            self._witness.note(None, str(error))
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()
