"""Lists of tools, prompts and resources without what the caller could not use.

Answers are JSON, or events of a stream; both are read as the client would read them, and an answer
that cannot be read is not passed on.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

import anyio.to_thread
import httpcore2

from intramuros.tunnel.acts import LISTS

# Of one answer, or one event. Servers with a thousand tools need about a megabyte.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
# A larger message is read aside: a thousand tools are judged in half a second.
ASIDE_BYTES: Final = 16 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_NAMED_BY: Final = {"resources": "uri", "resourceTemplates": "uriTemplate"}

# Member of a result and the names of its items → which of them may be shown.
Usable = Callable[[str, Sequence[str]], Sequence[bool]]


class Screen(Protocol):
    """Looks at the tools themselves, not only at their names."""

    def sound(self, tools: Sequence[Mapping[str, object]], /) -> Sequence[bool]:
        """Say which may be shown; asked on any thread."""
        ...

    def report(self) -> None:
        """Be told, on the event loop's thread, that tools were looked at."""
        ...


class ListFilter:
    """Filters the answers to one request; ``hidden`` counts what was left out."""

    def __init__(self, usable: Usable | None = None, screen: Screen | None = None) -> None:
        self._usable = usable or _all
        self.screen = screen
        self.hidden = 0

    def wrap(self, response: httpcore2.Response) -> httpcore2.Response:
        """Return the response with its lists filtered as they are read.

        Reading it raises ``httpcore2.RemoteProtocolError`` if it cannot be filtered.
        """
        headers = [(name.lower(), value) for name, value in response.headers]
        named = dict(headers)
        kind = named.get(b"content-type", b"").split(b";")[0].strip().lower()
        # As generously as clients do.
        if kind.startswith(b"text/event-stream"):
            content = self._events(response)
        elif b"json" in kind:
            content = self._whole(response)
        else:
            # Neither is read as MCP, so it holds no list that a client would see.
            return response
        if named.get(b"content-encoding", b"identity") != b"identity":
            content = _unreadable(response)
        kept = [(name, value) for name, value in headers if name != b"content-length"]
        return httpcore2.Response(response.status, headers=kept, content=content)

    def message(self, data: bytes | str) -> bytes | None:
        """Return a JSON-RPC message, or several, without hidden items; None if it has no list.

        Raises:
            ValueError: it is no JSON.
        """
        found = json.loads(data)
        messages = found if isinstance(found, list) else [found]
        changed = [self._filter(message) for message in messages]
        if not any(changed):
            return None
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )

    def _filter(self, message: object) -> bool:
        result = message.get("result") if isinstance(message, dict) else None
        if not isinstance(result, dict):
            return False
        lists = [member for member in LISTS if isinstance(result.get(member), list)]
        for member in lists:
            key = _NAMED_BY.get(member, "name")
            items: list[Any] = [
                item
                for item in result[member]
                if isinstance(item, dict) and isinstance(item.get(key), str)
            ]
            shown = self._usable(member, [item[key] for item in items])
            if self.screen is not None and member == "tools":
                sound = self.screen.sound(items)
                shown = [both and each for both, each in zip(shown, sound, strict=True)]
            kept = [item for item, show in zip(items, shown, strict=True) if show]
            self.hidden += len(result[member]) - len(kept)
            result[member] = kept
        return bool(lists)

    async def _whole(self, response: httpcore2.Response) -> AsyncIterator[bytes]:
        body = bytearray()
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise httpcore2.RemoteProtocolError("the list is too large to be filtered")
        yield await self._checked(bytes(body)) or bytes(body)

    async def _events(self, response: httpcore2.Response) -> AsyncIterator[bytes]:
        reader = EventReader()
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                passed = b"".join([await self._event(event) for event in reader.feed(chunk)])
                if passed:
                    yield passed

    async def _event(self, lines: list[bytes]) -> bytes:
        data = [_value(line) for line in lines if _field(line) == b"data"]
        whole = b"\n".join(lines) + b"\n\n"
        text = b"\n".join(data)
        if not text.lstrip().startswith((b"{", b"[")):
            return whole
        filtered = await self._checked(text)
        if filtered is None:
            return whole
        others = [line for line in lines if _field(line) != b"data"]
        return b"\n".join([*others, b"data: " + filtered]) + b"\n\n"

    async def _checked(self, data: bytes) -> bytes | None:
        """Return what replaces a message, or None if it may pass as it is."""
        if not data.strip():
            return None
        try:
            if len(data) > ASIDE_BYTES:
                return await anyio.to_thread.run_sync(self.message, data)
            return self.message(data)
        except (ValueError, RecursionError) as error:
            raise httpcore2.RemoteProtocolError("the answer is no JSON") from error
        finally:
            if self.screen is not None:
                self.screen.report()


def _all(_member: str, names: Sequence[str]) -> Sequence[bool]:
    return [True] * len(names)


class EventReader:
    """Splits a stream into events (WHATWG HTML 9.2.5), each a list of its lines."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._lines: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[list[bytes]]:
        """Take bytes and return the events that they complete.

        Raises:
            httpcore2.RemoteProtocolError: an event is too large.
        """
        events = []
        for line in self._split(chunk):
            if line:
                self._lines.append(line)
                self._size += len(line)
            elif self._lines:
                events.append(self._lines)
                self._lines, self._size = [], 0
            if self._size > MAX_ANSWER_BYTES:
                raise httpcore2.RemoteProtocolError("an event is too large to be filtered")
        return events

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
        if len(self._held) > MAX_ANSWER_BYTES:
            raise httpcore2.RemoteProtocolError("a line is too long to be filtered")


async def _unreadable(response: httpcore2.Response) -> AsyncIterator[bytes]:
    await response.aclose()
    raise httpcore2.RemoteProtocolError("the list is packed, though that was not asked for")
    yield b""


def _ends_line(data: bytes) -> bool:
    return b"\n" in data or b"\r" in data


def _field(line: bytes) -> bytes:
    return line.partition(b":")[0]


def _value(line: bytes) -> bytes:
    return line.partition(b":")[2].removeprefix(b" ")
