"""Which input is legal when. Pure: no clock, no waiting, no store.

A request is taken whole or not at all. Each of its events becomes either a new row or, when it
repeats an answer that the log already holds, the stored event itself (contract AMB 21), so that a
client that lost our reply may simply send again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, assert_never

from intramuros.control.session.budget import refuse_work
from intramuros.control.session.calls import Call, CallKind, Permission
from intramuros.control.session.outcomes import DEFAULT_ITERATIONS
from intramuros.control.session.phase import Phase, Status
from intramuros.control.session.state import State
from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import InvalidRequest, NotFound, RateLimited
from intramuros.protocol.events import (
    PROCESSED_ON_RECEIPT,
    Inbound,
    SystemMessage,
    TextRubric,
    UserCustomToolResult,
    UserDefineOutcome,
    UserInterrupt,
    UserMessage,
    UserToolConfirmation,
    UserToolResult,
)

# Inputs that may wait for the loop; beyond it a client is not listening.
MAX_WAITING: Final = 1000

Verdict = Literal["allow", "deny"]


@dataclass(frozen=True)
class Past:
    """What the log holds about a tool call that is not open, or is already confirmed.

    ``use`` is the tool-use event; ``answers`` are its confirmations and results in log order.
    """

    use: Record | None = None
    answers: Sequence[Record] = ()

    def find(self, type: str) -> Record | None:
        """Return the newest answer of that type."""
        return next((record for record in reversed(self.answers) if record.type == type), None)


@dataclass
class _Request:
    """Where the events of one request meet the session, and what they have answered so far."""

    state: State
    past: Mapping[str, Past]
    hosted: bool = False
    results: dict[str, int] = field(default_factory=dict)  # call id → index of its result
    verdicts: dict[str, tuple[Verdict, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ignored:
    """An event that is taken, echoed and forgotten (contract 12.9)."""

    draft: Draft


# A new row, nothing, the stored event that this one repeats, or the place in this request it
# repeats.
Outcome = Draft | Ignored | Record | int


def wanted_past(state: State, inbound: Sequence[Inbound]) -> list[str]:
    """Return the call ids whose past :func:`check` needs, because the state does not tell."""
    named = {use_id for event in inbound if (use_id := _call_id(event)) is not None}
    return sorted(
        use_id
        for use_id in named
        if (found := state.locate(use_id)) is None or found[1].confirmation_id is not None
    )


def check(
    state: State,
    past: Mapping[str, Past],
    inbound: Sequence[Inbound],
    now_us: int,
    *,
    hosted: bool = False,
) -> list[Outcome]:
    """Return what each event of a request becomes.

    Args:
        past: an entry for each id of :func:`wanted_past`.
        now_us: the time, on which the costs of running depend.
        hosted: whether the sender performs the sandbox calls of a cloud environment.

    Raises:
        InvalidRequest: an event is not legal now; the message says which and why.
        NotFound: an interrupt names a thread that the session has not.
        RateLimited: too many inputs wait.
    """
    if state.status is Status.TERMINATED:
        raise InvalidRequest("the session is terminated and takes no further input")
    if capped := state.capped(now_us):
        refuse_work(inbound)
    _check_system_message(state, inbound)
    request = _Request(state, past, hosted)
    outcomes = [_one(request, index, event) for index, event in enumerate(inbound)]
    if capped and all(thread.phase in (Phase.IDLE, Phase.PAUSED) for thread in state.threads):
        outcomes = [_deaf(outcome) for outcome in outcomes]
    new = sum(isinstance(outcome, Draft) and outcome.queued for outcome in outcomes)
    waiting = sum(len(thread.queued) for thread in state.threads)
    if new and waiting + new > MAX_WAITING:
        raise RateLimited(f"{MAX_WAITING} inputs are waiting already", retry_after_s=5)
    return outcomes


def _deaf(outcome: Outcome) -> Outcome:
    """Nothing runs and nothing may: an interrupt changes nothing (contract 12.9)."""
    if isinstance(outcome, Draft) and outcome.type == "user.interrupt":
        return Ignored(outcome)
    return outcome


def _one(request: _Request, index: int, event: Inbound) -> Outcome:
    match event:
        case UserMessage():
            return _draft(event)
        case SystemMessage():
            return _draft(event)
        case UserDefineOutcome():
            return _definition(index, event)
        case UserInterrupt():
            return _interrupt(request, event)
        case UserToolConfirmation():
            return _confirmation(request, index, event)
        case UserToolResult():
            if not (request.state.self_hosted or request.hosted):
                raise _illegal(index, "user.tool_result needs a self_hosted environment")
            return _result(request, index, event)
        case UserCustomToolResult():
            return _result(request, index, event)
        case _:
            assert_never(event)


def _interrupt(request: _Request, event: UserInterrupt) -> Outcome:
    named = event.session_thread_id
    if named in (None, request.state.thread_id):
        return _draft(event)
    if request.state.member(named) is None:
        raise NotFound(f"no thread {named!r} that runs in this session")
    return replace(_draft(event), thread_id=named, shared=True)


def _routed(request: _Request, draft: Draft, thread: State) -> Draft:
    """Give an answer to the thread that waits for it, which the event then names (13.10)."""
    if thread.thread_id == request.state.thread_id:
        return draft
    named = {"session_thread_id": thread.thread_id} if draft.type.startswith("user.") else {}
    body = {**draft.body, **named}
    return replace(draft, body=body, thread_id=thread.thread_id, shared=True)


def _definition(index: int, event: UserDefineOutcome) -> Outcome:
    if not isinstance(event.rubric, TextRubric):
        raise _illegal(index, "a rubric's file must have been read before")
    draft = _draft(event)
    limit = event.max_iterations or DEFAULT_ITERATIONS
    return replace(draft, body={**draft.body, "max_iterations": limit})


def _confirmation(request: _Request, index: int, event: UserToolConfirmation) -> Outcome:
    use_id, verdict = event.tool_use_id, event.result
    if event.deny_message is not None and verdict != "deny":
        raise _illegal(index, "deny_message goes with result deny only")
    if use_id in request.verdicts:
        earlier, place = request.verdicts[use_id]
        if earlier != verdict:
            raise _illegal(index, f"{use_id} is answered {earlier} in this request already")
        return place
    found, past = request.state.locate(use_id), request.past.get(use_id, Past())
    if found is None or found[1].confirmation_id is not None:
        stored = past.find("user.tool_confirmation")
        if stored is not None and stored.body["result"] == verdict:
            return stored
        raise _illegal(index, _why_closed(use_id, past, stored))
    thread, call = found
    if not call.held:
        raise _illegal(index, f"{use_id} does not wait for a confirmation")
    request.verdicts[use_id] = (verdict, index)
    return _routed(request, _draft(event), thread)


def _why_closed(use_id: str, past: Past, stored: Record | None) -> str:
    if stored is not None:
        return f"{use_id} was answered {stored.body['result']} already"
    if past.use is None:
        return f"no tool use {use_id!r} in this session"
    return f"{use_id} does not wait for a confirmation"


def _result(
    request: _Request,
    index: int,
    event: UserToolResult | UserCustomToolResult,
) -> Outcome:
    use_id = _call_id(event) or ""
    draft = _answer(event, hosted=request.hosted)
    if use_id in request.results:
        return request.results[use_id]
    found, past = request.state.locate(use_id), request.past.get(use_id, Past())
    if found is None:
        stored = past.find(draft.type)
        if stored is not None:
            return stored
        known = "takes no such result" if past.use else "is no tool use of this session"
        raise _illegal(index, f"{use_id!r} {known}")
    thread, call = found
    wanted = CallKind.SANDBOX if isinstance(event, UserToolResult) else CallKind.CUSTOM
    if call.kind is not wanted:
        raise _illegal(index, f"{use_id} is a {call.kind} call, which takes no {event.type}")
    if not _allowed(request, call):
        raise _illegal(index, f"{use_id} has not been allowed, so it cannot have a result")
    request.results[use_id] = index
    return _routed(request, draft, thread)


def _answer(event: UserToolResult | UserCustomToolResult, *, hosted: bool) -> Draft:
    """Return the record of a result; what a cloud sandbox answers is the agent's (AMB 18)."""
    draft = _draft(event)
    if not (hosted and isinstance(event, UserToolResult)):
        return draft
    body = {"content": [], "is_error": False, **draft.body}
    return Draft("agent.tool_result", body)


