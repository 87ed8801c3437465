"""Reads a page: every hop of the way checked before it is taken, everything bounded.

Where a redirect leads is the server's choice, so each hop is judged like the first: its host by the
operator's and the agents' lists, its addresses by whoever dials them.
"""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio
import httpx2

from intramuros.kernel.errors import IntramurosError
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, rfc3339
from intramuros.web.base import Answer, Code, Fetch, refusal
from intramuros.web.domains import Rules
from intramuros.web.reader import Body, Reader, Unreadable
from intramuros.web.terms import Terms
from intramuros.web.urls import BadUrl, Target, join, parse
from intramuros.web.wire import Broken, Forbidden, Ways, answered, get, receive

log = logger("web")

MAX_HOPS: Final = 5
# What is read of one page, inflated. A model sees a small part of it, or the whole of a PDF.
MAX_BYTES: Final = 5 * 1024 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {
    "user-agent": "intramuros-web-fetch",
    "accept": "text/html, application/xhtml+xml, application/pdf, text/*;q=0.9, */*;q=0.5",
    "accept-encoding": "gzip",
}

# Told of a hop before it is taken; what cannot be recorded does not happen.
Note = Callable[[Fetch, Target], Awaitable[None]]


class _Failed(IntramurosError):
    """The call has no result."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


@dataclass
class _Trail:
    """What was seen on the way; the audit keeps it."""

    hosts: list[str]
    status: int | None = None
    received: int = 0

    def shown(self) -> dict[str, object]:
        return {"hosts": self.hosts, "status": self.status, "received": self.received}


class Fetcher:
    """Reads pages."""

    def __init__(self, terms: Terms, reader: Reader, note: Note, clock: Clock, ways: Ways) -> None:
        self._terms = terms
        self._reader = reader
        self._note = note
        self._clock = clock
        self._ways = ways

    async def fetch(self, wanted: Fetch) -> Answer:
        """Read one page; never raises for what the other side does."""
        trail = _Trail([])
        try:
            with anyio.fail_after(self._terms.timeout_s):
                body = await self._follow(wanted, trail)
                block = await self._reader.document(body, wanted.max_tokens)
        except _Failed as failed:
            return refusal(failed.code, failed.why, **trail.shown())
        except Unreadable as unreadable:
            return refusal(Code.UNSUPPORTED, str(unreadable), **trail.shown())
        except TimeoutError:
            why = f"no answer within {self._terms.timeout_s:g} s"
            return refusal(Code.NOT_ACCESSIBLE, why, **trail.shown())
        context = f"Fetched from {body.url} at {rfc3339(self._clock.now())}"
        return Answer([{**block, "context": context}], seen=trail.shown())

    async def _follow(self, wanted: Fetch, trail: _Trail) -> Body:
        rules = self._terms.rules.within([wanted.rules])
        try:
            target = parse(wanted.url)
        except BadUrl as bad:
            raise _Failed(Code.INVALID, str(bad)) from bad
        for _ in range(MAX_HOPS + 1):
            self._check(target, rules)
            if trail.hosts:
                await self._note(wanted, target)
            trail.hosts.append(target.host)
            found = await self._hop(target, trail)
            if isinstance(found, Body):
                return found
            if (target.scheme, found.scheme) == ("https", "http"):
                raise _Failed(Code.NOT_ALLOWED, "the page redirects to one without encryption")
            target = found
        raise _Failed(Code.NOT_ACCESSIBLE, f"more than {MAX_HOPS} redirects")

    def _check(self, target: Target, rules: Rules) -> None:
        if rules.barren:
            raise _Failed(Code.NOT_ALLOWED, "no domain is permitted: the lists have none in common")
        address = target.address
        networks = self._terms.networks
        if address is not None and not any(
            address in network for network in networks if network.version == address.version
        ):
            raise _Failed(Code.NOT_ALLOWED, "pages are named by domain, not by address")
        if target.port not in self._terms.ports:
            raise _Failed(Code.NOT_ALLOWED, "pages at this port may not be fetched")
        if not rules.permits(target.host, target.bare_path):
            raise _Failed(Code.NOT_ALLOWED, "pages of this domain may not be fetched")

    async def _hop(self, target: Target, trail: _Trail) -> Body | Target:
        """Return a page's body, or where it says that the page is."""
        request = get(target.url, _HEADERS, {})
        # What was checked is what is asked for, or nothing is.
        if request.url.raw_host.decode("ascii").strip("[]") != target.host:
            raise _Failed(Code.INVALID, "the URL can be read in two ways")
        try:
            transport = await self._ways.to(target)
            async with answered(transport, request, self._terms.timeout_s) as response:
                trail.status = response.status_code
                if response.status_code in _REDIRECTS:
                    return join(target, response.headers.get("location", ""))
                if not 200 <= response.status_code < 300:
                    why = f"the server answered {response.status_code}"
                    raise _Failed(Code.NOT_ACCESSIBLE, why)
                received = await receive(response, MAX_BYTES)
                trail.received = len(received.data)
                content_type = response.headers.get("content-type", "")
                return Body(target.url, content_type, received.data, received.whole)
        except BadUrl as bad:
            raise _Failed(Code.NOT_ACCESSIBLE, "the page redirects to no page") from bad
        except Forbidden as forbidden:
            raise _Failed(Code.NOT_ALLOWED, str(forbidden)) from forbidden
        except Broken as broken:
            raise _Failed(Code.NOT_ACCESSIBLE, str(broken)) from broken
        except (httpx2.HTTPError, ssl.SSLError, OSError, UnicodeError) as error:
            log.info("page_not_reached", host=target.host, error=type(error).__name__)
            why = "the server cannot be reached, or broke off"
            raise _Failed(Code.NOT_ACCESSIBLE, why) from error
