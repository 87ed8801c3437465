"""Which of the control plane's certificates it has taken back, as it says itself.

It is asked every two seconds. Certificates of which their authority says that they can be taken
back let somebody in only while the last answer is young enough, and only if it is about that
authority's. Who is inside leaves when the certificate is on the list; while nobody answers, they
stay until the certificate itself is over. Certificates that say nothing of the kind (the worker's
own, a company's) are none of this file's business.
"""

import json
from collections.abc import Callable
from typing import Final

import anyio
import httpx2

from intramuros.execution.client import Away, ControlPlaneError, Refused
from intramuros.execution.hosted_client import checked, mapped
from intramuros.execution.server import Server
from intramuros.execution.ssh.revoked import Papers
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, backoff_s
from intramuros.protocol.ssh import STAY_S
from intramuros.protocol.ssh_revocations import (
    MAX_BYTES,
    PATH,
    Revocations,
    read_revocations,
)

log = logger("ssh")

PERIOD_S: Final = 2.0
"""Between two questions; so late may somebody be seen out."""
_TIMEOUT: Final = httpx2.Timeout(10.0)
_BACKOFF_CAP_S: Final = 10.0
# A server that has no such list is asked again this seldom: it may be updated.
_ABSENT_S: Final = 60.0
_NOT_FOUND: Final = 404
_NOT_MODIFIED: Final = 304

REVOKED: Final = "the certificate is revoked"
UNKNOWN: Final = "nobody says whether the certificate is revoked"
OVER: Final = "the certificate has been over for a day"


class Bulletin:
    """The control plane's list, as it was last heard.

    Args:
        key: an environment key or a pool key.
        max_age_s: an older list lets nobody in.
        rand: numbers in [0, 1), to spread workers.
    """

    def __init__(
        self, server: Server, key: str, clock: Clock, max_age_s: float, rand: Callable[[], float]
    ) -> None:
        place, _, self._name = PATH.rpartition("/")
        self._http = server.client(place, {"authorization": f"Bearer {key}"}, _TIMEOUT)
        self._clock = clock
        self._max_age_s = max_age_s
        self._rand = rand
        self._known: Revocations | None = None
        self._etag: str | None = None
        self._asked_s = 0.0
        self._silent = False
        self.doing = "starting"
        """What is known, for the status."""

    def refuses(self, papers: Papers) -> str | None:
        """Return why such papers let nobody in, or None."""
        if not papers.revocable:
            return None
        known = self._told_of(papers)
        if known is None or self._stale():
            return UNKNOWN
        return REVOKED if papers.serial in known.serials else None

    def ends(self, papers: Papers) -> str | None:
        """Return why whoever came with such papers is to leave, or None."""
        if not papers.revocable:
            return None
        now_s = self._clock.now().timestamp()
        known = self._told_of(papers)
        if known is not None and papers.serial in known.serials:
            return REVOKED
        if now_s > papers.expires_s + STAY_S:
            return OVER
        unknown = known is None or self._stale()
        return UNKNOWN if unknown and now_s > papers.expires_s else None

    def _told_of(self, papers: Papers) -> Revocations | None:
        known = self._known
        return known if known is not None and known.authority == papers.authority else None

    def _stale(self) -> bool:
        return self._clock.monotonic() - self._asked_s > self._max_age_s

    async def run(self, stop: Stop) -> None:
        """Ask again and again until the stop."""
        failures = 0
        while not stop.requested:
            wait_s = PERIOD_S * (0.75 + self._rand() / 2)
            try:
                with mapped():
                    await self._ask()
                failures = 0
            except ControlPlaneError as error:
                wait_s = self._unanswered(error, failures)
                failures += 1
            self._notice()
            with anyio.move_on_after(wait_s):
                await stop.wait()

    async def _ask(self) -> None:
        asked_s = self._clock.monotonic()
        headers = {} if self._etag is None else {"if-none-match": self._etag}
        async with self._http.stream("GET", self._name, headers=headers) as answer:
            checked(answer)
            same = answer.status_code == _NOT_MODIFIED and self._etag is not None
            if not same:
                if answer.status_code != 200:
                    raise Away(f"HTTP {answer.status_code}")
                self._learn(await _whole(answer), answer.headers.get("etag"))
        self._asked_s = asked_s

    def _learn(self, raw: bytes, etag: str | None) -> None:
        known = read_revocations(json.loads(raw))
        if self._known is None or known.authority != self._known.authority:
            log.info("ssh_revocations_heard", authority=known.authority)
        self._known, self._etag = known, etag
        self.doing = f"{len(known.serials)} certificates are revoked"

    def _unanswered(self, error: ControlPlaneError, failures: int) -> float:
        """Say so once, and return how long to wait, in seconds."""
        absent = isinstance(error, Refused) and error.status == _NOT_FOUND and self._known is None
        self.doing = "the server has no list" if absent else f"not answered ({error})"
        if failures == 0:
            told = "ssh_revocations_not_offered" if absent else "ssh_revocations_unanswered"
            log.warning(told, error=str(error))
        return _ABSENT_S if absent else backoff_s(failures, PERIOD_S, _BACKOFF_CAP_S, self._rand())

    def _notice(self) -> None:
        """Say once that nobody is let in any more for want of a list, and once that it is over."""
        silent = self._known is not None and self._stale()
        if silent != self._silent:
            self._silent = silent
            log.error("ssh_revocations_too_old" if silent else "ssh_revocations_back")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


async def _whole(answer: httpx2.Response) -> bytes:
    found = bytearray()
    async for chunk in answer.aiter_bytes():
        found += chunk
        if len(found) > MAX_BYTES:
            raise Away("the list of revoked certificates is too long")
    return bytes(found)
