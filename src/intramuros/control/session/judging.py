"""How the calls of a reply are judged before they are recorded, step by step. Pure.

::

    the reply ──► held ──► judged (each call by itself, at once) ──► the calls, with their verdicts
                    ▲                 │
                    └── again ◄───────┘ (whoever judged is lost)

The reply is durable before anybody is asked, and a call is no call before its verdict is known: no
worker, client or server can begin it. Each verdict is stored when it comes, so a process that takes
over asks only for what is missing. When the last has come, the calls are recorded in the model's
order together with the end of its request, as those of any other reply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from intramuros.control.model.base import Failure, ModelError, ModelReply, ModelRequest
from intramuros.control.session import opinion
from intramuros.control.session.calls import Permission
from intramuros.control.session.drafts import NO_USAGE
from intramuros.control.session.opinion import AGAIN, HELD, JUDGED, Opinion, Question, Setting
from intramuros.control.session.state import OpenRequest
from intramuros.control.session.toolset import Tool
from intramuros.control.session.usage import add, answered_by, capped, priced
from intramuros.control.session.view import View
from intramuros.control.store.records import Draft, Record

# A call whose judging loses this many processes is not judged: it may be what kills them.
MAX_LOST: Final = 3
REFUSED: Final = (
    "This call was judged high-risk, so it did not run. Do not try to reach the same end in "
    "another way; if it is needed, tell the user what for."
)
UNPAID: Final = (
    "This call could not be judged, because there is no credit or budget left for it, so it did "
    "not run."
)
_TOO_LARGE: Final = "the input is too large to be shown to a judge"
_LOST: Final = "the server stopped while the call was judged"
_STOPPED: Final = "the session was interrupted while the call was judged"
_CAPPED: Final = "the session's budget is reached"


@dataclass(frozen=True)
class Asked:
    """One call and the request about it."""

    use_id: str
    request: ModelRequest


@dataclass(frozen=True)
class AskJudge:
    """Ask about these calls, each by itself; the reply that makes them is in the log."""

    asked: Sequence[Asked]


@dataclass(frozen=True)
class Bench:
    """Who judges.

    Args:
        model: the model, if it is not the agent's own.
        priced: whether it has a list price; without one it judges nothing in sessions with a
            budget, whose cost must be known.
        timeout_s: seconds that there are for a call.
    """

    model: str | None = None
    priced: bool = True
    timeout_s: float = 60.0

    def model_for(self, view: View) -> str:
        """Return the model that judges the calls of this thread."""
        usable = self.priced or view.state.budget_cents is None
        return self.model if self.model and usable else str(view.subject.agent["model"]["id"])


def hold(rows: Sequence[Draft], end: Draft, epoch: int) -> list[Draft]:
    """Return the rows that record a reply's calls and its end, or that hold them to be judged."""
    if not any(_open(row.body) for row in rows):
        return [*rows, end]
    uses = [[row.type, row.id, dict(row.body), row.private] for row in rows]
    private = {"uses": uses, "end": dict(end.body), "private": end.private}
    return [Draft(HELD, {"epoch": epoch}, private=private)]


def step(
    view: View, opened: OpenRequest, bench: Bench, now_us: int, epoch: int
) -> Sequence[Draft] | AskJudge:
    """Return what the judging of a held reply does next."""
    held = view.find([opened.reply_id or ""])[0]
    uses = _uses(held)
    known = _opinions(view, held)
    left = [use for use in uses if _open(use.body) and use.id not in known]
    if left and (why := _given_up(view, opened)):
        return [_mark(held, use, opinion.unjudged(why)) for use in left]
    if left and _capped(view, held, now_us):
        return [_mark(held, use, opinion.unpaid(_CAPPED)) for use in left]
    if not left:
        recorded = {call.id for call in view.state.calls}
        return [*(_judged(use, known) for use in uses if use.id not in recorded), _end(held)]
    if opened.judge_epoch != epoch:
        return [Draft(AGAIN, {"reply_id": held.id, "epoch": epoch})]
    model, setting, tools = bench.model_for(view), _setting(view), view.tools()
    requests = {
        use.id: opinion.request(model, _question(use, uses, tools), setting) for use in left
    }
    if dark := [use for use in left if requests[use.id] is None]:
        return [_mark(held, use, opinion.unjudged(_TOO_LARGE)) for use in dark]
    return AskJudge([Asked(str(use_id), r) for use_id, r in requests.items() if r is not None])


def answered(view: View, asked: Asked, answer: ModelReply | ModelError | None) -> list[Draft]:
    """Record what came of asking about a call; None if no answer came in time.

    Returns:
        Nothing, if the call is not being judged any more.
    """
    opened = view.state.request
    if opened is None or opened.reply_id is None:
        return []
    held = view.find([opened.reply_id])[0]
    use = next((use for use in _uses(held) if use.id == asked.use_id), None)
    if use is None or use.id in _opinions(view, held):
        return []
    if isinstance(answer, ModelReply):
        draft = _mark(held, use, _read(answer), answer)
        told = answered_by(asked.request, answer)
        return [replace(draft, private={**priced(answer), **told})]
    if answer is None:
        return [_mark(held, use, opinion.unjudged("the judge did not answer in time"))]
    why = f"the judge could not be asked: {answer.message}"
    unpaid = answer.failure is Failure.BILLING
    return [_mark(held, use, opinion.unpaid(why) if unpaid else opinion.unjudged(why))]


