"""The edge: accept gateways and dials, check what they show, pair them, copy ciphertext.

Stateless: it holds the control plane's public key and the links that are open now. What control
signed is believed; nothing else is.
"""

import hmac
from dataclasses import dataclass
from typing import Final

import anyio

from intramuros.kernel.sni import MAX_HELLO_BYTES, BadClientHello, read_server_name
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.kernel.wire import LineTooLong, Wire
from intramuros.protocol.dial import (
    DIAL_ALPN,
    LINK_ALPN,
    MAX_LINE_BYTES,
    BadLine,
    FenceCall,
    Refusal,
    connection_name,
    encode_reply,
    parse_call,
    parse_link_hello,
)
from intramuros.protocol.mux import LinkFull, Side
from intramuros.protocol.mux_frames import Code, Open
from intramuros.protocol.tickets import DialTicket, TicketError
from intramuros.tunnel import websocket
from intramuros.tunnel.control_keys import RECHECK_S, ControlKeys
from intramuros.tunnel.ledger import AuditUnavailable, Ledger
from intramuros.tunnel.link import DEFAULT_KEEPALIVE, Keepalive, Link, LinkStream
from intramuros.tunnel.linktable import (
    MAX_STREAMS_PER_TUNNEL,
    Entry,
    LinkTable,
    Refused,
)
from intramuros.tunnel.pace import Account, Pace
from intramuros.tunnel.recorder import Recorder
from intramuros.tunnel.splice import splice
from intramuros.tunnel.vitals import edge_figures

log = logger("edge")

# From connect to the first line, and from OK to the whole ClientHello.
PREAMBLE_S: Final = 10.0
# What the gateway gets for the inner handshake.
OPEN_DEADLINE_MS: Final = 10_000
# So long does another gateway serve in place of one that could not record what it was asked.
SPARED_S: Final = 10.0
# Who finds no place is told so, this many at a time and for this long each.
MAX_TURNED_AWAY: Final = 16
TURN_AWAY_S: Final = 1.0


@dataclass(frozen=True)
class EdgeParts:
    """What an edge works with."""

    keys: ControlKeys
    ledger: Ledger
    clock: Clock
    recorder: Recorder | None = None
    keepalive: Keepalive = DEFAULT_KEEPALIVE
    max_connections: int = 20_000
    pace: Pace | None = None
    """Limits of each tunnel; by default only the number of its dials."""


