"""A model and an MCP connector that play what a test tells them to."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from intramuros.control.mcp.base import Caller, McpError, McpResult, McpServer, McpTool
from intramuros.control.model.base import (
    Delta,
    ModelError,
    ModelReply,
    ModelRequest,
    TextDelta,
    ThinkingStarted,
)
from intramuros.control.session.conversation import files_of
from intramuros.web import base as web
from tests.fakes.loop import INSERT, QUERY, found

Answer = ModelReply | ModelError | Callable[[ModelRequest], Awaitable[ModelReply]]


@dataclass
class ScriptedModel:
    """Plays answers in order; a callable one may wait as long as it likes."""

    answers: deque[Answer] = field(default_factory=deque)
    requests: list[ModelRequest] = field(default_factory=list)

    async def run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        self.requests.append(request)
        assert request.files is None or set(files_of(request.messages)) <= set(request.files)
        answer = self.answers.popleft()
        if isinstance(answer, ModelError):
            raise answer
        reply = answer if isinstance(answer, ModelReply) else await answer(request)
        for index, block in enumerate(reply.content):
            if block["type"] == "thinking":
                on_delta(ThinkingStarted(index))
            elif block["type"] == "text":
                for letter in str(block["text"]):
                    on_delta(TextDelta(index, letter))
        return reply


@dataclass
class ScriptedWeb:
    """Finds what a handler says, or nothing worth mentioning."""

    handler: Callable[[web.Fetch | web.Search], Awaitable[web.Answer]] | None = None
    asked: list[web.Fetch | web.Search] = field(default_factory=list)

    async def fetch(self, wanted: web.Fetch) -> web.Answer:
        return await self.search(wanted)

    async def search(self, wanted: web.Fetch | web.Search) -> web.Answer:
        self.asked.append(wanted)
        return found("done") if self.handler is None else await self.handler(wanted)


@dataclass
class ScriptedConnector:
    """One MCP server's worth of tools, and a handler for calls."""

    found: Sequence[McpTool] | McpError = (QUERY, INSERT)
    handler: Callable[[str], Awaitable[McpResult]] | None = None
    calls: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    async def tools(self, caller: Caller, server: McpServer) -> Sequence[McpTool]:
        if isinstance(self.found, McpError):
            raise self.found
        return self.found

    async def call(
        self, caller: Caller, server: McpServer, tool: str, arguments: Mapping[str, object]
    ) -> McpResult:
        self.calls.append((tool, arguments))
        self.callers.append(caller)
        if self.handler is None:
            return McpResult([{"type": "text", "text": f"{tool} done"}])
        return await self.handler(tool)
