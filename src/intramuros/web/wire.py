"""One HTTP request to somebody who is not trusted: bounded in time, size and where it goes."""

import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import anyio
import httpx2

from intramuros.kernel.errors import IntramurosError
from intramuros.web.urls import Target

# What is inflated at once, so that a small body that becomes a large one is noticed on the way.
_CHUNK_BYTES: Final = 64 * 1024
# gzip, and nothing else that zlib reads.
_GZIP: Final = 16 + zlib.MAX_WBITS
_PHASES: Final = ("connect", "read", "write", "pool")


class Broken(IntramurosError):
    """An answer that cannot be read to its end."""


class Forbidden(IntramurosError):
    """A name that leads where nobody may go."""


@dataclass(frozen=True)
class Received:
    """A body, or as much of it as was wanted; ``whole`` if that is all."""

    data: bytes
    whole: bool


@asynccontextmanager
async def answered(
    transport: httpx2.AsyncBaseTransport, request: httpx2.Request, timeout_s: float
) -> AsyncIterator[httpx2.Response]:
    """Send a request and lend the answer, whose body is not read yet.

    There is no client in between: nothing adds cookies or credentials, follows redirects or looks
    at the environment.

    Raises:
        httpx2.HTTPError: it could not be sent, or nothing came back.
    """
    request.extensions["timeout"] = dict.fromkeys(_PHASES, timeout_s)
    async with transport:
        response = await transport.handle_async_request(request)
        try:
            yield response
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
                await response.aclose()


async def receive(response: httpx2.Response, max_bytes: int) -> Received:
    """Read a body, inflated, as far as the limit; what comes behind it is never read.

    Raises:
        Broken: an encoding that was not asked for, or one that does not hold.
        httpx2.HTTPError: the connection broke.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise Broken("the answer is compressed in a way that was not asked for")
    inflate = zlib.decompressobj(_GZIP) if "gzip" in encoding else None
    data = bytearray()
    stream = response.stream
    assert isinstance(stream, httpx2.AsyncByteStream)
    async for raw in stream:
        if inflate is None:
            data += raw
        else:
            _inflate(inflate, raw, data, max_bytes)
        if len(data) > max_bytes:
            return Received(bytes(data[:max_bytes]), whole=False)
    if inflate is not None and not inflate.eof:
        raise Broken("the compressed answer ends too early")
    return Received(bytes(data), whole=True)


def _inflate(inflate: "zlib._Decompress", raw: bytes, data: bytearray, max_bytes: int) -> None:
    try:
        while raw and len(data) <= max_bytes and not inflate.eof:
            data += inflate.decompress(raw, _CHUNK_BYTES)
            raw = inflate.unconsumed_tail
    except zlib.error as error:
        raise Broken("the answer is not compressed as it says") from error


class Ways(Protocol):
    """Opens ways out: each transport is for one request."""

    async def to(self, target: Target) -> httpx2.AsyncBaseTransport:
        """Return a way to a page.

        Raises:
            Forbidden: the page may not be reached; a transport may say so too, when it is used.
        """
        ...

    def to_engine(self, *, public: bool) -> httpx2.AsyncBaseTransport:
        """Return a way to the operator's search engine.

        Args:
            public: whether it is somebody else's, on the public network.
        """
        ...


def get(url: str, headers: Mapping[str, str], params: Mapping[str, str]) -> httpx2.Request:
    """Return a GET."""
    return httpx2.Request("GET", url, headers=dict(headers), params=dict(params) or None)


def post(url: str, headers: Mapping[str, str], body: Mapping[str, object]) -> httpx2.Request:
    """Return a POST of JSON."""
    return httpx2.Request("POST", url, headers=dict(headers), json=dict(body))
