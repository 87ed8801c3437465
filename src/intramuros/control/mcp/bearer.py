"""A transport that puts a credential into requests to one server, and into no others."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import httpx2


class CredentialRefused(httpx2.TransportError):
    """A credential is there for the server but cannot be used; nothing was sent."""


@dataclass(frozen=True)
class Bearer:
    """A token to send; ``generation`` grows whenever the credential changes."""

    token: str = field(repr=False)
    generation: int
    renewable: bool = False


# Returns what to send now, or None for nothing. Its argument is the generation that the server has
# just refused, or None.
Lookup = Callable[[int | None], Awaitable[Bearer | None]]


class BearerTransport(httpx2.AsyncBaseTransport):
    """Wraps the transport to one server.

    The credential is looked up anew for each request, so that a rotated, archived or deleted one
    takes effect within the session (R081). A request that is refused with 401 did nothing, so it
    is sent once more if the credential could be renewed.

    Args:
        inner: the way to the server.
        url: the server's; only requests to its scheme, host and port carry the credential.
        lookup: raises :class:`CredentialRefused` if the credential cannot be used.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, url: str, lookup: Lookup) -> None:
        self._inner = inner
        self._origin = _origin(httpx2.URL(url))
        self._lookup = lookup
        self.sent: set[str] = set()
        """Every token that was sent, which the server may echo."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, with the credential if it goes where that belongs."""
        if _origin(request.url) != self._origin:
            return await self._inner.handle_async_request(request)
        bearer = await self._lookup(None)
        if bearer is None:
            return await self._inner.handle_async_request(request)
        content = await request.aread()
        self.sent.add(bearer.token)
        response = await self._inner.handle_async_request(_with(request, content, bearer))
        if response.status_code != _UNAUTHORIZED or not bearer.renewable:
            return response
        fresh = await self._renewed(bearer.generation, response)
        if fresh is None:
            return response
        await response.aclose()
        self.sent.add(fresh.token)
        return await self._inner.handle_async_request(_with(request, content, fresh))

    async def _renewed(self, refused: int, response: httpx2.Response) -> Bearer | None:
        try:
            fresh = await self._lookup(refused)
        except BaseException:
            await response.aclose()
            raise
        return None if fresh is None or fresh.generation == refused else fresh

    async def aclose(self) -> None:
        """Close the way to the server."""
        await self._inner.aclose()


def _with(request: httpx2.Request, content: bytes, bearer: Bearer) -> httpx2.Request:
    headers = httpx2.Headers(request.headers)
    headers["authorization"] = f"Bearer {bearer.token}"
    return httpx2.Request(
        request.method,
        request.url,
        headers=headers,
        content=content,
        extensions=request.extensions,
    )


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port


_UNAUTHORIZED: Final = 401