def denied(record: Record) -> str | None:
    """Return the reason code if a row is a call that the server denied under ``auto``."""
    found = _members(_members(record.body.get("evaluation")).get("evaluated_permission"))
    return str(found["reason_code"]) if found.get("type") == Permission.DENY else None


def _given_up(view: View, opened: OpenRequest) -> str | None:
    """Return why nobody is asked any more, if so."""
    if any(item.type == "user.interrupt" for item in view.state.queued):
        return _STOPPED
    return _LOST if opened.lost >= MAX_LOST else None


def _capped(view: View, held: Record, now_us: int) -> bool:
    """Tell whether the budget is reached, with what the held reply has cost."""
    private = held.private or {}
    counts = cast("Mapping[str, int]", _members(private["end"])["model_usage"])
    state = view.state
    usage = add(state.usage, counts, _members(private["private"]))
    return capped(state.budget_cents, usage, state.active_us_at(now_us))


def _read(reply: ModelReply) -> Opinion:
    try:
        return opinion.read(reply)
    except opinion.Unusable as unusable:
        return opinion.unjudged(str(unusable))


def _question(use: Draft, uses: Sequence[Draft], tools: Mapping[str, Tool]) -> Question:
    name, server = str(use.body["name"]), use.body.get("mcp_server_name")
    found = (tool for tool in tools.values() if (tool.bare_name, tool.server) == (name, server))
    tool = next(found, None)
    return Question(
        name,
        None if server is None else str(server),
        tool.description if tool else "",
        _members(use.body["input"]),
        [(str(o.body["name"]), _members(o.body["input"])) for o in uses if o.id != use.id],
    )


def _setting(view: View) -> Setting:
    """Return what the judge may know: of a child thread, too, the people's words count."""
    waiting = {item.id for item in view.state.queued}
    people = [
        record
        for record in view.records
        if record.thread_id is None
        and record.type in _PEOPLE
        and (not record.queued or record.id in waiting)
    ]
    answers = [
        record
        for record in view.records
        if record.type == "user.tool_confirmation"
        and record.body["result"] == Permission.DENY
        and not record.queued
    ]
    own = [record for record in view.records if view.own(record) and not record.queued]
    people = sorted([*people, *answers], key=lambda record: record.seq)
    return Setting(view.subject.agent.get("system"), people, own)


def _judged(use: Draft, known: Mapping[str, Opinion]) -> Draft:
    if not _open(use.body):
        return use
    found = known[str(use.id)]
    body = {
        **use.body,
        "evaluated_permission": found.permission.value,
        "evaluation": found.evaluation,
    }
    private: dict[str, object] = {**(use.private or {}), "why": found.why}
    if found.permission is Permission.DENY:
        unpaid = found.reason is opinion.Reason.INDETERMINATE
        private["refusal"] = UNPAID if unpaid else REFUSED
    return replace(use, body=body, private=private)


def _end(held: Record) -> Draft:
    private = held.private or {}
    body = _members(private["end"])
    return Draft("span.model_request_end", body, private=_members(private["private"]))


def _mark(held: Record, use: Draft, found: Opinion, reply: ModelReply | None = None) -> Draft:
    body = {
        "reply_id": held.id,
        "use_id": use.id,
        "name": use.body["name"],
        "permission": found.permission.value,
        "reason": found.reason and found.reason.value,
        "why": found.why,
        "usage": reply.usage.counters if reply else dict(NO_USAGE),
    }
    return Draft(JUDGED, body)


def _opinions(view: View, held: Record) -> dict[str, Opinion]:
    """Return what was found of the reply's calls so far, by their ids."""
    found: dict[str, Opinion] = {}
    for record in reversed(view.records):
        if record.seq <= held.seq:
            break
        if record.type == JUDGED and record.body["reply_id"] == held.id:
            reason = record.body["reason"]
            found[str(record.body["use_id"])] = Opinion(
                Permission(str(record.body["permission"])),
                str(record.body["why"]),
                None if reason is None else opinion.Reason(str(reason)),
            )
    return found


def _uses(held: Record) -> list[Draft]:
    rows = cast("Sequence[Any]", (held.private or {})["uses"])
    return [Draft(type, body, id=use_id, private=private) for type, use_id, body, private in rows]


def _open(body: Mapping[str, object]) -> bool:
    """Tell whether a call is to be judged."""
    return _members(body.get("evaluation")).get("type") == "auto"


def _members(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


_PEOPLE: Final = frozenset({"user.message", "system.message", "user.define_outcome"})
