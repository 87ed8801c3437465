"""The loop of a session with several threads, without a database, a model or a server."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from intramuros.control.model.base import ModelError, ModelReply, ModelRequest
from intramuros.control.session import ensemble, evaluation, judging, outcome, web_calls
from intramuros.control.session.calls import Call, CallKind
from intramuros.control.session.evaluation import AskGrader
from intramuros.control.session.judging import AskJudge
from intramuros.control.session.state import Member, State, initial
from intramuros.control.session.turn import (
    CallModel,
    Context,
    Effect,
    Limits,
    ListTools,
    MakeCalls,
    Wait,
)
from intramuros.control.session.view import Subject, View
from intramuros.control.store.records import Draft, Record
from intramuros.web.base import Answer, Fetch, Search
from tests.fakes.log import MemoryLog
from tests.fakes.loop import INSERT, QUERY, agent, found, use, uses

if TYPE_CHECKING:
    from intramuros.control.mcp.base import McpError, McpResult

WISE = "wise-model"


def definition(name: str, *tools: Mapping[str, object], **more: object) -> dict[str, Any]:
    """An agent as a session's roster holds it."""
    return {
        **agent(*tools, **more),
        "id": f"agent_{name}",
        "type": "agent",
        "version": 1,
        "name": name,
        "description": f"Does {name}.",
        "skills": [],
        "execution_identity": {"type": "service_account"},
    }


def lead(
    *roster: Mapping[str, Any], advisor: bool = False, tools: Sequence[Mapping[str, object]] = ()
) -> dict[str, Any]:
    """A coordinator with these agents."""
    entries = [*roster, *([{"type": "advisor", "model": WISE}] if advisor else [])]
    return {
        **definition("lead", *tools),
        "multiagent": {"type": "coordinator", "agents": entries},
    }


def send(agent_name: str, message: str = "work", model_id: str = "toolu_s") -> dict[str, object]:
    return use("send_to_agent", model_id, agent=agent_name, message=message)


def delegate(*names: str) -> ModelReply:
    """A reply that starts a thread with each agent."""
    return uses(*(send(name, f"do {name}", f"toolu_{n}") for n, name in enumerate(names)))


