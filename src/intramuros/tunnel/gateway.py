"""The gateway: keep one link to every edge, end the inner TLS of each stream, hand it to the relay.

It listens on nothing, but for questions about its health on loopback if told to. What it may reach
is in its own routes file; an edge can only name a host.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import TaskGroup

from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.kernel.wire import ConnectFailed, LineTooLong, Wire
from intramuros.protocol.dial import (
    MAX_LINE_BYTES,
    BadLine,
    LinkHello,
    encode_link_hello,
    parse_reply,
)
from intramuros.protocol.mux import Side
from intramuros.protocol.mux_frames import Code, Open
from intramuros.tunnel.dialer import CONNECT_S, EdgeAddress, EdgeDialer
from intramuros.tunnel.inner import HandshakeFailed, ServerIdentity, say_goodbye
from intramuros.tunnel.ledger import Ledger
from intramuros.tunnel.link import DEFAULT_KEEPALIVE, Keepalive, Link, LinkStream
from intramuros.tunnel.reach import Reach
from intramuros.tunnel.relay import IdleConnections, Relay
from intramuros.tunnel.vitals import Answer, answering, serve_vitals

log = logger("gateway")

# The inner handshake must be done in this time even if the edge allows more.
MAX_HANDSHAKE_S: Final = 15.0
# Never more than four dials a second; within the first minute of an outage at least every two.
MIN_REDIAL_S: Final = 0.25
QUICK_REDIAL_S: Final = 2.0
QUICK_PHASE_S: Final = 60.0
MAX_REDIAL_S: Final = 30.0
# A token that was refused is tried again when its file changes, or after this time.
REFUSED_REDIAL_S: Final = 20.0
# So often is an edge told that nothing can be recorded here; it remembers that for longer.
TURN_AWAY_S: Final = 5.0
_TOKEN_CODES: Final = frozenset(
    {"bad_signature", "stale_token", "bad_ticket", "bad_request", "no_token"}
)
_NO_ANSWER: Final = (
    TimeoutError,
    BadLine,
    LineTooLong,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
)


@dataclass(frozen=True)
class GatewayParts:
    """What a gateway works with."""

    edges: tuple[EdgeAddress, ...]
    dialer: EdgeDialer
    token_file: Path
    name: str
    identity: ServerIdentity
    reach: Reach
    relay: Relay
    ledger: Ledger
    clock: Clock
    rand: Callable[[], float]
    """A number in [0, 1), for jitter."""
    keepalive: Keepalive = DEFAULT_KEEPALIVE
    health_port: int | None = None
    """Loopback port for /healthz, /readyz and /metrics."""


class LinkFailed(Exception):
    """No link came about; ``code`` is stable and says whose fault it is."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def redial_delay_s(attempt: int, outage_s: float, rand: float) -> float:
    """Return how long to wait before the next dial.

    Args:
        attempt: failed dials in this outage, from 0.
        outage_s: how long the edge has been away.
        rand: in [0, 1).

    Full jitter, never below ``MIN_REDIAL_S``; short outages end within two seconds.
    """
    cap = QUICK_REDIAL_S if outage_s < QUICK_PHASE_S else MAX_REDIAL_S
    ceiling = min(cap, 0.5 * 2.0 ** min(attempt, 16))
    return MIN_REDIAL_S + (max(ceiling, MIN_REDIAL_S) - MIN_REDIAL_S) * rand


