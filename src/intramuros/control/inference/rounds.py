"""One message from several requests to the provider, with tunnelled tool calls between them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from intramuros.control.inference.history import as_mcp_result, as_mcp_use, as_tool_result
from intramuros.control.inference.servers import Offered
from intramuros.control.mcp.base import McpResult
from intramuros.control.model.assemble import Assembler, BadStream
from intramuros.control.model.base import Block, ModelReply
from intramuros.kernel.errors import Unavailable

Json = Mapping[str, Any]
Emit = Callable[[Json], Awaitable[None]]
# Performs calls at once; the results come in their order.
Perform = Callable[[Sequence[tuple[Offered, Block]]], Awaitable[Sequence[McpResult]]]

# After so many the caller is asked to go on (stop reason pause_turn).
MAX_ROUNDS: Final = 10


class Source(Protocol):
    """Where a model's stream comes from."""

    async def run(self, body: Json, emit: Emit) -> None:
        """Send one request and pass on each event of its stream.

        Raises:
            DomainError: refused, failed or broken off.
        """
        ...


class Rounds:
    """Builds one message.

    Args:
        source: the model.
        tools: the tools that are called here, by the model's name for them.
        perform: calls them.
        emit: gets the events of the message as a streaming caller sees them.
    """

    def __init__(
        self, source: Source, tools: Mapping[str, Offered], perform: Perform, emit: Emit
    ) -> None:
        self._source = source
        self._tools = tools
        self._perform = perform
        self._emit = emit
        self._message: dict[str, Any] = {}
        self._content: list[Json] = []
        self._usage: dict[str, Any] = {}

    async def run(self, body: Json) -> dict[str, Any]:
        """Return the whole message.

        Raises:
            DomainError: the provider refused or failed.
        """
        end: dict[str, Any] = {}
        for _ in range(MAX_ROUNDS):
            turn = await self._turn(body)
            end, reply = turn.end, turn.reply
            calls = [(self._tools[str(b["name"])], b) for b in reply.content if self._ours(b)]
            if not calls or reply.stop_reason != "tool_use":
                break
            results = await self._answer(calls)
            if any(b["type"] == "tool_use" and not self._ours(b) for b in reply.content):
                break  # the caller has calls of its own to make before the model can go on
            body = _followed(body, reply.content, results)
        else:
            end = {**end, "stop_reason": "pause_turn"}
        await self._emit({"type": "message_delta", "delta": end, "usage": self._usage})
        await self._emit({"type": "message_stop"})
        return {**self._message, "content": self._content, **end, "usage": self._usage}

    async def _turn(self, body: Json) -> "_Turn":
        turn = _Turn(len(self._content), self._tools, self._emit, first=not self._message)
        try:
            await self._source.run(body, turn.feed)
            content = turn.reply.content
        except BadStream as error:
            raise Unavailable("the model provider's answer broke off") from error
        self._message = self._message or turn.message
        self._usage = _sum(self._usage, turn.usage)
        self._content += [turn.shown(block) for block in content]
        return turn

    async def _answer(self, calls: Sequence[tuple[Offered, Block]]) -> list[dict[str, Any]]:
        told = []
        for (_, block), result in zip(calls, await self._perform(calls), strict=True):
            call_id = str(block["id"])
            shown = as_mcp_result(call_id, result.content, is_error=result.is_error)
            index = len(self._content)
            await self._emit(
                {"type": "content_block_start", "index": index, "content_block": shown}
            )
            await self._emit({"type": "content_block_stop", "index": index})
            self._content.append(shown)
            told.append(as_tool_result(call_id, result.content, is_error=result.is_error))
        return told

    def _ours(self, block: Block) -> bool:
        return block["type"] == "tool_use" and block.get("name") in self._tools


class _Turn:
    """One request's stream: passed on with our indexes and blocks, and put together."""

    def __init__(
        self, offset: int, tools: Mapping[str, Offered], emit: Emit, *, first: bool
    ) -> None:
        self._offset = offset
        self._tools = tools
        self._emit = emit
        self._first = first
        self._assembler = Assembler()
        self.message: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self.end: dict[str, Any] = {}

    @property
    def reply(self) -> ModelReply:
        return self._assembler.reply

    async def feed(self, event: Json) -> None:
        kind = event.get("type")
        if kind == "ping":
            await self._emit(event)
            return
        self._assembler.feed(event)
        if kind == "message_start":
            self.message = dict(event["message"])
            self.usage = dict(self.message.get("usage") or {})
            if self._first:
                await self._emit(event)
        elif kind == "message_delta":
            self.end = {**self.end, **event["delta"]}
            self.usage |= {k: v for k, v in (event.get("usage") or {}).items() if v is not None}
        elif kind != "message_stop":
            await self._emit(self._moved(event))

    def shown(self, block: Json) -> Json:
        target = self._tools.get(str(block.get("name"))) if block["type"] == "tool_use" else None
        return as_mcp_use(block, target.server.name, target.tool) if target else block

    def _moved(self, event: Json) -> Json:
        moved = dict(event)
        if isinstance(event.get("index"), int):
            moved["index"] = event["index"] + self._offset
        if event.get("type") == "content_block_start":
            moved["content_block"] = self.shown(event["content_block"])
        return moved


def _followed(body: Json, said: Sequence[Block], results: Sequence[Json]) -> dict[str, Any]:
    followed = dict(body)
    followed["messages"] = [
        *body["messages"],
        {"role": "assistant", "content": list(said)},
        {"role": "user", "content": list(results)},
    ]
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") in {"any", "tool"}:
        # A call that the caller demanded has been made; demanding it again would never end.
        followed["tool_choice"] = {**choice, "type": "auto"}
        followed["tool_choice"].pop("name", None)
    return followed


def _sum(total: Json, more: Json) -> dict[str, Any]:
    summed = {**total, **more}
    for name, value in total.items():
        other = more.get(name)
        if _is_count(value) and _is_count(other):
            summed[name] = value + other
    return summed


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
