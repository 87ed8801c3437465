"""Performs one effect of a held session: model calls, MCP listings, calls outside.

An effect never writes. It brings back an :data:`Outcome`: a function from the view, as it is when
the outcome is recorded, to the rows that record it, so that inputs which arrived meanwhile are
taken into account.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import anyio

from intramuros.control.mcp.base import Connector, McpError, McpResult, McpServer, McpTool
from intramuros.control.model.allowed import AllowList
from intramuros.control.model.base import (
    Delta,
    Failure,
    Model,
    ModelError,
    ModelReply,
    ModelRequest,
    Usage,
)
from intramuros.control.session import evaluation, judging, outcome, web_calls
from intramuros.control.session.calls import Call, CallKind
from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.judging import Asked, AskJudge
from intramuros.control.session.preview import Preview
from intramuros.control.session.turn import CallModel, Context, ListTools, MakeCalls
from intramuros.control.session.view import View
from intramuros.control.store.notify import Hub
from intramuros.control.store.records import Draft
from intramuros.kernel.errors import Unavailable
from intramuros.web.base import Answer, Code, Fetch, Search, Web, refusal

# Calls of one reply that are judged at the same time.
JUDGES: Final = 8
# How often a judge is asked before a client is; the agent waits, and so do workers behind it.
JUDGE_TRIES: Final = 3
JUDGE_PAUSE_S: Final = 0.5

# A reply that is not whole by then never will be: silence is the adapters' business, but a provider
# may send signs of life for ever. A small model on a slow machine takes half of this.
REPLY_S: Final = 3600.0

Outcome = Callable[[View, Context], list[Draft]]
# Records an outcome that must not wait for the rest of its effect.
Early = Callable[[Outcome], Awaitable[None]]


class Admission(Protocol):
    """A model request that was let through."""

    @property
    def allowed(self) -> AllowList | None:
        """The models that may answer in the place of the one that is asked; None for any."""
        ...

    def settle(self, usage: Usage | None) -> None:
        """Say what it used; None if it got no reply."""
        ...


class Gate(Protocol):
    """Stands before every model request."""

    async def admit(self, workspace_id: str, session_id: str, request: ModelRequest) -> Admission:
        """Let a request through.

        Raises:
            ModelError: a limit of the organization's own is used up.
        """
        ...


class Files(Protocol):
    """Uploaded files, as models read them."""

    async def fill(self, workspace_id: str, request: ModelRequest) -> ModelRequest:
        """Return the request with the content of the files that it names.

        Raises:
            Unavailable: not now.
        """
        ...


class Inside(Protocol):
    """Has web calls made by workers."""

    async def hand(self, wanted: Fetch | Search) -> Answer | outcome.Handed:
        """Return what is handed over, or the answer where nobody would take it."""
        ...


class Keeper(Protocol):
    """Keeps long results for the sandbox."""

    async def keep(self, view: View, use_id: str, answer: McpResult) -> outcome.Spilled | None:
        """Keep a result's text if it is too long for the model; None leaves it to be cut."""
        ...