def _allowed(request: _Request, call: Call) -> bool:
    """Tell whether a call may have run; an arrived ``allow`` counts before it is consumed."""
    if call.permission is not Permission.ASK:
        return call.permission is Permission.ALLOW
    if call.id in request.verdicts:
        return request.verdicts[call.id][0] == "allow"
    stored = request.past.get(call.id, Past()).find("user.tool_confirmation")
    return stored is not None and stored.body["result"] == "allow"


def _check_system_message(state: State, inbound: Sequence[Inbound]) -> None:
    places = [i for i, event in enumerate(inbound) if isinstance(event, SystemMessage)]
    if not places:
        return
    if places != [len(inbound) - 1]:
        raise _illegal(places[0], "a system.message comes once and last (contract 13.15)")
    if len(inbound) == 1:
        if state.status is not Status.IDLE or state.calls:
            raise _illegal(0, "a system.message of its own needs a session that waits for nothing")
        return
    before = inbound[-2]
    if not isinstance(before, UserMessage | UserToolResult | UserCustomToolResult):
        raise _illegal(places[0], "a system.message follows a user.message or a tool result")
    if state.calls and isinstance(before, UserMessage):
        raise _illegal(places[0], "while calls are open a system.message follows a tool result")


def _draft(event: Inbound) -> Draft:
    # The server says where an answer went, whatever a client says (contract 13.10).
    ignored = set() if isinstance(event, UserInterrupt) else {"session_thread_id"}
    body = event.model_dump(mode="json", exclude={"type", *ignored}, exclude_none=True)
    return Draft(event.type, body, queued=event.type not in PROCESSED_ON_RECEIPT)


def _call_id(event: Inbound) -> str | None:
    match event:
        case UserToolConfirmation() | UserToolResult():
            return event.tool_use_id
        case UserCustomToolResult():
            return event.custom_tool_use_id
        case _:
            return None


def _illegal(index: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"events[{index}]: {why}")


def resolve(
    outcomes: Sequence[Outcome], written: Iterator[Record], unwritten: Callable[[Draft], Record]
) -> list[Record]:
    """Return the event that each outcome stands for.

    Args:
        written: the rows of the drafts, in order.
        unwritten: makes the echo of an event that is not stored.
    """
    echoed: list[Record] = []
    for outcome in outcomes:
        if isinstance(outcome, Draft):
            echoed.append(next(written))
        elif isinstance(outcome, Record):
            echoed.append(outcome)
        elif isinstance(outcome, Ignored):
            echoed.append(unwritten(outcome.draft))
        else:
            echoed.append(echoed[outcome])
    return echoed
