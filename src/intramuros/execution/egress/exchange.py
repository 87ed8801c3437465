"""One request of a sandbox, from its head to the end of its answer: judge, record, then carry.

The order is fixed: the head is found good, the rules admit it, what it would carry is known, the
record is written, and only then is anyone dialled. Redirects go back to the sandbox like any other
answer; following one is a request of its own.
"""

from dataclasses import replace
from typing import Final

import anyio
import h11

from intramuros.execution.egress import secrets
from intramuros.execution.egress.http1 import (
    MAX_HEAD_BYTES,
    Head,
    Place,
    Refused,
    check_raw,
    end_to_end,
    plain_answer,
    read_head,
    request_headers,
)
from intramuros.execution.egress.ledger import Claim, Tally
from intramuros.execution.egress.leg import GONE, Leg
from intramuros.execution.egress.limits import LimitReached
from intramuros.execution.egress.outlet import Outlet
from intramuros.execution.egress.pool import Pool, Resting, repeatable, shareable
from intramuros.execution.egress.secrets import HeaderRule, Unfit
from intramuros.execution.egress.splice import Pair, splice
from intramuros.execution.egress.transfer import (
    AnswerFailed,
    Ends,
    Order,
    SandboxGone,
    Transfer,
    next_inside,
)
from intramuros.execution.egress.upstream import UpstreamFailed
from intramuros.execution.record import RecordFailed

_PLAIN: Final = frozenset({b"", b"identity"})
# With these an answer could come in pieces or in a form in which no secret is found.
_UNSEARCHABLE: Final = frozenset(
    {b"accept-encoding", b"range", b"if-range", b"sec-websocket-extensions"}
)


class Kept:
    """The connection to a host that is kept between two requests of one connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._resting: Resting | None = None

    def take(self, place: Place, now_s: float) -> Resting | None:
        """Return it if it leads to this place and is still good; let go of it otherwise."""
        resting, self._resting = self._resting, None
        if resting is not None and (resting.place != place or not resting.good(now_s)):
            resting.leg.abort()
            return None
        return resting

    def keep(self, resting: Resting) -> None:
        """Keep it for the next request."""
        self._resting = resting

    def give_back(self, now_s: float) -> None:
        """Leave it to the sandbox's other connections, or close it."""
        resting, self._resting = self._resting, None
        if resting is None:
            return
        if resting.bound or not resting.good(now_s):
            resting.leg.abort()
        else:
            self._pool.rest(resting)


