"""Judge a request that has a route: by policy, approved tools, whose session it names, and limits.

What is judged is recorded before it is done or refused; here it is only decided.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from intramuros.kernel.telemetry import logger
from intramuros.tunnel.acts import LAST_EVENT, Act, Action, act_of
from intramuros.tunnel.bound_sessions import Binder
from intramuros.tunnel.calls import Summary, check_mirrored, summarise
from intramuros.tunnel.definitions import Definitions, Tell
from intramuros.tunnel.exchange import (
    Exchange,
    send_denial,
    send_limited,
    send_unknown_session,
)
from intramuros.tunnel.guard import Guard, asked_by
from intramuros.tunnel.limits import OverLimit
from intramuros.tunnel.listings import ListFilter
from intramuros.tunnel.meters import Meters
from intramuros.tunnel.programs import Program
from intramuros.tunnel.routes import Route

log = logger("gateway")

DENIED: Final = "denied"
FOREIGN_SESSION: Final = "foreign_session"
RESUMES: Final = "resumes_after"
MAX_EVENT_ID_CHARS: Final = 128


@dataclass(frozen=True)
class Refusal:
    """Why a request is not passed on, and what its caller hears."""

    reason: str
    """One of few words, for figures."""
    answer: Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Judged:
    """What becomes of a request."""

    fields: Mapping[str, object]
    """Members for its audit record."""
    refusal: Refusal | None = None


class Judge:
    """Judges the requests of one gateway.

    Args:
        binder: knows whose sessions are named.
        meters: count what each route is asked.
        tell: takes what is to be recorded of tools that are held back.
    """

    def __init__(self, binder: Binder, meters: Meters, tell: Tell) -> None:
        self.guard: Guard | None = None
        """Judges each call; without one, whatever has a route may be called."""
        self.definitions: Definitions | None = None
        """What of tools is approved; without them every definition is."""
        self._binder = binder
        self._meters = meters
        self._tell = tell

    def judge(self, exchange: Exchange, route: Route) -> Judged:
        """Decide about a request, and have its answer filtered and its sessions bound.

        Raises:
            BadRequest: its body can be read in two ways.
        """
        found = _read(exchange)
        # First, so that the policy judges what the server will get.
        own = self._bind(exchange, route)
        act = _act(exchange, route, found)
        asked = asked_by(exchange.caller, act)
        fields = found.fields() | asked.fields() | _taken_up(exchange)
        if self.guard is not None:
            verdict = self.guard.judge(asked)
            exchange.filter = verdict.filter
            fields |= verdict.fields()
            if not verdict.ruling.allowed:
                log.warning("call_denied", host=exchange.caller.host, action=act.action.value)
                return Judged(fields, _denial(DENIED, act, found))
        held = self._screened(exchange, act)
        if held is not None:
            log.warning("tool_held", route=route.key, tool=act.name, reason=held)
            return Judged(fields | _deny(held), _denial(held, act, found))
        if not own:
            log.warning(FOREIGN_SESSION, host=exchange.caller.host, session=exchange.caller.session)
            return Judged(
                fields | _deny(FOREIGN_SESSION), Refusal(FOREIGN_SESSION, send_unknown_session)
            )
        over = self._count(exchange, route, act)
        if over is not None:
            log.warning("over_limit", route=route.key, limit=over.key)
            return Judged(fields | _deny(over.key), _limited(over, found))
        return Judged(fields)

    def _count(self, exchange: Exchange, route: Route, act: Act) -> OverLimit | None:
        """Count a request at its route until its end; return why it is refused, if it is."""
        if act.action is Action.CONNECT and not act.method:
            return None
        counted = self._meters.enter(route.key, route.limits, len(exchange.body))
        if isinstance(counted, OverLimit):
            return counted
        exchange.leave = counted
        return None

    def _screened(self, exchange: Exchange, act: Act) -> str | None:
        """Have the answer's tools looked at; return why a call of one is refused, if it is."""
        if self.definitions is None:
            return None
        held = self.definitions.check(act)
        # A server may answer a list on any stream that is open, so all of MCP is looked at.
        screen = self.definitions.screen(act.server, self._tell)
        if screen is not None:
            # What is no MCP is not read as such, unless it comes as events after all.
            events_only = exchange.filter is None and act.action is Action.HTTP
            exchange.filter = exchange.filter or ListFilter(events_only=events_only)
            exchange.filter.screen = screen
        return held

    def _bind(self, exchange: Exchange, route: Route) -> bool:
        """Have the server get its own session ids; return whether they are the caller's."""
        request = exchange.request
        exchange.headers, exchange.target = list(request.headers), request.target
        if isinstance(route.upstream, Program):
            # A program's sessions are the gateway's own, and bound to their callers there.
            return True
        exchange.bound = self._binder.of(route.key, exchange.caller)
        rpc = request.method == b"POST" and exchange.body.lstrip()[:1] in (b"{", b"[")
        found = exchange.bound.request(exchange.headers, exchange.target, rpc=rpc)
        if found is None:
            return False
        exchange.headers, exchange.target = found.headers, found.target
        return True


def _deny(reason: str) -> dict[str, object]:
    return {"decision": "deny", "reason": reason}


def _denial(reason: str, act: Act, found: Summary) -> Refusal:
    async def answer(exchange: Exchange) -> None:
        await send_denial(exchange, act, found.id)

    return Refusal(reason, answer)


def _taken_up(exchange: Exchange) -> dict[str, object]:
    """Return after which event a stream that was cut shall go on, if one shall."""
    after = dict(exchange.request.headers).get(LAST_EVENT)
    if after is None or exchange.request.method != b"GET":
        return {}
    return {RESUMES: after[:MAX_EVENT_ID_CHARS].decode("latin-1")}


def _limited(over: OverLimit, found: Summary) -> Refusal:
    async def answer(exchange: Exchange) -> None:
        await send_limited(exchange, over, found.id)

    return Refusal("over_limit", answer)


def _read(exchange: Exchange) -> Summary:
    """Return what the body asks for; raises BadRequest if that is not clear."""
    headers = list(exchange.request.headers)
    found = summarise(exchange.body, dict(headers).get(b"content-type", b""))
    check_mirrored(found, headers)
    return found


def _act(exchange: Exchange, route: Route, found: Summary) -> Act:
    request = exchange.request
    method, target = (part.decode("latin-1") for part in (request.method, exchange.target))
    return act_of(route.key, method, target, list(request.headers), found)
