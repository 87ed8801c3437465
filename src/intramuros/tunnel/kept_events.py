"""What programs said on streams that were cut, or may yet be: callers come back for it.

Over HTTP the answer to a call comes on the stream of its own request. Where that is cut the program
goes on, and its caller asks for what followed the last event that it saw (MCP 2025-11-25,
resumability). So events are kept: of open calls, and for a while of answered ones, within bounds.
An event's id is ``<stream>-<number>``; streams are named by chance, and belong to one session.

What is to be sent after an id is sent from here alone, as it comes, until the answer: the SDK would
look for events first and listen afterwards, and lose an answer that comes in between.
"""

import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import anyio
import mcp_types
from mcp.server.streamable_http import (
    GET_STREAM_KEY,
    EventCallback,
    EventMessage,
    EventStore,
)

from intramuros.kernel.timing import Clock

MIB: Final = 1024 * 1024
# What an event or a stream costs besides its text.
_OVERHEAD_BYTES: Final = 512
_MAX_NUMBER_CHARS: Final = 15


@dataclass(frozen=True)
class KeptLimits:
    """How much is kept, and for how long."""

    session_items: int = 1024
    """Events and streams of one session."""
    session_bytes: int = 16 * MIB
    """Of one session: two messages of the largest size."""
    route_bytes: int = 64 * MIB
    """Of all sessions of a route."""
    answered_s: float = 300.0
    """How long after a call's answer; as long as the control plane waits for one."""


@dataclass(frozen=True, slots=True)
class _Event:
    number: int
    text: bytes
    awaited: bool
    """Whether somebody waits for it: it is no notification."""

    @property
    def size(self) -> int:
        return len(self.text) + _OVERHEAD_BYTES


@dataclass(eq=False, slots=True)
class _Stream:
    """What belongs to one request, or to the session's own stream."""

    owner: "KeptEvents"
    key: str
    """The transport's name for it."""
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    events: deque[_Event] = field(default_factory=deque)
    count: int = 0
    """Of the ids that were given; the first belongs to no message."""
    lost: int = -1
    """The last number that is kept no more though somebody waits for it."""
    answered_s: float | None = None
    gone: bool = False
    more: anyio.Event = field(default_factory=anyio.Event)
    """Set when there is something to send, or nothing more to wait for."""
    reader: object = None
    """Who takes it up now; the latest."""

    def id(self) -> str:
        number, self.count = self.count, self.count + 1
        return f"{self.name}-{number}"

    def after(self, number: int) -> _Event | None:
        if not self.events:
            return None
        index = max(0, number + 1 - self.events[0].number)
        return self.events[index] if index < len(self.events) else None

    def wake(self) -> None:
        self.more.set()
        self.more = anyio.Event()


class Shelf:
    """Where the events of all sessions of a route are counted."""

    def __init__(self, clock: Clock, limits: KeptLimits | None = None) -> None:
        self.limits = limits or KeptLimits()
        self.clock = clock
        self.bytes = 0
        # Open ones in the order of their beginnings, answered ones in that of their answers.
        self.streams: dict[_Stream, None] = {}

    def clear_old(self) -> None:
        """Forget what was answered long ago."""
        for stream in [stream for stream in self.streams if self.is_old(stream)]:
            stream.owner.forget(stream)

    def is_old(self, stream: _Stream) -> bool:
        """Tell whether a stream may be taken up no more."""
        if stream.answered_s is None:
            return False
        return self.clock.monotonic() >= stream.answered_s + self.limits.answered_s