class Band:
    """A session with several threads; effects begin, and land when a test says so.

    ``scripts`` are answers by agent name, played in order.
    """

    def __init__(
        self,
        declared: Mapping[str, Any],
        *,
        self_hosted: bool = True,
        limits: Limits | None = None,
        served: frozenset[str] = frozenset(),
        **scripts: Sequence[ModelReply | ModelError],
    ) -> None:
        self.log = MemoryLog(self_hosted=self_hosted, crewed=True)
        self.subject = Subject("sesn_1", "wrkspc_1", declared, served=served)
        self.browsed: list[Fetch | Search] = []
        empty = initial("sthr_main", self_hosted=self_hosted, crewed=True)
        self._view = View.empty(self.subject, empty)
        self.scripts: dict[str, deque[ModelReply | ModelError]] = defaultdict(deque)
        for name, answers in scripts.items():
            self.scripts[name.replace("__", ".")].extend(answers)
        self.limits = limits or Limits()
        self.epoch = 1
        self.flights: dict[str, Effect] = {}
        self.requests: list[tuple[str, ModelRequest]] = []
        self.mcp: deque[McpResult | McpError] = deque()

    @property
    def view(self) -> View:
        self._view = self._view.extend(self.log.records[len(self._view.records) :])
        return self._view

    @property
    def context(self) -> Context:
        return Context(self.log.now_us, self.epoch, self.log.new_id, lambda: 0.5, self.limits)

    def seen(self, thread_id: str) -> View:
        view = self.view
        return view if thread_id == view.state.thread_id else view.of(thread_id)

    def next(self) -> Mapping[str, Effect]:
        """Append what can be appended; begin what follows and drop what was interrupted."""
        drafts, effects = ensemble.plan(self.view, self.context, self.flights)
        self.log.append(*drafts)
        alive = {thread.thread_id for thread in self.log.state.threads}
        for thread_id in list(self.flights):
            if thread_id in effects or thread_id not in alive:
                del self.flights[thread_id]
        for thread_id, effect in effects.items():
            if not isinstance(effect, Wait):
                self.flights[thread_id] = effect
        return effects

    def land(self, thread_id: str) -> None:
        """End an effect and record what it brought."""
        effect = self.flights.pop(thread_id)
        view = self.seen(thread_id)
        drafts = self.outcome(view, effect)
        self.log.append(*ensemble.dress(self.view, thread_id, drafts))

    def outcome(self, view: View, effect: Effect) -> list[Draft]:
        match effect:
            case CallModel():
                name = str(view.subject.agent["name"])
                self.requests.append((name, effect.request))
                answer = self.scripts[name].popleft()
                if isinstance(answer, ModelError):
                    return outcome.model_failed(view, effect, answer, self.context)
                return outcome.replied(view, effect, answer, [], self.context)
            case AskGrader():
                self.requests.append(("grader", effect.request))
                verdict = self.scripts["grader"].popleft()
                if isinstance(verdict, ModelError):
                    return outcome.ungraded(view, effect.aim, verdict, self.context)
                return evaluation.answered(view, effect.aim, verdict)
            case AskJudge():
                drafts: list[Draft] = []
                for asked in effect.asked:
                    self.requests.append(("judge", asked.request))
                    drafts += judging.answered(view, asked, self.scripts["judge"].popleft())
                return drafts
            case ListTools():
                found = {server.name: (QUERY, INSERT) for server in effect.servers}
                return outcome.listed(view, found)
            case MakeCalls():
                return [self.answered(view, call) for call in effect.calls]
            case Wait():
                raise AssertionError("waiting is not performed")

    def answered(self, view: View, call: Call) -> Draft:
        if call.kind is not CallKind.WEB:
            return outcome.mcp_answered(view, call, self.mcp.popleft(), 1000)
        wanted = web_calls.ask(view, call)
        if isinstance(wanted, Answer):
            return outcome.web_answered(call, wanted)
        self.browsed.append(wanted)
        return outcome.web_answered(call, found("a page"))

    def run(self) -> None:
        """Go on until every thread waits; the oldest effect lands first."""
        self.next()
        while self.flights:
            self.land(next(iter(self.flights)))
            self.next()

    def crash(self) -> None:
        """Whoever held the session is dead; the next holder has a newer epoch."""
        self.flights.clear()
        self.epoch += 1

    def child(self, name: str) -> Member:
        """The newest open child of that agent."""
        crew = self.log.state.crew
        assert crew is not None
        return next(member for member in reversed(crew.members) if member.name == name)

    def id_of(self, name: str) -> str:
        return self.child(name).state.thread_id

    def call(self, thread: State) -> Call:
        (found,) = thread.calls
        return found

    def shown(self, thread_id: str | None = None) -> list[Record]:
        """What a thread's stream shows; the session's when None."""
        return [r for r in self.log.shown if r.seen_from(thread_id)]

    def types(self, thread_id: str | None = None, since: int = 0) -> list[str]:
        return [r.type for r in self.shown(thread_id) if r.seq > since]

    def answer(self, type: str, thread: State, **body: object) -> None:
        """Take an answer as the journal routes it."""
        main = thread.thread_id == "sthr_main"
        routed = {} if main else {"session_thread_id": thread.thread_id}
        self.log.append(
            Draft(
                type,
                {**body, **routed},
                thread_id=None if main else thread.thread_id,
                queued=type == "user.tool_confirmation",
                shared=not main,
            )
        )

    def interrupt(self, thread_id: str | None = None) -> None:
        if thread_id is None:
            self.log.send("user.interrupt")
            return
        body = {"session_thread_id": thread_id}
        self.log.append(
            Draft("user.interrupt", body, thread_id=thread_id, queued=True, shared=True)
        )

    @property
    def mark(self) -> int:
        return self.log.state.last_seq
