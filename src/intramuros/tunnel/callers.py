"""Who calls through the tunnel: only what the control plane signed, never what the edge says.

The edge decides which streams a gateway is asked to open, and the inner TLS proves the gateway to
its caller, not the caller to the gateway. So each request carries a call ticket inside the inner
TLS, where the edge can neither read nor make one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from intramuros.kernel.timing import Clock
from intramuros.protocol.tickets import CALL_HEADER, CallTicket, TicketError
from intramuros.protocol.who import Who
from intramuros.tunnel.http_rules import BadRequest

_HEADER: Final = CALL_HEADER.encode()
# The same ticket comes with each request of a call; its signature is looked at this often.
_RECHECK_S: Final = 5.0


@dataclass(frozen=True)
class Caller:
    """For whom a request is made."""

    host: str
    session: str
    trace: str
    workspace: str = ""
    agent: str = ""
    agent_version: int = 0
    who: tuple[Who, ...] = ()

    @property
    def owner(self) -> tuple[object, ...]:
        """Whose an MCP session is that is opened now; also what a program's session belongs to.

        Who joins a session opens another. What somebody is called, and in which groups they are,
        may change meanwhile: that is for the policy to judge at each call.
        """
        people = sorted({(str(who.kind), who.id) for who in self.who})
        return self.workspace, self.session, tuple(people)

    @property
    def sharers(self) -> tuple[tuple[str, str], ...]:
        """Whose share of a route's sessions one counts for: each person's, else the workspace's."""
        people = {(str(who.kind), who.id) for who in self.who}
        return tuple(sorted(people)) or (("workspace", self.workspace),)


class CallerUnknown(BadRequest):
    """The request does not prove that the control plane made it."""

    def __init__(self, message: str) -> None:
        super().__init__("caller_unknown", message, 403)


class CallKey(Protocol):
    """Tells what the control plane signed."""

    def read_call_ticket(self, text: str, now_s: float, /) -> CallTicket:
        """Return a call ticket; raises TicketError."""
        ...


class CallerCheck:
    """Checks the requests of one connection.

    Args:
        key: the control plane's.
        clock: tells a ticket's age.
        host: the name that the inner TLS was opened for.
    """

    def __init__(self, key: CallKey, clock: Clock, host: str) -> None:
        self._key = key
        self._clock = clock
        self.host = host
        self._last: tuple[bytes, Caller, float] | None = None

    def check(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Return who makes a request with these headers.

        Raises:
            CallerUnknown: no ticket, more than one, or one that proves nothing here.
        """
        shown = [value for name, value in headers if name == _HEADER]
        if len(shown) != 1:
            raise CallerUnknown(f"exactly one {CALL_HEADER} header is needed")
        now_s = self._clock.now().timestamp()
        if self._last is not None and self._last[0] == shown[0] and now_s < self._last[2]:
            return self._last[1]
        try:
            ticket = self._key.read_call_ticket(shown[0].decode("latin-1"), now_s)
        except TicketError as error:
            raise CallerUnknown(f"the call ticket is refused ({error.code}): {error}") from error
        if ticket.host != self.host:
            raise CallerUnknown("the call ticket is for another host")
        caller = Caller(
            self.host,
            ticket.session,
            ticket.trace,
            ticket.workspace,
            ticket.agent,
            ticket.agent_version,
            ticket.who,
        )
        self._last = shown[0], caller, now_s + _RECHECK_S
        return caller