class KeptEvents(EventStore):
    """The events of one session.

    Args:
        shelf: its route's.
        hang_up: ends the connection that a stream had so far; takes the transport's name for it.
    """

    def __init__(self, shelf: Shelf, hang_up: Callable[[str], None]) -> None:
        self._shelf = shelf
        self._hang_up = hang_up
        self._by_name: dict[str, _Stream] = {}
        self._by_key: dict[str, _Stream] = {}
        self._items = 0
        self._bytes = 0
        self._closed = False

    def resumable(self, id: str) -> bool:
        """Tell whether everything that somebody waits for after an event is, or will be, here."""
        return self._find(id) is not None

    def awaits_answer(self, id: str) -> bool:
        """Tell whether an event belongs to a call, whose stream ends with its answer."""
        found = self._find(id)
        return found is not None and found[0].key != GET_STREAM_KEY

    def release(self, key: str) -> None:
        """Send away who took up a stream, because another connection has it from now on."""
        if (stream := self._by_key.get(key)) is not None:
            stream.reader = None
            stream.wake()

    def close(self) -> None:
        """Forget everything, and let nobody wait for more."""
        self._closed = True
        for stream in list(self._by_name.values()):
            self.forget(stream)

    async def store_event(self, stream_id: str, message: mcp_types.JSONRPCMessage | None) -> str:
        """Keep a message, or None for the beginning of a stream; return the event's id."""
        if self._closed:
            return uuid.uuid4().hex
        stream = self._by_key.get(stream_id)
        if stream is None or message is None or stream.answered_s is not None:
            # A request's id is used again, against the rules: what was before has ended.
            stream = self._begin(stream_id)
        if message is None:
            return stream.id()
        if stream.count == 0:
            # Before 2025-11-25 streams begin with their first message, and ids with 1 all the same.
            stream.id()
        id = stream.id()
        self._keep(stream, message)
        return id

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> None:
        """Send what followed an event and what follows yet, until the stream's end."""
        found = self._find(last_event_id)
        if found is None:
            return
        stream, seen = found
        stream.reader = me = object()
        stream.wake()
        # One connection for each stream: who comes back has left the one that there was.
        self._hang_up(stream.key)
        while stream.reader is me and not stream.gone and stream.lost <= seen:
            event = stream.after(seen)
            if event is not None:
                message = mcp_types.jsonrpc_message_adapter.validate_json(event.text, by_name=False)
                id = f"{stream.name}-{event.number}"
                await send_callback(EventMessage(message, id))
                seen = event.number
            elif stream.answered_s is not None:
                return
            else:
                await stream.more.wait()

    def forget(self, stream: _Stream) -> None:
        """Keep nothing of a stream any more."""
        while stream.events:
            self.drop_first(stream)
        self._count(-1, -_OVERHEAD_BYTES)
        del self._by_name[stream.name]
        if self._by_key.get(stream.key) is stream:
            del self._by_key[stream.key]
        del self._shelf.streams[stream]
        stream.gone = True
        stream.wake()

    def _begin(self, key: str) -> _Stream:
        stream = _Stream(self, key)
        before = self._by_key.get(key)
        if before is not None and before.answered_s is None:
            self._end(before)
        self._by_key[key] = self._by_name[stream.name] = stream
        self._shelf.streams[stream] = None
        self._count(1, _OVERHEAD_BYTES)
        self._make_room()
        return stream

    def _keep(self, stream: _Stream, message: mcp_types.JSONRPCMessage) -> None:
        if stream.name not in self._by_name:
            return
        text = message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        notice = isinstance(message, mcp_types.JSONRPCNotification)
        event = _Event(stream.count - 1, text, not notice)
        stream.events.append(event)
        self._count(1, event.size)
        answer = isinstance(message, mcp_types.JSONRPCResponse | mcp_types.JSONRPCError)
        if answer and stream.key != GET_STREAM_KEY:
            self._end(stream)
        stream.wake()
        self._make_room()

    def _end(self, stream: _Stream) -> None:
        stream.answered_s = self._shelf.clock.monotonic()
        self._by_name[stream.name] = self._by_name.pop(stream.name)
        del self._shelf.streams[stream]
        self._shelf.streams[stream] = None
        stream.wake()

    def _find(self, id: str) -> tuple[_Stream, int] | None:
        name, _, digits = id.rpartition("-")
        stream = self._by_name.get(name)
        if stream is None or self._shelf.is_old(stream):
            return None
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_NUMBER_CHARS):
            return None
        number = int(digits)
        return (stream, number) if stream.lost <= number < stream.count else None

    def _make_room(self) -> None:
        limits = self._shelf.limits
        while self._items > limits.session_items or self._bytes > limits.session_bytes:
            _give_up_one(self._by_name.values())
        while self._shelf.bytes > limits.route_bytes:
            _give_up_one(self._shelf.streams)

    def drop_first(self, stream: _Stream) -> None:
        """Keep a stream's oldest event no more."""
        event = stream.events.popleft()
        self._count(-1, -event.size)
        if event.awaited:
            stream.lost = event.number

    def _count(self, items: int, size: int) -> None:
        self._items += items
        self._bytes += size
        self._shelf.bytes += size


def _give_up_one(streams: Iterable[_Stream]) -> None:
    """Drop something: of the stream that was answered first, or else of the oldest open one.

    A stream loses what nobody waits for first, its answer last, and then it is of no use.
    """
    first = next(iter(streams))
    stream = next((each for each in streams if each.answered_s is not None), first)
    answered = stream.answered_s is not None
    if stream.events and not (answered and stream.events[0].awaited):
        stream.owner.drop_first(stream)
    else:
        stream.owner.forget(stream)
