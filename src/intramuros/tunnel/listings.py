"""Lists of tools, prompts and resources without what the caller could not use.

Answers are JSON, or events of a stream; both are read as the client would read them, and an answer
that cannot be read is not passed on.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol

import anyio.to_thread
import httpcore2

from intramuros.protocol.sse import EventReader, EventTooLarge, field, value
from intramuros.tunnel.acts import LISTS

# Of one answer, or one event. Servers with a thousand tools need about a megabyte.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
# A larger message is read aside: a thousand tools are judged in half a second.
ASIDE_BYTES: Final = 16 * 1024
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
    """Filters the answers to one request; ``hidden`` counts what was left out.

    Args:
        usable: which items may be shown, by their names; all without it.
        screen: looks at tools.
        events_only: leave answers as they are that are no events.
    """

    def __init__(
        self,
        usable: Usable | None = None,
        screen: Screen | None = None,
        *,
        events_only: bool = False,
    ) -> None:
        self._usable = usable or _all
        self._events_only = events_only
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
        elif b"json" in kind and not self._events_only:
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
        reader = EventReader(MAX_ANSWER_BYTES)
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                passed = await self._passed(partial(reader.feed, chunk))
                if passed:
                    yield passed
        if last := await self._passed(reader.end):
            yield last

    async def _passed(self, read: Callable[[], list[list[bytes]]]) -> bytes:
        try:
            events = read()
        except EventTooLarge as error:
            raise httpcore2.RemoteProtocolError(f"{error} to be filtered") from error
        return b"".join([await self._event(event) for event in events])

    async def _event(self, lines: list[bytes]) -> bytes:
        data = [value(line) for line in lines if field(line) == b"data"]
        whole = b"\n".join(lines) + b"\n\n"
        text = b"\n".join(data)
        if not text.lstrip().startswith((b"{", b"[")):
            return whole
        filtered = await self._checked(text)
        if filtered is None:
            return whole
        others = [line for line in lines if field(line) != b"data"]
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


async def _unreadable(response: httpcore2.Response) -> AsyncIterator[bytes]:
    await response.aclose()
    raise httpcore2.RemoteProtocolError("the list is packed, though that was not asked for")
    yield b""