class Edge:
    """Handles connections; ``handle`` is given each of them."""

    def __init__(self, parts: EdgeParts, table: LinkTable | None = None) -> None:
        self._parts = parts
        self.table = table or LinkTable()
        self._links: set[Link] = set()
        self._connections = 0
        self._turned_away = 0
        self._pace = parts.pace or Pace(parts.clock, MAX_STREAMS_PER_TUNNEL)
        self.figures = edge_figures()
        self._draining = False

    @property
    def connections(self) -> int:
        """How many connections are open, links and dials."""
        return self._connections

    @property
    def dials(self) -> int:
        """How many dials are under way."""
        return self._pace.dials

    async def handle(self, wire: Wire) -> None:
        """Serve one connection until it ends; never raises for what the peer did."""
        if self._connections >= self._parts.max_connections or self._draining:
            await self._turn_away(wire)
            return
        self._connections += 1
        try:
            if wire.alpn == LINK_ALPN:
                await self._handle_link(wire)
            elif wire.alpn == DIAL_ALPN:
                await self._handle_call(wire)
            else:
                await self._handle_websocket(wire)
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            log.debug("connection_ended", peer=wire.peer, reason=repr(error))
        except Exception as error:
            log.exception("connection_failed", peer=wire.peer, reason=repr(error))
        finally:
            self._connections -= 1

    async def _turn_away(self, wire: Wire) -> None:
        """Say why nothing more is taken, to a bounded number of callers; cut the others."""
        code = "draining" if self._draining else "too_many_connections"
        log.warning("connection_refused", peer=wire.peer, reason=code)
        self.figures.count("turned_away", code)
        if self._turned_away >= MAX_TURNED_AWAY or wire.alpn not in (LINK_ALPN, DIAL_ALPN):
            wire.abort()
            return
        self._turned_away += 1
        try:
            with anyio.move_on_after(TURN_AWAY_S):
                await wire.read_line(MAX_LINE_BYTES)
                await wire.send(encode_reply(Refusal(code, "this edge takes no more")))
        except (LineTooLong, anyio.EndOfStream, anyio.BrokenResourceError):
            wire.abort()
        finally:
            self._turned_away -= 1

    async def keep_pace(self, account: Account, size: int) -> None:
        """Wait while a tunnel is over its rate."""
        await self._pace.passed(account, size)

    async def drain(self) -> None:
        """Take nothing new, ask the gateways to go elsewhere, and return when all streams ended."""
        self._draining = True
        for link in list(self._links):
            link.go_away(Code.DRAIN)
        for link in list(self._links):
            await link.drained()

    async def keep_to_keys(self) -> None:
        """Cut off who shows what no key of the control plane's proves any more, until cancelled."""
        while True:
            await anyio.sleep(RECHECK_S)
            keys = self._parts.keys.fingerprints
            if cut := self.table.keep_to(keys):
                log.warning("links_cut", links=cut, reason="control_key", keys=sorted(keys))
                self._parts.ledger.note("links.cut", {"links": cut, "keys": sorted(keys)})

    # Gateways

    async def _handle_link(self, wire: Wire) -> None:
        entry = await self._admit(wire)
        if entry is None:
            return
        link = entry.link
        assert isinstance(link, Link)
        fields = {
            "tunnel": entry.token.tunnel,
            "version": entry.token.version,
            "gateway": entry.gateway,
            "peer": wire.peer,
        }
        started_s = self._parts.clock.monotonic()

        def ready() -> None:
            self.table.add(entry)
            self.figures.count("links", "opened")
            log.info("link_opened", **fields)

        self._links.add(link)
        try:
            await link.run(ready)
        finally:
            self._links.discard(link)
            self.table.remove(entry)
            ms = round((self._parts.clock.monotonic() - started_s) * 1000)
            log.info("link_closed", reason=link.end_reason, ms=ms, **fields)
            closed = {**fields, "reason": link.end_reason, "ms": ms}
            self._parts.ledger.note("link.closed", closed)

    async def _handle_websocket(self, outer: Wire) -> None:
        """Serve a gateway that cannot say what it speaks while TLS begins."""
        try:
            with anyio.fail_after(PREAMBLE_S):
                wire = await websocket.accept(outer)
        except (TimeoutError, websocket.UpgradeFailed) as error:
            log.info("connection_refused", peer=outer.peer, reason=str(error) or "no request")
            return
        try:
            await self._handle_link(wire)
        finally:
            await wire.aclose()

    async def _admit(self, wire: Wire) -> Entry | None:
        """Check a gateway's first line; return its entry, or None when it was refused."""
        try:
            hello = parse_link_hello(await _first_line(wire))
            token, key = self._parts.keys.read_tunnel_token(hello.token)
            self.table.admit(token)
            fields = {"tunnel": token.tunnel, "version": token.version, "gateway": hello.gateway}
            await self._parts.ledger.append("link.opened", {**fields, "peer": wire.peer})
        except (BadLine, TicketError, Refused, AuditUnavailable) as error:
            await self._refuse(wire, "link", error)
            return None
        await wire.send(encode_reply(None))
        link = Link(wire, Side.EDGE, self._parts.clock, keepalive=self._parts.keepalive)
        return Entry(token, hello.gateway, link, key)

    # Control

    async def _handle_call(self, wire: Wire) -> None:
        ticket: DialTicket | None = None
        try:
            call = parse_call(await _first_line(wire))
            now_s = self._parts.clock.now().timestamp()
            if isinstance(call, FenceCall):
                await self._fence(wire, call, now_s)
                return
            ticket = self._parts.keys.read_dial_ticket(call.ticket, now_s)
            _check_connection(wire, ticket)
            entry = self.table.pick(ticket, self._parts.clock.monotonic())
            with self._pace.dial(ticket.tunnel) as account:
                await wire.send(encode_reply(None))
                first = await _client_hello(wire, ticket.host)
                await self._relay(wire, ticket, entry, _Meter(self, account), first)
        except (BadLine, TicketError, Refused, BadClientHello) as error:
            await self._refuse(wire, "dial", error, ticket)

    async def _fence(self, wire: Wire, call: FenceCall, now_s: float) -> None:
        fence = self._parts.keys.read_fence(call.statement, now_s)
        fields = {"tunnel": fence.tunnel, "version": fence.version, "sever": fence.sever}
        # Cutting access off happens even when the disk is full: refusing would fail open.
        self._parts.ledger.note("tunnel.fenced", fields)
        cut = self.table.apply(fence)
        log.info("tunnel_fenced", links_cut=cut, **fields)
        await wire.send(encode_reply(None))

    async def _relay(
        self, wire: Wire, ticket: DialTicket, entry: Entry, meter: "_Meter", first: bytes
    ) -> None:
        fields = _who(ticket) | {"gateway": entry.gateway, "peer": wire.peer}
        if not ticket.connection:
            fields["bound"] = False
        started_s = self._parts.clock.monotonic()
        try:
            await self._parts.ledger.append("dial.opened", fields)
            stream = self._open(ticket, entry)
        except (AuditUnavailable, LinkFull) as error:
            log.warning("dial_failed", reason=str(error), **fields)
            self.figures.count("dials", "failed")
            return
        self.figures.count("dials", "opened")
        recorder = self._parts.recorder
        recording = recorder.start(ticket.tunnel) if recorder else None
        try:
            tally = await splice(wire, stream, first, recording, meter.passed)
            if tally.reset == Code.NO_RECORD and not tally.down_bytes:
                entry.spared_until_s = self._parts.clock.monotonic() + SPARED_S
            wire_fields = {
                "up_bytes": tally.up_bytes,
                "down_bytes": tally.down_bytes,
                "ms": round((self._parts.clock.monotonic() - started_s) * 1000),
                "ended": tally.ended,
            }
            log.info("dial_closed", **fields, **wire_fields)
            self._parts.ledger.note("dial.closed", fields | wire_fields)
        finally:
            await stream.aclose()
            if recording is not None:
                recording.close()

    def _open(self, ticket: DialTicket, entry: Entry) -> LinkStream:
        link = entry.link
        assert isinstance(link, Link)
        return link.open(Open(ticket.host, OPEN_DEADLINE_MS, ticket.trace, ticket.session))

    async def _refuse(
        self, wire: Wire, what: str, error: Exception, ticket: DialTicket | None = None
    ) -> None:
        code = getattr(error, "code", None) or "bad_request"
        if isinstance(error, AuditUnavailable):
            code = "audit_unavailable"
        fields = {"code": code, "reason": str(error), "peer": wire.peer}
        if ticket is not None:
            fields |= _who(ticket)
        log.warning("refused", what=what, **fields)
        self.figures.count(f"{what}s", code)
        self._parts.ledger.note(f"{what}.refused", fields)
        # After OK the caller expects TLS; a line of text would only confuse it.
        if not isinstance(error, BadClientHello):
            await wire.send(encode_reply(Refusal(code, str(error))))


