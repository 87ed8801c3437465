"""One attempt: sign, connect to a checked address, send, look at the status, hang up.

Nothing that the other side does takes longer than the deadline or more memory than a status line
and headers: the body of its answer is not read, and every attempt has a connection of its own, so
that its name is resolved and checked anew.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

import anyio
import httpx2
from standardwebhooks import Webhook

from intramuros.control.mcp.guard import AddressRefused, GuardedTransport, Resolver, Threads
from intramuros.kernel.addresses import Network


class Outcome(StrEnum):
    """What came of an attempt."""

    DELIVERED = "delivered"  # any 2xx
    FAILED = "failed"  # another status, no answer, or none in time
    REDIRECTED = "redirected"  # a 3xx, which is never followed
    NOT_PUBLIC = "not_public"  # the name resolves to an address that may not be reached


@dataclass(frozen=True)
class Result:
    """An outcome, and in one word what was seen: a status or the class of an error."""

    outcome: Outcome
    seen: str


@dataclass(frozen=True)
class Message:
    """What is to be sent where.

    ``at`` is the time of this attempt, not of the event.
    """

    url: str
    event_id: str
    body: str
    secret: str = field(repr=False)
    at: datetime

    def headers(self) -> dict[str, str]:
        """Return the headers of this attempt (R267, R268)."""
        return {
            "content-type": "application/json",
            "user-agent": "intramuros-webhooks",
            "accept": "*/*",
            "accept-encoding": "identity",
            "webhook-id": self.event_id,
            "webhook-timestamp": str(int(self.at.timestamp())),
            "webhook-signature": Webhook(self.secret).sign(self.event_id, self.at, self.body),
        }


class Post:
    """Makes attempts.

    Args:
        networks: private networks that may be reached all the same.
        context: what servers' certificates are checked against.
        timeout_s: the deadline of one attempt, from the look-up to the answer's headers.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        context: ssl.SSLContext,
        timeout_s: float,
        resolver: Resolver | None = None,
    ) -> None:
        self._networks = networks
        self._context = context
        self._timeout_s = timeout_s
        self._resolver = resolver or Threads()

    async def send(self, message: Message) -> Result:
        """Make one attempt; never raises for what the other side does."""
        transport = GuardedTransport(self._networks, self._resolver, self._context)
        result = Result(Outcome.FAILED, "timeout")
        with anyio.move_on_after(self._timeout_s):
            try:
                async with transport:
                    result = _judge(await self._status(transport, message))
            except httpx2.ConnectError as error:
                refused = isinstance(error.__cause__, AddressRefused)
                outcome = Outcome.NOT_PUBLIC if refused else Outcome.FAILED
                result = Result(outcome, type(error).__name__)
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
                result = Result(Outcome.FAILED, type(error).__name__)
        return result

    async def _status(self, transport: httpx2.AsyncBaseTransport, message: Message) -> int:
        request = httpx2.Request(
            "POST",
            message.url,
            headers=message.headers(),
            content=message.body.encode(),
            extensions={"timeout": dict.fromkeys(_PHASES, self._timeout_s)},
        )
        response = await transport.handle_async_request(request)
        try:
            return response.status_code
        finally:
            await response.aclose()


def _judge(status: int) -> Result:
    if 200 <= status < 300:
        return Result(Outcome.DELIVERED, str(status))
    return Result(Outcome.REDIRECTED if 300 <= status < 400 else Outcome.FAILED, str(status))


_PHASES: Final = ("connect", "read", "write", "pool")
