"""A client that costs next to nothing: requests as prepared bytes on a connection that stays open.

What is timed is then the server, not the client's own library, with which it shares the machine.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

HEAD_BYTES = 64 * 1024
_BETA = "managed-agents-2026-04-01"


class Line:
    """One connection to the server."""

    def __init__(self, stream: SocketStream, head: str) -> None:
        self._stream = stream
        self._head = head
        self._inward = BufferedByteReceiveStream(stream)

    async def post(self, path: str, body: bytes) -> None:
        """Send a request and read its answer to the end.

        Raises:
            RuntimeError: it is no 200.
        """
        head = f"POST {path} HTTP/1.1\r\n{self._head}content-length: {len(body)}\r\n\r\n"
        await self._stream.send(head.encode() + body)
        await self._answer()

    async def get(self, path: str) -> Any:  # noqa: ANN401  any JSON
        """Return what a GET is answered with.

        Raises:
            RuntimeError: it is no 200.
        """
        await self._stream.send(f"GET {path} HTTP/1.1\r\n{self._head}\r\n".encode())
        return json.loads(await self._answer())

    async def _answer(self) -> bytes:
        answer = (await self._inward.receive_until(b"\r\n\r\n", HEAD_BYTES)).decode().lower()
        length = int(answer.partition("content-length:")[2].split("\r\n", 1)[0])
        said = await self._inward.receive_exactly(length) if length else b""
        if not answer.startswith("http/1.1 200"):
            raise RuntimeError(f"{answer.splitlines()[0]}: {said[:500]!r}")
        return said

    async def events(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a stream."""
        request = f"GET {path} HTTP/1.1\r\n{self._head}\r\n"
        await self._stream.send(request.encode())
        await self._inward.receive_until(b"\r\n\r\n", HEAD_BYTES)
        pending = b""
        while True:
            pending += await self._inward.receive()
            *whole, pending = pending.split(b"\n")
            for text in whole:
                if text.startswith(b"data: "):
                    yield json.loads(text[6:])


@asynccontextmanager
async def connected(base_url: str, api_key: str, **more: str) -> AsyncIterator[Line]:
    """Open a connection, and close it at the end of the block.

    Args:
        more: headers; an ``authorization`` instead of the API key, say.
    """
    parts = urlsplit(base_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proof = more or {"x-api-key": api_key}
    head = "".join(f"{name}: {value}\r\n" for name, value in proof.items()) + (
        f"host: {parts.netloc}\r\nanthropic-version: 2023-06-01\r\n"
        f"anthropic-beta: {_BETA}\r\ncontent-type: application/json\r\n"
    )
    async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
        yield Line(stream, head)
