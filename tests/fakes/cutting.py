"""A transport whose event streams are cut where a test says."""

import math
from collections.abc import AsyncIterator

import httpx2


class Cutting(httpx2.AsyncBaseTransport):
    """Wraps a transport; notes what was asked.

    Args:
        inner: the wrapped one.
        cuts: after how many bytes each event stream within a session breaks, the first first;
            later ones are whole.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, *cuts: int) -> None:
        self.inner = inner
        self.cuts = list(cuts)
        self.requests: list[httpx2.Request] = []
        self.heard = 0
        """Parts of calls' event streams that were read."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        response = await self.inner.handle_async_request(request)
        stream = response.stream
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        own = request.method == "GET" and "last-event-id" not in request.headers
        if events and not own and "mcp-session-id" in request.headers:
            assert isinstance(stream, httpx2.AsyncByteStream)
            response.stream = _Cut(self, stream, self.cuts.pop(0) if self.cuts else math.inf)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


class _Cut(httpx2.AsyncByteStream):
    def __init__(self, whole: Cutting, inner: httpx2.AsyncByteStream, left: float) -> None:
        self._whole = whole
        self._inner = inner
        self._left = left

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            part = chunk if self._left >= len(chunk) else chunk[: int(self._left)]
            self._left -= len(chunk)
            if part:
                self._whole.heard += 1
                yield part
            if self._left < 0:
                raise httpx2.ReadError("cut")

    async def aclose(self) -> None:
        await self._inner.aclose()
