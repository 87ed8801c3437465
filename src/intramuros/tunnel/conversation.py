"""One conversation with a program: messages pass both ways, and every call is answered once.

Over HTTP an answer belongs to the request that asked, and so does what a server says on the way to
it; over pipes there is one stream for all. Which call a message is about is read from the messages.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

import anyio
import mcp_types
from mcp.shared.message import ServerMessageMetadata, SessionMessage

from intramuros.kernel.programs import GONE, Lines, Pipes, TooLong
from intramuros.kernel.redact import Redactor

# A caller that reads slowly makes the gateway hold a message several times over.
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
TAIL_BYTES: Final = 2000


class Coming(Protocol):
    """The caller's messages."""

    def __aiter__(self) -> AsyncIterator[SessionMessage | Exception]:
        """Give each message, or why one is none."""
        ...


class Going(Protocol):
    """Takes what the caller shall hear."""

    async def send(self, item: SessionMessage, /) -> None:
        """Pass a message on once there is room for it."""
        ...


class Conversation:
    """What a caller and a program say to each other.

    Args:
        coming: from the caller.
        going: to the caller.
    """

    def __init__(self, coming: Coming, going: Going) -> None:
        self._coming = coming
        self._going = going
        self._first: SessionMessage | None = None
        self._asked: dict[str | int, str | int | None] = {}
        self._tail = b""
        self.answered = False
        """Whether the program ever answered."""
        self.fault = ""
        """What the program did that it may not do."""

    async def begin(self) -> bool:
        """Wait for the caller's first message; return whether there ever was one."""
        async for item in self._coming:
            if isinstance(item, SessionMessage):
                self._first = item
                self.asked(item.message)
                return True
        return False

    async def hold(self, pipes: Pipes) -> None:
        """Pass messages until one side is done."""
        async with anyio.create_task_group() as group:

            async def until_done(part: Callable[[Pipes], Awaitable[None]]) -> None:
                with suppress(*GONE):
                    await part(pipes)
                group.cancel_scope.cancel()

            group.start_soon(self._listen, pipes)
            group.start_soon(until_done, self._inward)
            group.start_soon(until_done, self._outward)

    async def settle(self, why: str) -> None:
        """Answer every open call with an error."""
        while self._asked:
            id, _ = self._asked.popitem()
            failed = mcp_types.JSONRPCError(
                jsonrpc="2.0",
                id=id,
                error=mcp_types.ErrorData(code=mcp_types.CONNECTION_CLOSED, message=why),
            )
            with suppress(*GONE):
                await self._going.send(SessionMessage(failed))

    def asked(self, message: object) -> None:
        """Remember what the caller asked."""
        if isinstance(message, mcp_types.JSONRPCRequest):
            meta = (message.params or {}).get("_meta")
            token = meta.get("progressToken") if isinstance(meta, dict) else None
            self._asked[message.id] = token if isinstance(token, (str, int)) else None

    def about(self, message: object) -> ServerMessageMetadata | None:
        """Return to which open call a message of the program's belongs, if to any."""
        if isinstance(message, (mcp_types.JSONRPCResponse, mcp_types.JSONRPCError)):
            self.answered = True
            if message.id is not None:
                self._asked.pop(message.id, None)
            return None
        call = next(reversed(self._asked), None)
        if isinstance(message, mcp_types.JSONRPCNotification):
            token = (message.params or {}).get("progressToken")
            if token is not None:
                call = next((id for id, known in self._asked.items() if known == token), call)
        # Pipes do not say it of other messages; the last call is the likeliest.
        return None if call is None else ServerMessageMetadata(related_request_id=call)

    def last_words(self, secrets: Iterable[str]) -> str:
        """Return the end of the program's error output, without what it was told in confidence."""
        tail = self._tail
        if len(tail) == TAIL_BYTES:
            # The first line may begin in the middle of a secret.
            tail = tail.partition(b"\n")[2]
        said, _ = Redactor().text(tail.decode("utf-8", "replace"))
        for secret in filter(None, secrets):
            said = said.replace(secret, "[masked secret]")
        return said

    async def _inward(self, pipes: Pipes) -> None:
        if self._first is not None:
            await pipes.send(_line(self._first))
        async for item in self._coming:
            if isinstance(item, SessionMessage):
                self.asked(item.message)
                await pipes.send(_line(item))

    async def _outward(self, pipes: Pipes) -> None:
        lines = Lines(MAX_MESSAGE_BYTES)
        while (data := await pipes.receive()) is not None:
            try:
                whole = deque(lines.feed(data))
            except TooLong as error:
                self.fault = f"a message is too long: {error}"
                return
            while whole:
                if (message := _message(whole.popleft())) is not None:
                    await self._going.send(SessionMessage(message, metadata=self.about(message)))

    async def _listen(self, pipes: Pipes) -> None:
        while (data := await pipes.complaints()) is not None:
            self._tail = (self._tail + data)[-TAIL_BYTES:]


def _line(item: SessionMessage) -> bytes:
    return item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"


def _message(line: bytes) -> mcp_types.JSONRPCMessage | None:
    try:
        return mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        # Programs print things that are no messages, against the rules.
        return None