@dataclass(frozen=True, slots=True)
class _Meter:
    """Counts what one dial moves, and holds it to its tunnel's pace."""

    edge: Edge
    account: Account

    async def passed(self, direction: str, size: int) -> None:
        self.edge.figures.count("relayed_bytes", direction, size)
        await self.edge.keep_pace(self.account, size)


def _check_connection(wire: Wire, ticket: DialTicket) -> None:
    """See that a ticket is shown on its own connection, unless it has none.

    Control planes of the previous release made tickets without one. Nobody can take the name out of
    a ticket, and no newer control plane makes one without it: so there is nothing to talk down.

    Raises:
        TicketError: it was made for another connection, and so captured there.
    """
    if not ticket.connection:
        return
    if not hmac.compare_digest(ticket.connection, connection_name(wire.finished)):
        raise TicketError(
            "other_connection",
            "the ticket was made for another connection: somebody between ends TLS, or replays it",
        )


async def _first_line(wire: Wire) -> bytes:
    try:
        with anyio.fail_after(PREAMBLE_S):
            return await wire.read_line(MAX_LINE_BYTES)
    except (LineTooLong, TimeoutError) as error:
        raise BadLine(str(error) or "no first line in time") from error


async def _client_hello(wire: Wire, host: str) -> bytes:
    """Return the caller's first bytes, once they name the host that the ticket is for."""
    data = b""
    try:
        with anyio.fail_after(PREAMBLE_S):
            while (name := read_server_name(data)) is None:
                data += await wire.receive(MAX_HELLO_BYTES)
    except TimeoutError as error:
        raise BadClientHello("no ClientHello in time") from error
    if name != host:
        raise BadClientHello("the ClientHello names another host than the ticket")
    return data


def _who(ticket: DialTicket) -> dict[str, object]:
    return {
        "tunnel": ticket.tunnel,
        "host": ticket.host,
        "session": ticket.session,
        "trace": ticket.trace,
    }