class Gateway:
    """Runs the links of one gateway process."""

    def __init__(self, parts: GatewayParts, on_link: Callable[[str], None] | None = None) -> None:
        self._parts = parts
        self._on_link = on_link
        self._links: dict[Link, IdleConnections] = {}

    @property
    def link_count(self) -> int:
        """How many links are up."""
        return len(self._links)

    async def run(self, stop: Stop, drain_s: Callable[[], float]) -> None:
        """Keep the links until a stop; then finish what is open, for ``drain_s`` seconds at most.

        How long that may be is asked when it comes to it.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._parts.ledger.run)
            if self._parts.health_port is not None:
                await group.start(serve_vitals, self._vitals(), self._parts.health_port)
            for edge in self._parts.edges:
                group.start_soon(self._edge_loop, edge, group, stop)
            await stop.wait()
            with anyio.move_on_after(drain_s()):
                await self._drain()
            group.cancel_scope.cancel()

    def _vitals(self) -> Answer:
        figures = self._parts.relay.figures
        figures.gauges["links_now"] = ("Links to edges now", lambda: self.link_count)
        figures.gauges["streams_now"] = (
            "Connections of callers now",
            lambda: sum(link.load for link in self._links),
        )
        return answering(
            figures, lambda: self.link_count > 0, lambda: f'{{"links":{self.link_count}}}'
        )

    async def _drain(self) -> None:
        for link, idle in list(self._links.items()):
            link.go_away(Code.DRAIN)
            idle.drain()
        for link in list(self._links):
            await link.drained()

    async def _edge_loop(self, edge: EdgeAddress, group: TaskGroup, stop: Stop) -> None:
        """Dial one edge for ever; log once per change of state."""
        clock = self._parts.clock
        state, attempt, down_since_s = "", 0, clock.monotonic()
        while not stop.requested:
            stamp = _stamp(self._parts.token_file)
            refused = False
            try:
                reason = await self._edge_once(edge, group)
                # A link came about, so the outage is new and so is the state.
                state, attempt, down_since_s = "", 0, clock.monotonic()
                log.warning("link_lost", edge=str(edge), reason=reason)
            except LinkFailed as failed:
                refused = failed.code in _TOKEN_CODES
                # What an edge answers is its own text, and a label must be one of ours.
                known = refused or failed.code.startswith("edge_")
                outcome = failed.code if known else "refused"
                self._parts.relay.figures.count("links", outcome)
                if failed.code != state:
                    log.error("link_failed", edge=str(edge), code=failed.code, reason=str(failed))
                    state = failed.code
            if refused:
                await self._wait_for_token(stamp)
            else:
                outage_s = clock.monotonic() - down_since_s
                await anyio.sleep(redial_delay_s(attempt, outage_s, self._parts.rand()))
                attempt += 1

    async def _wait_for_token(self, stamp: int) -> None:
        with anyio.move_on_after(REFUSED_REDIAL_S * (0.5 + 0.5 * self._parts.rand())):
            # A file cannot set an event; looking once a second costs one stat call.
            while _stamp(self._parts.token_file) == stamp:  # noqa: ASYNC110
                await anyio.sleep(1.0)

    async def _edge_once(self, edge: EdgeAddress, group: TaskGroup) -> str:
        """Hold one link until it ends; return why it ended.

        Raises:
            LinkFailed: it never came about.
        """
        parts = self._parts
        wire = await self._connect(edge)
        idle = IdleConnections()
        turns = _Turns(parts.clock)

        def accept(stream: LinkStream, request: Open) -> None:
            if not parts.reach.serves(request.host):
                log.warning("foreign_host", host=request.host, edge=str(edge))
                stream.close(Code.NO_ROUTE)
                return
            if parts.ledger.failing and turns.due():
                # The edge takes another gateway if it has one; else the next is told what is wrong.
                stream.close(Code.NO_RECORD)
                return
            group.start_soon(self._serve_stream, stream, request, idle)

        link = Link(
            wire,
            Side.GATEWAY,
            parts.clock,
            on_stream=accept,
            on_going_away=idle.drain,
            keepalive=parts.keepalive,
        )

        def ready() -> None:
            self._links[link] = idle
            parts.relay.figures.count("links", "opened")
            log.info("link_opened", edge=str(edge))
            if self._on_link is not None:
                self._on_link(str(edge))

        try:
            await link.run(ready)
        finally:
            self._links.pop(link, None)
            idle.drain()
        return link.end_reason

    async def _connect(self, edge: EdgeAddress) -> Wire:
        """Connect, show the token and read the answer."""
        parts = self._parts
        token = _read_token(parts.token_file)
        try:
            wire = await parts.dialer.connect(edge)
        except ConnectFailed as error:
            raise LinkFailed(f"edge_{error.reason}", str(error)) from error
        try:
            with anyio.fail_after(CONNECT_S):
                await wire.send(encode_link_hello(LinkHello(token, parts.name)))
                refusal = parse_reply(await wire.read_line(MAX_LINE_BYTES))
        except (
            TimeoutError,
            BadLine,
            LineTooLong,
            anyio.EndOfStream,
            anyio.BrokenResourceError,
        ) as e:
            wire.abort()
            raise LinkFailed("edge_no_answer", f"the edge gave no answer ({e!r})") from e
        if refusal is not None:
            wire.abort()
            raise LinkFailed(refusal.code, refusal.text)
        return wire

    async def _serve_stream(self, stream: LinkStream, request: Open, idle: IdleConnections) -> None:
        """Serve one stream to its end; never raises for what the caller did."""
        parts = self._parts
        code = Code.CANCELLED
        try:
            timeout_s = min(request.deadline_ms / 1000, MAX_HANDSHAKE_S)
            tls = await parts.identity.accept(stream, request.host, timeout_s)
            if await parts.relay.serve(tls, stream, request.host, idle):
                await say_goodbye(tls)
            # FIN before the close, so that what is on its way still arrives.
            await stream.send_eof()
        except HandshakeFailed as error:
            code = Code.REFUSED
            self._note_handshake(request, str(error))
        except ssl.SSLError as error:
            log.warning("inner_tls_broken", host=request.host, reason=error.reason or str(error))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
            log.debug("stream_ended", host=request.host, reason=repr(error))
        except Exception as error:
            log.exception("stream_failed", host=request.host, reason=repr(error))
        finally:
            stream.close(code)

    def _note_handshake(self, request: Open, reason: str) -> None:
        log.warning("inner_handshake_failed", host=request.host, reason=reason)
        self._parts.relay.figures.count("handshakes_failed", "tls")
        # No caller is named: so far only the edge has said who it is.
        fields = {"host": request.host, "reason": reason}
        self._parts.ledger.note("tunnel.handshake_failed", fields)


class _Turns:
    """Tells when to turn somebody away: now and then, for whoever comes again finds no other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_s = clock.monotonic()

    def due(self) -> bool:
        """Tell whether it is time, which counts once."""
        now_s = self._clock.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + TURN_AWAY_S
        return True


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LinkFailed(
            "no_token",
            f"cannot read the token file {path} ({error}); run `intramuros gateway init`",
        ) from error


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
