"""The loop without a database, a model or a server: what comes in, and what must go out."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from intramuros.control.mcp.base import McpError, McpFailure, McpResult, McpTool
from intramuros.control.model.base import Failure, ModelError, ModelReply, ModelRequest, Usage
from intramuros.control.session import evaluation, judging, outcome, web_calls
from intramuros.control.session.calls import Call, CallKind
from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.judging import AskJudge
from intramuros.control.session.state import initial
from intramuros.control.session.turn import (
    CallModel,
    Context,
    Effect,
    Limits,
    ListTools,
    MakeCalls,
    Wait,
    plan,
)
from intramuros.control.session.view import Subject, View
from intramuros.control.store.records import Draft
from intramuros.web.base import Answer, Fetch, Search
from tests.fakes.log import MemoryLog

WEB = frozenset({"web_fetch", "web_search"})
ALLOW = {"type": "always_allow"}
ASK = {"type": "always_ask"}
AUTO = {"type": "auto"}
DB = {"type": "url", "name": "db", "url": "https://db.example/mcp"}
QUERY = McpTool("query", "Runs SQL.", {"type": "object"}, read_only=True)
INSERT = McpTool("insert", "Adds a row.", {"type": "object"})


def toolset(policy: Mapping[str, str] = ALLOW, **configs: object) -> dict[str, object]:
    return {
        "type": "agent_toolset_20260401",
        "default_config": {"enabled": True, "permission_policy": dict(policy)},
        "configs": [{"name": name, **config} for name, config in configs.items()],
    }


def mcp_toolset(policy: Mapping[str, str] = ALLOW) -> dict[str, object]:
    return {
        "type": "mcp_toolset",
        "mcp_server_name": "db",
        "default_config": {"enabled": True, "permission_policy": dict(policy)},
        "configs": [],
    }


CUSTOM = {
    "type": "custom",
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {}},
}


def agent(*tools: Mapping[str, object], **more: object) -> dict[str, Any]:
    uses_mcp = any(tool["type"] == "mcp_toolset" for tool in tools)
    return {
        "id": "agent_1",
        "name": "auditor",
        "model": {"id": "some-model"},
        "system": "Be exact.",
        "tools": [dict(tool) for tool in tools],
        "mcp_servers": [DB] if uses_mcp else [],
        **more,
    }


def text(said: str, stop: str = "end_turn") -> ModelReply:
    return ModelReply([{"type": "text", "text": said}], stop, Usage(10, 5))


def use(name: str, model_id: str = "toolu_1", **given: object) -> dict[str, object]:
    return {"type": "tool_use", "id": model_id, "name": name, "input": given}


def uses(*blocks: Mapping[str, object], stop: str = "tool_use") -> ModelReply:
    return ModelReply(blocks, stop, Usage(10, 5))


def away(retryable: bool = True, retry_after_s: float | None = None) -> ModelError:
    return ModelError(Failure.OVERLOADED, "full", retryable=retryable, retry_after_s=retry_after_s)


def verdict(*met: bool, first: int = 1, **more: object) -> ModelReply:
    """What a grader answers: one verdict for each criterion."""
    grades = [
        {"criterion": number, "met": passed, "why": f"reason {number}"}
        for number, passed in enumerate(met, first)
    ]
    return uses(use("grade_criteria", grades=grades, **more))


def opinion(verdict: object, why: str = "So it is.") -> ModelReply:
    """What a judge of calls answers."""
    return uses(use("judge_call", reason=why, verdict=verdict))


def found(text: str, **more: Any) -> Answer:
    """What a page or a search brought."""
    return Answer([{"type": "text", "text": text}], seen={"hosts": ["x.com"]}, **more)


class Loop:
    """A session, driven step by step with scripted answers.

    ``model`` and ``mcp`` are played in order; an exhausted script fails the test. With
    ``patience_us`` web calls are handed to workers, whose answers are waited for so long.
    """

    def __init__(
        self,
        declared: Mapping[str, Any],
        *,
        model: Sequence[ModelReply | ModelError] = (),
        tools: Sequence[McpTool] | McpError = (QUERY, INSERT),
        mcp: Sequence[McpResult | McpError] = (),
        web: Sequence[Answer] = (),
        served: frozenset[str] = frozenset(),
        patience_us: int | None = None,
        self_hosted: bool = True,
        limits: Limits | None = None,
        grader: Sequence[ModelReply | ModelError] = (),
        judge: Sequence[ModelReply | ModelError | None] = (),
    ) -> None:
        self.log = MemoryLog(self_hosted=self_hosted)
        self.subject = Subject("sesn_1", "wrkspc_1", declared, served=served)
        self._view = View.empty(self.subject, initial("sthr_main", self_hosted=self_hosted))
        self.model = deque(model)
        self.mcp = deque(mcp)
        self.web = deque(web)
        self.patience_us = patience_us
        self.browsed: list[Fetch | Search] = []
        self.grader = deque(grader)
        self.judge = deque(judge)
        self.judged: list[ModelRequest] = []
        self.graded: list[ModelRequest] = []
        self.tools = tools
        self.limits = limits or Limits()
        self.epoch = 1
        self.rand = 0.5
        self.requests: list[ModelRequest] = []
        self.listings = 0
        self.performed: list[str] = []

    @property
    def view(self) -> View:
        self._view = self._view.extend(self.log.records[len(self._view.records) :])
        return self._view

    @property
    def context(self) -> Context:
        return Context(self.log.now_us, self.epoch, self.log.new_id, lambda: self.rand, self.limits)

    def next(self) -> Effect:
        """Append what can be appended and return the effect that follows."""
        drafts, effect = plan(self.view, self.context)
        self.log.append(*drafts)
        return effect

    def perform(self, effect: Effect) -> None:
        self.log.append(*self.outcome(effect))

    def outcome(self, effect: Effect) -> list[Draft]:
        match effect:
            case CallModel():
                self.requests.append(effect.request)
                answer = self.model.popleft()
                if isinstance(answer, ModelError):
                    return outcome.model_failed(self.view, effect, answer, self.context)
                return outcome.replied(self.view, effect, answer, [], self.context)
            case AskGrader():
                self.graded.append(effect.request)
                verdict = self.grader.popleft()
                if isinstance(verdict, ModelError):
                    return outcome.ungraded(self.view, effect.aim, verdict, self.context)
                return evaluation.answered(self.view, effect.aim, verdict)
            case AskJudge():
                return self.opinions(effect)
            case ListTools():
                self.listings += 1
                found = {server.name: self.tools for server in effect.servers}
                return outcome.listed(self.view, found)
            case MakeCalls():
                return [self.answered(call) for call in effect.calls]
            case Wait():
                raise AssertionError("waiting is not performed")

    def opinions(self, effect: AskJudge) -> list[Draft]:
        drafts: list[Draft] = []
        for asked in effect.asked:
            self.judged.append(asked.request)
            drafts += judging.answered(self.view, asked, self.judge.popleft())
        return drafts

    def answered(self, call: Call) -> Draft:
        self.performed.append(call.id)
        if call.kind is CallKind.WEB:
            return self.browsed_or_handed(call)
        return outcome.mcp_answered(self.view, call, self.mcp.popleft(), 100_000)

    def browsed_or_handed(self, call: Call) -> Draft:
        wanted = web_calls.ask(self.view, call)
        if self.patience_us is None or isinstance(wanted, Answer):
            return outcome.web_answered(call, self.browse(call))
        self.browsed.append(wanted)
        handed = outcome.Handed({"name": "web"}, self.patience_us)
        return outcome.web_handed(call, handed, self.context)

    def browse(self, call: Call) -> Answer:
        """Answer a web call: what may not be asked is refused, the rest is scripted."""
        wanted = web_calls.ask(self.view, call)
        if isinstance(wanted, Answer):
            return wanted
        self.browsed.append(wanted)
        return self.web.popleft()

    def run(self) -> Wait:
        """Go on until the session waits."""
        while not isinstance(effect := self.next(), Wait):
            self.perform(effect)
        return effect

    def crash(self) -> None:
        """Whoever held the session is dead; the next holder has a newer epoch."""
        self.epoch += 1

    def since(self, seq: int) -> list[str]:
        """The public types behind a log position."""
        return [r.type for r in self.log.shown if r.seq > seq]

    @property
    def mark(self) -> int:
        return self.log.state.last_seq


def unreachable() -> McpError:
    return McpError("db", McpFailure.CONNECTION, "no route")


OPEN = ["session.status_running", "session.thread_status_running"]
REST = ["session.thread_status_idle", "session.usage", "session.status_idle"]
START, END = "span.model_request_start", "span.model_request_end"
ROWS = McpResult([{"type": "text", "text": "3 rows"}])


def stop_reason(loop: Loop) -> dict[str, Any]:
    idles = [r for r in loop.log.shown if r.type == "session.status_idle"]
    return idles[-1].body["stop_reason"]


def last(loop: Loop, type: str) -> dict[str, Any]:
    return dict(next(r for r in reversed(loop.log.shown) if r.type == type).body)


def open_ids(loop: Loop) -> list[str]:
    return [call.id for call in loop.log.state.calls]
