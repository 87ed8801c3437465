"""Where a change comes from: the request that is being served, for the audit chain.

The boundary of the API binds it, authentication adds who it is, and the records that are written on
behalf of the request carry it. What runs without a request has none: the loop, jobs, the
operator's commands. It is context, as the request id in the log is, because whoever records an act
deep inside should not have to be handed an address that it does nothing else with.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from intramuros.control.identity.principal import Principal

# Longer ones are nobody's browser or SDK, and this is kept for years.
MAX_AGENT_CHARS: Final = 256


@dataclass(frozen=True)
class Origin:
    """One request: the peer's address, what it says it is, and who it turned out to be."""

    address: str
    agent: str
    request_id: str
    caller: Principal | None = None

    def fields(self) -> dict[str, str]:
        """Return what an audit record says of it."""
        said = {"address": self.address, "agent": self.agent, "request_id": self.request_id}
        if self.caller is not None:
            said |= {"kind": self.caller.kind.value, "credential_id": self.caller.credential_id}
            if self.caller.user_id is not None:
                said["user_id"] = self.caller.user_id
            if self.caller.service_account_id is not None:
                said["service_account_id"] = self.caller.service_account_id
        return said


@contextmanager
def bound(address: str, agent: str, request_id: str) -> Iterator[None]:
    """Serve a request of somebody who is not known yet."""
    shown = "".join(char for char in agent[:MAX_AGENT_CHARS] if char.isprintable())
    token = _CURRENT.set(Origin(address, shown, request_id))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def identify(caller: Principal) -> None:
    """Say who sent the request that is being served; outside of one it changes nothing."""
    current = _CURRENT.get()
    if current is not None:
        _CURRENT.set(replace(current, caller=caller))


def current() -> Origin | None:
    """Return the request that is being served, or None."""
    return _CURRENT.get()


_CURRENT: ContextVar[Origin | None] = ContextVar("intramuros_origin", default=None)
