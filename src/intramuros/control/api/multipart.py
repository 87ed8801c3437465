"""Multipart bodies, parsed as they arrive: no part is ever held whole."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import anyio
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from intramuros.kernel.errors import InvalidRequest

# The longest pause within a body, in seconds.
PAUSE_S: Final = 60.0
MAX_FIELD_BYTES: Final = 16 * 1024
_MAX_HEADERS: Final = 16
_MAX_HEADER_BYTES: Final = 8192


@dataclass(frozen=True)
class Part:
    """The head of a part; ``filename`` is None for plain fields."""

    name: str
    filename: str | None
    content_type: str


class Multipart:
    """One multipart body; call :meth:`next_part` and then :meth:`data`, in turn.

    Args:
        request: whose body it is; nothing of it has been read.

    Raises:
        InvalidRequest: the request is not multipart.
    """

    def __init__(self, request: Request) -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest("content-type: send multipart/form-data with a boundary")
        self._stream = request.stream()
        self._events: deque[Part | bytes | None] = deque()
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._field, self._value = bytearray(), bytearray()
        self._ended = False
        self._inside = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise InvalidRequest(f"content-type: {error}") from error

    async def next_part(self) -> Part | None:
        """Return the head of the next part, or None at the end; what is left of one is skipped.

        Raises:
            InvalidRequest: the body is malformed, cut short, or too slow.
        """
        async for _ in self.data():
            continue
        event = await self._next()
        if event is None:
            return None
        assert isinstance(event, Part)
        self._inside = True
        return event

    async def data(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the current part.

        Raises:
            InvalidRequest: the body is malformed, cut short, or too slow.
        """
        while self._inside:
            event = await self._next()
            if event is None:
                self._inside = False
            elif isinstance(event, bytes):
                yield event

    async def text(self, part: Part) -> str:
        """Return a short field's text.

        Raises:
            InvalidRequest: over 16 KiB, or not UTF-8.
        """
        value = bytearray()
        async for chunk in self.data():
            value += chunk
            if len(value) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"{part.name}: over {MAX_FIELD_BYTES} bytes")
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"{part.name}: not UTF-8", code="request_body_encoding_invalid"
            ) from error

    async def _next(self) -> Part | bytes | None:
        while not self._events:
            if self._ended:
                return None
            await self._feed()
        return self._events.popleft()

    async def _feed(self) -> None:
        chunk = None
        try:
            with anyio.move_on_after(PAUSE_S):
                chunk = await anext(self._stream, b"")
        except ClientDisconnect:
            raise InvalidRequest("the body was cut short") from None
        if chunk is None:
            raise InvalidRequest("the body did not arrive in time", code="request_body_timeout")
        if not chunk:
            raise InvalidRequest("request body: the last boundary is missing")
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"request body: {error}") from error

    def _part_begin(self) -> None:
        self._names.clear()
        self._values.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._names.append(bytes(self._field).lower())
        self._values.append(bytes(self._value))
        self._field.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        headers = dict(zip(self._names, self._values, strict=True))
        self._events.append(read_head(headers))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _part_end(self) -> None:
        self._events.append(None)

    def _end(self) -> None:
        self._ended = True


def read_head(headers: dict[bytes, bytes]) -> Part:
    """Return what a part's headers say of it; header names are lower-case.

    Raises:
        InvalidRequest: it has no name, or one that is not UTF-8.
    """
    disposition, options = parse_options_header(headers.get(b"content-disposition", b""))
    name, filename = options.get(b"name"), options.get(b"filename")
    if disposition != b"form-data" or not name:
        raise InvalidRequest("request body: a part has no name in its content-disposition")
    try:
        return Part(
            name.decode("utf-8"),
            None if filename is None else filename.decode("utf-8"),
            headers.get(b"content-type", b"").decode("latin-1"),
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "request body: a part's name is not UTF-8", code="request_body_encoding_invalid"
        ) from error