@dataclass(frozen=True)
class Performer:
    """Reaches models and MCP servers.

    Args:
        gate: says which model requests may go out.
        files: gives requests the content of uploaded files.
        spills: keeps results that are too long for the model; without it they are cut.
        web: makes the calls of web tools.
        inside: has workers make them instead.
        reply_s: seconds in which a model's reply must be whole.
    """

    model: Model
    connector: Connector
    hub: Hub
    gate: Gate | None = None
    files: Files | None = None
    spills: Keeper | None = None
    web: Web | None = None
    inside: Inside | None = None
    reply_s: float = REPLY_S

    async def call_model(self, view: View, command: CallModel, context: Context) -> Outcome:
        """Send the request, whispering its deltas."""
        preview = Preview(command.opened.seq, command.message_id, context.new_id)
        session_id = view.subject.session_id

        def on_delta(delta: Delta) -> None:
            if command.compacts:
                return  # a summary is no message to anybody
            for whisper in preview.feed(delta):
                self.hub.whisper(session_id, whisper)

        # The loop gives the turn up if this request fails too (outcome.model_failed).
        failures = view.state.failures
        last = failures >= context.limits.failures
        asked = replace(command.request, failures=failures, last_try=last)
        try:
            reply = await self._ask(view, asked, on_delta)
        except ModelError as error:
            failed = error  # the name of an except clause ends with it
            return lambda view, context: outcome.model_failed(view, command, failed, context)
        ids = preview.thinking_ids
        return lambda view, context: outcome.replied(view, command, reply, ids, context)

    async def _ask(
        self, view: View, request: ModelRequest, on_delta: Callable[[Delta], None]
    ) -> ModelReply:
        subject = view.subject
        # Whoever asks, and for whatever purpose: the agent's pin holds (contract 5.28).
        geo = subject.agent["model"].get("inference_geo")
        request = replace(request, inference_geo=geo)
        request = await self._filled(subject.workspace_id, request)
        if self.gate is None:
            return await self._run(request, on_delta)
        admitted = await self.gate.admit(subject.workspace_id, subject.session_id, request)
        try:
            may = replace(request, allowed=admitted.allowed)
            reply = await self._run(may, on_delta)
        except ModelError:
            admitted.settle(None)
            raise
        admitted.settle(reply.usage)
        return reply

    async def _run(self, request: ModelRequest, on_delta: Callable[[Delta], None]) -> ModelReply:
        with anyio.move_on_after(self.reply_s):
            return await self.model.run(request, on_delta)
        message = f"the model's reply was not whole within {self.reply_s:g} s"
        raise ModelError(Failure.REQUEST_FAILED, message, retryable=True)

    async def _filled(self, workspace_id: str, request: ModelRequest) -> ModelRequest:
        if self.files is None:
            return request
        try:
            return await self.files.fill(workspace_id, request)
        except Unavailable as error:
            raise ModelError(Failure.REQUEST_FAILED, str(error), retryable=True) from error

    async def ask_grader(
        self, view: View, command: AskGrader, early: Early, pulse_s: float
    ) -> Outcome:
        """Send the request to the grader; say now and then that it still works.

        Args:
            pulse_s: seconds between two signs of life (contract 15.27).
        """
        brought: list[Outcome] = []

        async def pulse() -> None:
            while True:
                await anyio.sleep(pulse_s)
                await early(lambda view, _: evaluation.ongoing(command.aim))

        async with anyio.create_task_group() as group:
            group.start_soon(pulse)
            brought.append(await self._grade(view, command))
            group.cancel_scope.cancel()
        return brought[0]

    async def _grade(self, view: View, command: AskGrader) -> Outcome:
        try:
            asked = replace(command.request, failures=view.state.failures)
            reply = await self._ask(view, asked, lambda _: None)
        except ModelError as error:
            failed = error  # the name of an except clause ends with it
            return lambda view, context: outcome.ungraded(view, command.aim, failed, context)
        return lambda view, _: evaluation.answered(view, command.aim, reply)

    async def ask_judge(
        self, view: View, command: AskJudge, early: Early, timeout_s: float
    ) -> Outcome:
        """Ask about each call, some at once; hand each answer to ``early`` when it comes.

        Args:
            timeout_s: seconds that there are for a call's judgement, tries and all.
        """
        seats = anyio.CapacityLimiter(JUDGES)

        async def ask(asked: Asked) -> None:
            answer: ModelReply | ModelError | None = None
            async with seats:
                with anyio.move_on_after(timeout_s):
                    answer = await self._opinion(view, asked.request)
            await early(lambda view, _: judging.answered(view, asked, answer))

        async with anyio.create_task_group() as group:
            for asked in command.asked:
                group.start_soon(ask, asked)
        return lambda view, _: []

    async def _opinion(self, view: View, request: ModelRequest) -> ModelReply | ModelError:
        """Ask until there is an answer, or a failure that asking again does not cure."""
        for attempt in range(JUDGE_TRIES):
            last = attempt + 1 == JUDGE_TRIES
            try:
                asked = replace(request, failures=attempt, last_try=last)
                return await self._ask(view, asked, lambda _: None)
            except ModelError as error:
                failed = error  # the name of an except clause ends with it
            if last or not failed.retryable:
                return failed
            await anyio.sleep(max(JUDGE_PAUSE_S * 2**attempt, failed.retry_after_s or 0.0))
        raise AssertionError("the last try returns")

    async def list_tools(self, view: View, command: ListTools) -> Outcome:
        """Ask every server at once."""
        found: dict[str, Sequence[McpTool] | McpError] = {}

        async def ask(server: McpServer) -> None:
            try:
                found[server.name] = await self.connector.tools(view.subject.caller, server)
            except McpError as error:
                found[server.name] = error

        async with anyio.create_task_group() as group:
            for server in command.servers:
                group.start_soon(ask, server)
        answers: Mapping[str, Sequence[McpTool] | McpError] = {
            server.name: found[server.name] for server in command.servers
        }
        return lambda view, _: outcome.listed(view, answers)

    async def make_calls(self, view: View, command: MakeCalls, early: Early) -> Outcome:
        """Make the calls at once; hand each answer to ``early`` but the last, which is returned."""
        servers = {server.name: server for server in view.subject.servers}
        left = len(command.calls)
        last: list[Outcome] = []

        async def make(call: Call) -> None:
            nonlocal left
            web = call.kind is CallKind.WEB
            record = await (self._browse(view, call) if web else self._ask_mcp(view, call, servers))
            left -= 1
            if left:
                await early(record)
            else:
                last.append(record)

        async with anyio.create_task_group() as group:
            for call in command.calls:
                group.start_soon(make, call)
        return last[0]

    async def _browse(self, view: View, call: Call) -> Outcome:
        wanted = web_calls.ask(view, call)
        if self.inside is not None and not isinstance(wanted, Answer):
            handed = await self.inside.hand(wanted)
            if isinstance(handed, outcome.Handed):
                return lambda view, context: [outcome.web_handed(call, handed, context)]
            wanted = handed
        if isinstance(wanted, Answer):
            answer = wanted
        elif self.web is None:
            answer = refusal(Code.UNAVAILABLE, "this server has no way to the web")
        elif isinstance(wanted, Fetch):
            answer = await self.web.fetch(wanted)
        else:
            answer = await self.web.search(wanted)
        return lambda view, _: [outcome.web_answered(call, answer)]

    async def _ask_mcp(self, view: View, call: Call, servers: Mapping[str, McpServer]) -> Outcome:
        answer = await self._call(view, call, servers)
        spilled = None
        if self.spills is not None and isinstance(answer, McpResult):
            spilled = await self.spills.keep(view, call.id, answer)

        def record(view: View, context: Context) -> list[Draft]:
            chars = context.limits.mcp_result_chars
            answered = outcome.mcp_answered(view, call, answer, chars, spilled)
            return [*outcome.mcp_refused(answer), answered]

        return record

    async def _call(
        self, view: View, call: Call, servers: Mapping[str, McpServer]
    ) -> McpResult | McpError:
        use = view.find([call.id])[0]
        name = str(use.body["mcp_server_name"])
        arguments = use.body["input"]
        try:
            return await self.connector.call(
                view.subject.caller,
                servers[name],
                str(use.body["name"]),
                arguments if isinstance(arguments, Mapping) else {},
            )
        except McpError as error:
            return error
