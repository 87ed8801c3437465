"""The worker's ways to the web: judged like a sandbox's requests, recorded before they are dialled.

A name is resolved here, every address is judged, and what was judged is dialled. Addresses in the
place of names are refused: the rules are about names.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import h11
import httpx2

from intramuros.execution.egress.http1 import MAX_HEAD_BYTES, Head, Place
from intramuros.execution.egress.ledger import Claim, Ledger, Tally
from intramuros.execution.egress.leg import GONE, Leg
from intramuros.execution.egress.policy import Networking, OwnRules, Policy
from intramuros.execution.egress.upstream import Dialler, UpstreamFailed
from intramuros.execution.record import Record, RecordFailed
from intramuros.kernel.timing import Clock
from intramuros.web.urls import Target
from intramuros.web.wire import Forbidden

ENGINE_RULE: Final = "search_engine"
_CHUNK: Final = 64 * 1024
# Interim answers before the real one; more is somebody who plays for time.
_MAX_INTERIM: Final = 8


@dataclass(frozen=True)
class Outside:
    """What all calls of a worker share.

    Args:
        own: whom the operator lets web tools reach.
        dialler: opens connections to checked addresses.
        engine_inside: whether the operator has written down an address for his search engine, which
            may then be anywhere, and is reached without the company's proxy.
    """

    own: OwnRules
    dialler: Dialler
    record: Record
    clock: Clock
    engine_inside: bool = False

    @property
    def policy(self) -> Policy:
        """The rules; no environment's apply, as for every web tool (contract 6.24)."""
        return Policy(self.own, Networking())


@dataclass(frozen=True)
class _Leave:
    """A request that may be made: by which rule, and whether it may go to private addresses."""

    rule: str
    internal: bool
    secrets: tuple[str, ...] = ()


class WorkerWays:
    """The ways of one call (:class:`~intramuros.web.wire.Ways`).

    Args:
        session_id: whose call it is, for the record.
    """

    def __init__(self, outside: Outside, session_id: str) -> None:
        self._outside = outside
        self._ledger = Ledger(outside.record, session_id)

    async def to(self, target: Target) -> httpx2.AsyncBaseTransport:
        """Return a way to a page.

        Raises:
            Forbidden: the worker's rules do not allow it.
        """
        verdict = self._outside.policy.judge(target.host, target.port)
        if not verdict.allowed:
            await self._ledger.refuse(Place(target.host, target.port, target.scheme), verdict.rule)
            raise Forbidden(f"the worker's rules do not allow it ({verdict.rule})")
        internal = self._outside.own.internal.covers(target.host)
        return _Way(self._outside, self._ledger, _Leave(verdict.rule, internal))

    def to_engine(self, *, public: bool) -> httpx2.AsyncBaseTransport:
        """Return a way to the search engine, which the operator has named, and with its key."""
        internal = self._outside.engine_inside or not public
        leave = _Leave(ENGINE_RULE, internal, secrets=(ENGINE_RULE,))
        return _Way(self._outside, self._ledger, leave)


class _Way(httpx2.AsyncBaseTransport):
    """One request on a connection of its own."""

    def __init__(self, outside: Outside, ledger: Ledger, leave: _Leave) -> None:
        self._outside = outside
        self._ledger = ledger
        self._leave = leave

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; its end is recorded when the answer is closed.

        Raises:
            Forbidden: it leads to an address that may not be reached.
            httpx2.HTTPError: no answer came.
        """
        url = request.url
        place = Place(url.host, url.port or {"http": 80, "https": 443}[url.scheme], url.scheme)
        body = await request.aread()
        claim = Claim(
            place,
            self._leave.rule,
            True,
            Head(request.method.encode(), url.raw_path, (), b"1.1", len(body)),
            self._leave.secrets,
        )
        try:
            await self._ledger.ask(claim)
        except RecordFailed as error:
            raise Forbidden("it cannot be recorded, so it is not done") from error
        tally, began_s = Tally(), self._outside.clock.monotonic()

        def over() -> None:
            ms = round((self._outside.clock.monotonic() - began_s) * 1000)
            self._ledger.end(claim, tally, ms)

        try:
            exchange = await self._begin(place, request, body, tally)
        except BaseException as error:
            if isinstance(error, UpstreamFailed):
                tally.ended = error.rule
            over()
            raise _told(error) from error
        return exchange.response(over)

    async def _begin(
        self, place: Place, request: httpx2.Request, body: bytes, tally: Tally
    ) -> "_Exchange":
        dial = self._outside.dialler.open
        tls = place.scheme == "https"
        stream = await dial(place, internal=self._leave.internal, tls=tls)
        try:
            exchange = _Exchange(stream, tally)
            await exchange.ask(request, body)
        except BaseException:
            await stream.aclose()
            raise
        return exchange


@dataclass
class _Exchange:
    """A request that was sent, and its answer as far as it is read."""

    stream: Leg
    tally: Tally
    http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    )
    head: h11.Response | None = None

    async def ask(self, request: httpx2.Request, body: bytes) -> None:
        """Send the request and read the head of its answer."""
        headers = [(n, v) for n, v in request.headers.raw if n.lower() != b"transfer-encoding"]
        headers.append((b"connection", b"close"))
        sent = h11.Request(method=request.method, target=request.url.raw_path, headers=headers)
        data = self.http.send(sent) or b""
        if body:
            data += self.http.send(h11.Data(body)) or b""
            self.tally.sent.add(body)
        await self.stream.send(data + (self.http.send(h11.EndOfMessage()) or b""))
        for _ in range(_MAX_INTERIM):
            event = await self._next()
            if isinstance(event, h11.Response):
                self.head = event
                self.tally.status = int(event.status_code)
                return
        raise h11.RemoteProtocolError("no answer but interim ones")

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes."""
        while isinstance(event := await self._next(), h11.Data):
            data = bytes(event.data)
            self.tally.received.add(data)
            yield data
        self.tally.ended = "done"

    def response(self, over: Callable[[], None]) -> httpx2.Response:
        """Return the answer; ``over`` is called when it is closed."""
        assert self.head is not None
        headers = [(bytes(n), bytes(v)) for n, v in self.head.headers]
        return httpx2.Response(
            int(self.head.status_code), headers=headers, stream=_Body(self, over)
        )

    async def _next(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            try:
                self.http.receive_data(await self.stream.receive(_CHUNK))
            except GONE:
                self.http.receive_data(b"")
        return event


class _Body(httpx2.AsyncByteStream):
    def __init__(self, exchange: _Exchange, over: Callable[[], None]) -> None:
        self._exchange = exchange
        self._over: Callable[[], None] | None = over

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._exchange.body():
                yield data
        except (h11.RemoteProtocolError, *GONE) as error:
            raise httpx2.RemoteProtocolError("the answer breaks off") from error

    async def aclose(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()
            await self._exchange.stream.aclose()


def _told(error: BaseException) -> BaseException:
    """Return an error as the reader of pages knows it."""
    if isinstance(error, UpstreamFailed):
        if error.rule == "address_refused":
            return Forbidden("the host does not resolve to public addresses only")
        return httpx2.ConnectError(str(error))
    if isinstance(error, h11.RemoteProtocolError | h11.LocalProtocolError):
        return httpx2.RemoteProtocolError("no HTTP answer")
    return httpx2.ReadError("the connection broke") if isinstance(error, GONE) else error