class Exchange:
    """Serves one request; ``outlet`` is the sandbox's, ``client`` its end of the connection."""

    def __init__(self, outlet: Outlet, client: Leg, place: Place, kept: Kept) -> None:
        self._outlet = outlet
        self._client = client
        self._place = place
        self._kept = kept
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head: Head | None = None
        self._tally = Tally()
        self._upstream: Leg | None = None
        self._transfer: Transfer | None = None
        self._bound = False

    async def run(self, raw: bytes) -> bool:
        """Serve the request whose head this is; tell whether the connection may carry another.

        Raises:
            SandboxGone: nobody is there any more.
        """
        try:
            order, claim = await self._prepare(raw)
        except Refused as refused:
            await self._outlet.ledger.refuse(self._place, refused.rule, self._head)
            return await self._say(refused.status, refused.rule, str(refused))
        except LimitReached as error:
            await self._outlet.ledger.refuse(self._place, error.rule, self._head)
            return await self._say(429, error.rule, str(error))
        try:
            await self._outlet.ledger.ask(claim)
        except RecordFailed:
            return await self._say(503, "not_recorded", "the record cannot be written")
        started_s = self._outlet.clock.monotonic()
        try:
            return await self._carry(order, claim)
        finally:
            ms = round((self._outlet.clock.monotonic() - started_s) * 1000)
            self._outlet.ledger.end(claim, self._tally, ms)

    async def _prepare(self, raw: bytes) -> tuple[Order, Claim]:
        """Judge the request and put in what belongs in."""
        check_raw(raw)
        self._http.receive_data(raw)
        try:
            request = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise Refused("malformed", "the request cannot be read") from error
        if not isinstance(request, h11.Request):
            raise Refused("malformed", "the request cannot be read")
        head = self._head = read_head(request, self._place)
        await self._outlet.meter.turn()
        # The rules may have changed since the connection began.
        verdict = self._outlet.judge(self._place.name, self._place.port)
        if not verdict.allowed:
            raise Refused(verdict.rule, f"{self._place.name} may not be reached", 403)
        order, used = await self._equip(head)
        claim = Claim(self._place, verdict.rule, True, head, tuple(sorted(used)))
        return order, claim

    async def _equip(self, head: Head) -> tuple[Order, set[str]]:
        """Return the order with its secrets, and the names of those that go, or may go, along."""
        name, known = self._place.name, self._outlet.secrets
        headers, lent = secrets.with_lease(
            request_headers(head, self._place),
            self._outlet.leases,
            name,
            head.target,
            self._outlet.standing,
        )
        try:
            headers, used = known.into_headers(name, headers)
        except Unfit as error:
            raise Refused("secret_unfit", str(error)) from error
        used |= {lent.label} if lent is not None else set()
        strict = known.scrub and (known.bound_to(name) or lent is not None)
        if strict:
            headers = [(n, v) for n, v in headers if n not in _UNSEARCHABLE]
            headers.append((b"accept-encoding", b"identity"))
        rules = self._rules(lent)
        bound = lent is not None or not shareable(head)
        order = Order(head, headers, scrubber=known.scrubber(rules), strict=strict, bound=bound)
        order, used = await self._fill(order, used)
        try:
            order.request()
        except h11.LocalProtocolError:
            # What the parser says of a header quotes it, secret and all.
            raise Refused("malformed", "the headers cannot be sent") from None
        return order, used

    async def _fill(self, order: Order, used: set[str]) -> tuple[Order, set[str]]:
        """Read a short body, or arrange for a long one, and put into it what belongs there."""
        head, most = order.head, self._outlet.meter.limits.filled_bytes
        if head.length == 0:
            await self._next_inside()
            order.body = b""
            return order, used
        filler = None
        if head.header(b"content-encoding").lower() in _PLAIN:
            kind = head.header(b"content-type")
            filler = self._outlet.secrets.into_body(self._place.name, kind)
        await self._continue()
        if filler is None:
            return order, used
        if head.length is None or head.length > most:
            # Recorded before it is read: what may be in it counts as used.
            return replace(order, filler=filler), used | filler.names
        body = b""
        while isinstance(event := await self._next_inside(), h11.Data):
            body += filler.feed(bytes(event.data))
        return replace(order, body=body + filler.finish()), used | filler.used

    async def _carry(self, order: Order, claim: Claim) -> bool:
        tally = self._tally
        try:
            with anyio.fail_after(self._outlet.meter.limits.request_s):
                ends, transfer = await self._converse(order)
                if transfer.switched is not None:
                    await self._switch(ends, transfer.switched, claim)
                    return False
                return self._finish(order, transfer)
        except UpstreamFailed as error:
            tally.ended = error.rule
            return await self._say(502, error.rule, str(error))
        except (AnswerFailed, LimitReached) as error:
            tally.ended = error.rule
            if self._transfer is not None and not self._transfer.answered:
                return await self._say(502, error.rule, str(error))
            # Cut off, not ended: half an answer must not look like a whole one.
            raise SandboxGone from error
        except SandboxGone:
            tally.ended = "sandbox_gone"
            raise
        except TimeoutError:
            tally.ended = "request_time"
            raise SandboxGone from None
        finally:
            if self._upstream is not None:
                self._upstream.abort()

    async def _converse(self, order: Order) -> tuple[Ends, Transfer]:
        """Carry the order on the kept connection, one that rested, or a new one."""
        outlet = self._outlet
        kept = self._kept.take(self._place, outlet.clock.monotonic())
        if kept is not None:
            self._bound = kept.bound
            return await self._attempt(order, kept.leg)
        rested = outlet.pool.take(self._place) if repeatable(order.head) else None
        if rested is not None:
            try:
                return await self._attempt(order, rested)
            except AnswerFailed:
                if self._transfer is None or self._transfer.heard or not rested.stale():
                    raise
                # It was gone already: nobody has read the request, or nobody has answered it.
                rested.abort()
        return await self._attempt(order, await self._dial())

    async def _attempt(self, order: Order, upstream: Leg) -> tuple[Ends, Transfer]:
        self._upstream = upstream
        ends = Ends(self._client, self._http, upstream)
        self._transfer = Transfer(ends, order, self._tally, self._outlet.meter)
        await self._transfer.run()
        return ends, self._transfer

    def _finish(self, order: Order, transfer: Transfer) -> bool:
        """Keep the host's connection if it is good; tell whether the sandbox's is."""
        inside, outside = transfer.reusable
        if outside and self._upstream is not None:
            self._outlet.tickets.keep(self._place, self._upstream)
            bound = self._bound or order.bound
            now_s = self._outlet.clock.monotonic()
            self._kept.keep(Resting(self._place, self._upstream, now_s, bound))
            self._upstream = None
        # What came after the request is the next one's.
        self._client.held = self._http.trailing_data[0] + self._client.held
        return inside

    async def _dial(self) -> Leg:
        internal = self._outlet.rules.own.internal.covers(self._place.name)
        tls = self._place.scheme == "https"
        session = self._outlet.tickets.get(self._place)
        return await self._outlet.dialler.open(
            self._place, internal=internal, tls=tls, session=session
        )

    async def _switch(self, ends: Ends, answer: h11.InformationalResponse, claim: Claim) -> None:
        """Pass a WebSocket on, as it is but for secrets in what comes back."""
        blotter = self._outlet.secrets.blotter(self._rules(None))
        headers = [
            *end_to_end(answer.headers),
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
        ]
        if blotter is not None:
            headers = [(n, blotter.whole(v)) for n, v in headers]
        if self._head is None or not self._head.websocket:
            raise AnswerFailed("malformed_answer", "the host switches without being asked")
        head = ends.inside.send(h11.InformationalResponse(status_code=101, headers=headers)) or b""
        self._client.held = ends.inside.trailing_data[0] + self._client.held
        ends.upstream.held = ends.outside.trailing_data[0] + ends.upstream.held
        pair = Pair(self._client, ends.upstream, blotter)
        try:
            await self._client.send(head)
        except GONE as error:
            raise SandboxGone from error
        await splice(pair, self._tally, self._outlet.meter)

    def _rules(self, lent: HeaderRule | None) -> list[HeaderRule]:
        """Return the lent headers whose values may not come back."""
        rules = [*self._outlet.leases.values(), *self._outlet.standing]
        return rules if lent is None or lent in rules else [*rules, lent]

    async def _next_inside(self) -> object:
        return await next_inside(self._client, self._http, self._outlet.meter.limits.silence_s)

    async def _continue(self) -> None:
        """Tell a sandbox that waits for it to go on with its body (RFC 9110 10.1.1)."""
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            try:
                await self._client.send(self._http.send(go_on) or b"")
            except GONE as error:
                raise SandboxGone from error

    async def _say(self, status: int, rule: str, message: str) -> bool:
        """Answer for ourselves; the connection is not used again."""
        try:
            with anyio.fail_after(self._outlet.meter.limits.head_s):
                await self._client.send(plain_answer(status, rule, message))
        except GONE as error:
            raise SandboxGone from error
        return False


async def read_raw_head(client: Leg, idle_s: float, head_s: float) -> bytes:
    """Return the next request's head, up to its empty line; empty when there is none.

    Raises:
        Refused: it is too long, or takes too long.
    """
    try:
        if not client.held:
            try:
                await client.peek(idle_s)
            except TimeoutError:
                return b""
        if (end := client.held.find(b"\r\n\r\n")) < 0:
            with anyio.fail_after(head_s):
                end = await _rest_of_head(client)
    except TimeoutError:
        raise Refused("head_time", "the request's head took too long", 408) from None
    except GONE:
        return b""
    if end > MAX_HEAD_BYTES:
        raise Refused("head_too_large", "the request's head is too large", 431)
    raw, client.held = client.held[: end + 4], client.held[end + 4 :]
    return raw


async def _rest_of_head(client: Leg) -> int:
    """Read on to the empty line that ends a head, and return where it begins."""
    while (end := client.held.find(b"\r\n\r\n")) < 0:
        if len(client.held) > MAX_HEAD_BYTES:
            raise Refused("head_too_large", "the request's head is too large", 431)
        await client.peek()
    return end
