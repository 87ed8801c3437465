"""HTTP/1.1 inside the inner TLS: read a request, record it, send it on, stream the answer back.

The order is the point: the request is read whole (bounded), the intent is on disk, and only then is
the private server dialled. Responses are passed on chunk by chunk, so that server-sent events
arrive as they are sent.
"""

import hashlib
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import anyio
import h11
import httpcore2
from anyio.abc import ByteStream

from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock
from intramuros.tunnel.bound_sessions import Binder
from intramuros.tunnel.callers import CallerCheck, CallerUnknown, CallKey
from intramuros.tunnel.endpoints import EndpointRefused, Origin, origin_of
from intramuros.tunnel.exchange import (
    Exchange,
    Outcome,
    next_event,
    plain_error,
    send_error,
)
from intramuros.tunnel.http_rules import (
    MAX_HEAD_BYTES,
    BadRequest,
    check_head,
    check_request,
    response_headers,
    upstream_headers,
)
from intramuros.tunnel.judge import RESUMES, Judge
from intramuros.tunnel.ledger import AuditUnavailable, Ledger
from intramuros.tunnel.link import LinkStream
from intramuros.tunnel.meters import Meters
from intramuros.tunnel.reach import Lease, Reach
from intramuros.tunnel.routes import Route
from intramuros.tunnel.upstream import UpstreamRefused
from intramuros.tunnel.vitals import gateway_figures

log = logger("gateway")

MIB: Final = 1024 * 1024
CHUNK_BYTES: Final = 64 * 1024
# Bodies up to this size are taken however much is held: streams are counted elsewhere.
SMALL_BODY_BYTES: Final = 64 * 1024
# Of a request's record, what that of its outcome says too.
_TOLD_AGAIN: Final = (
    *("host", "session", "trace", "upstream", "request_sha256", "method", "name"),
    RESUMES,
)
_HELD: Final = ("route", "name", "reason", "sha256")
_UPSTREAM_ERRORS: Final = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
)


@dataclass(frozen=True)
class RelayLimits:
    """Bounds of one connection; times in seconds."""

    max_body_bytes: int = 8 * MIB
    """A request body is held in memory until it is answered; MCP servers take 4 MiB."""
    max_held_bytes: int = 256 * MIB
    """Of all requests at once; beyond it only small bodies are taken."""
    head_s: float = 30.0
    """From the first byte of a request to its end."""
    idle_s: float = 600.0
    """Between requests on a kept connection."""
    connect_s: float = 10.0
    silence_s: float = 1800.0
    """How long an upstream may send nothing; event streams are often silent."""


@dataclass
class IdleConnections:
    """The connections of one link that wait for a request, to be closed first on a drain."""

    draining: bool = False
    scopes: set[anyio.CancelScope] = field(default_factory=set)

    def drain(self) -> None:
        """Close what waits, and keep no connection after its current request."""
        self.draining = True
        for scope in self.scopes:
            scope.cancel()


class Relay:
    """Serves requests that arrive over inner TLS connections."""

    def __init__(
        self,
        reach: Reach,
        ledger: Ledger,
        key: CallKey,
        clock: Clock,
        binder: Binder,
        limits: RelayLimits | None = None,
    ) -> None:
        """Take the parts; ``key`` is the control plane's, which signs for each caller."""
        self.figures = gateway_figures()
        self.judge = Judge(binder, Meters(clock), self._tell_held)
        self._key = key
        self._reach = reach
        self._ledger = ledger
        self._clock = clock
        self._limits = limits or RelayLimits()
        self._held_bytes = 0

    async def serve(
        self, stream: ByteStream, below: LinkStream, host: str, idle: IdleConnections
    ) -> bool:
        """Serve requests until either side is done with the connection.

        Args:
            stream: the decrypted stream.
            below: the stream of the link that carries it; tells when the caller is gone.
            host: the name that the inner TLS was opened for.
            idle: where to register while waiting for a request.

        Returns:
            Whether every request that was read was answered whole, so that the end may be
            announced; what a caller sent meanwhile was not read.
        """
        held = b""
        check = CallerCheck(self._key, self._clock, host)
        while True:
            try:
                head, held = await self._read_head(stream, held, idle)
                if not head:
                    return True
                keep, held = await self._exchange(stream, below, check, head + held)
            except BadRequest as bad:
                log.warning("request_refused", host=host, code=bad.code, reason=str(bad))
                self.figures.count("refused", bad.code)
                if isinstance(bad, CallerUnknown):
                    self._ledger.note("mcp.refused", {"host": host, "reason": str(bad)})
                await stream.send(plain_error(bad))
                return True
            if not keep:
                return False
            if idle.draining:
                return True

    async def _read_head(
        self, stream: ByteStream, held: bytes, idle: IdleConnections
    ) -> tuple[bytes, bytes]:
        """Return the next request's head and what came after it; empty at the connection's end."""
        try:
            if not held:
                with anyio.move_on_after(self._limits.idle_s) as scope:
                    idle.scopes.add(scope)
                    try:
                        if idle.draining:
                            scope.cancel()
                        held = await stream.receive(CHUNK_BYTES)
                    finally:
                        idle.scopes.discard(scope)
                if not held:
                    return b"", b""
            with anyio.fail_after(self._limits.head_s):
                while (end := held.find(b"\r\n\r\n")) < 0:
                    if len(held) > MAX_HEAD_BYTES:
                        raise BadRequest("head_too_large", "the request head is too large", 431)
                    held += await stream.receive(CHUNK_BYTES)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return b"", b""
        except TimeoutError:
            raise BadRequest("request_timeout", "the request head took too long", 408) from None
        head = held[: end + 4]
        if len(head) > MAX_HEAD_BYTES:
            raise BadRequest("head_too_large", "the request head is too large", 431)
        check_head(head)
        return head, held[end + 4 :]

    async def _exchange(
        self, stream: ByteStream, below: LinkStream, check: CallerCheck, read: bytes
    ) -> tuple[bool, bytes]:
        """Serve one request; return whether the connection may be kept, and bytes read ahead."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        http.receive_data(read)
        request = next_event(http)
        if not isinstance(request, h11.Request):
            raise BadRequest("malformed_request", "the request cannot be read")
        headers = list(request.headers)
        check_request(request.method, request.target, headers, check.host)
        exchange = Exchange(stream, http, request, check.check(headers))
        try:
            exchange.body = await self._read_body(exchange)
            await self._answer(exchange, below)
        finally:
            if exchange.leave is not None:
                exchange.leave()
            self._held_bytes -= exchange.held_bytes
        keep = http.our_state is h11.DONE and http.their_state is h11.DONE
        return keep, http.trailing_data[0]

    async def _read_body(self, exchange: Exchange) -> bytes:
        http, body = exchange.http, bytearray()
        if http.they_are_waiting_for_100_continue:
            await exchange.stream.send(
                http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        try:
            with anyio.fail_after(self._limits.head_s):
                while True:
                    event = next_event(http)
                    if event is h11.NEED_DATA:
                        http.receive_data(await exchange.stream.receive(CHUNK_BYTES))
                    elif isinstance(event, h11.Data):
                        body += event.data
                        self._hold(exchange, len(event.data))
                    else:
                        return bytes(body)
        except TimeoutError:
            raise BadRequest("request_timeout", "the body took too long", 408) from None
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            raise BadRequest("malformed_request", "the body ended early") from None

    def _hold(self, exchange: Exchange, size: int) -> None:
        """Count bytes of a body until its request is done; refuse those that are too many."""
        exchange.held_bytes += size
        self._held_bytes += size
        limits, held_bytes = self._limits, exchange.held_bytes
        if held_bytes > limits.max_body_bytes:
            raise BadRequest("body_too_large", f"at most {limits.max_body_bytes} bytes", 413)
        if held_bytes > SMALL_BODY_BYTES and self._held_bytes > limits.max_held_bytes:
            raise BadRequest("overloaded", "too many large requests at once; try again", 503)

    async def _answer(self, exchange: Exchange, below: LinkStream) -> None:
        caller, streams = exchange.caller, exchange.request.method == b"GET"
        with self._reach.lease(caller.host, streams=streams) as lease:
            if lease is not None:
                await self._judge(exchange, below, lease)
                return
        log.warning("no_route", host=caller.host)
        self.figures.count("refused", "no_route")
        await send_error(exchange, 404, "no_route", "no route for this host")

    async def _judge(self, exchange: Exchange, below: LinkStream, lease: Lease) -> None:
        """Record a request that has a route, and forward or refuse it."""
        caller, request, route = exchange.caller, exchange.request, lease.route
        fields = {
            "host": caller.host,
            "session": caller.session,
            "trace": caller.trace,
            "upstream": str(route.upstream),
            "http_method": request.method.decode("ascii"),
            "request_bytes": len(exchange.body),
            "request_sha256": hashlib.sha256(exchange.body).hexdigest(),
        }
        judged = self.judge.judge(exchange, route)
        fields |= judged.fields
        refusal = judged.refusal
        try:
            await self._ledger.append("mcp.request" if refusal is None else "mcp.denied", fields)
        except AuditUnavailable as error:
            self.figures.count("refused", "audit_unavailable")
            log.error("audit_unavailable", host=caller.host, reason=repr(error.__cause__))
            if error.late:
                # The intent may yet be written; then the record must also say what became of it.
                not_sent = Outcome(503, ended="not_sent")
                self._record_outcome(fields, not_sent, self._clock.monotonic())
            # Whoever comes again may find another gateway, which can.
            await send_error(exchange, 503, "audit_unavailable", error.message, last=True)
            return
        if refusal is not None:
            self.figures.count("refused", refusal.reason)
            await refusal.answer(exchange)
            return
        await self._forward(exchange, below, lease, fields)

    async def _forward(
        self, exchange: Exchange, below: LinkStream, lease: Lease, fields: dict[str, object]
    ) -> None:
        """Send the recorded request on; one outcome is recorded whatever happens."""
        outcome = Outcome()
        started_s = self._clock.monotonic()
        try:
            with anyio.CancelScope() as scope:
                below.when_gone(scope.cancel)
                lease.bind(scope)
                await self._pass_on(exchange, lease, outcome)
            if scope.cancelled_caught:
                outcome.ended = "route_gone" if lease.cut else "caller_gone"
        finally:
            below.when_gone(None)
            hidden = exchange.filter.hidden if exchange.filter is not None else 0
            self._record_outcome(fields, outcome, started_s, hidden)

    async def _pass_on(self, exchange: Exchange, lease: Lease, outcome: Outcome) -> None:
        route = lease.route
        try:
            response = await lease.destinations.send(
                self._upstream_request(exchange, route), route, exchange.caller
            )
        except UpstreamRefused as error:
            outcome.ended = "address_refused"
            log.warning("address_refused", route=route.key, reason=str(error))
            text = f"route {route.key!r}: the upstream's address is not allowed"
            await send_error(exchange, 502, "address_refused", text)
            return
        except (
            httpcore2.NetworkError,
            httpcore2.TimeoutException,
            httpcore2.ProtocolError,
        ) as error:
            outcome.ended = "upstream_unreachable"
            log.warning("upstream_unreachable", route=route.key, reason=repr(error))
            text = f"route {route.key!r} does not answer; check that its server runs"
            await send_error(exchange, 502, "upstream_unreachable", text)
            return
        passed = response if exchange.filter is None else exchange.filter.wrap(response)
        if exchange.bound is not None:
            base = exchange.target if exchange.request.method == b"GET" else None
            passed = exchange.bound.response(passed, base, _origins(exchange, route))
        try:
            await _stream_back(exchange, passed, outcome)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    def _upstream_request(self, exchange: Exchange, route: Route) -> httpcore2.Request:
        request, upstream = exchange.request, route.upstream
        named = {name for name, _ in request.headers}
        streams = request.method == b"GET" and b"text/event-stream" in dict(request.headers).get(
            b"accept", b""
        )
        unpacked = exchange.filter is not None or streams
        has_body = bool(named & {b"content-length", b"transfer-encoding"})
        limits = self._limits
        return httpcore2.Request(
            request.method,
            httpcore2.URL(
                scheme=upstream.scheme.encode(),
                host=upstream.host.encode(),
                port=upstream.port,
                target=exchange.target,
            ),
            headers=upstream_headers(
                # What is to be read here must come unpacked.
                [
                    (name, value)
                    for name, value in exchange.headers
                    if not unpacked or name != b"accept-encoding"
                ],
                authority=upstream.authority,
                host=exchange.caller.host,
                body_size=len(exchange.body) if has_body else None,
            ),
            content=exchange.body,
            extensions={
                "timeout": {
                    "connect": limits.connect_s,
                    "pool": limits.connect_s,
                    "write": limits.head_s,
                    "read": limits.silence_s,
                }
            },
        )

    def _tell_held(self, fields: Mapping[str, object]) -> None:
        """Record a tool that is held back, once for each definition of it."""
        log.warning("tool_definition_held", **{key: fields.get(key) for key in _HELD})
        self._ledger.note("mcp.tool_held", fields)

    def _record_outcome(
        self, fields: dict[str, object], outcome: Outcome, started_s: float, hidden: int = 0
    ) -> None:
        done = {name: fields[name] for name in _TOLD_AGAIN if name in fields} | {
            "status": outcome.status,
            "response_bytes": outcome.size,
            "response_sha256": outcome.digest.hexdigest(),
            "ms": round((self._clock.monotonic() - started_s) * 1000),
            "ended": outcome.ended,
        }
        if hidden:
            done["hidden"] = hidden
        log.info("request_done", **done)
        self.figures.count("requests", outcome.ended)
        self.figures.count("response_bytes", outcome.ended, outcome.size)
        took_s = self._clock.monotonic() - started_s
        self.figures.count("request_seconds", outcome.ended, took_s)
        self._ledger.note("mcp.response", done)


def _origins(exchange: Exchange, route: Route) -> list[Origin]:
    """Return what an address may name that a server tells its callers to post to."""
    upstream = route.upstream
    own = origin_of(upstream.scheme, upstream.authority)
    return [origin_of("https", exchange.caller.host), own]


async def _stream_back(exchange: Exchange, response: httpcore2.Response, outcome: Outcome) -> None:
    http, stream = exchange.http, exchange.stream
    outcome.status = response.status
    headers = response_headers(response.headers)
    pending = http.send(h11.Response(status_code=response.status, headers=headers)) or b""
    if not any(name == b"content-length" for name, _ in headers):
        # An event stream may be silent for long; its head must not wait for the first event.
        await stream.send(pending)
        pending = b""
    try:
        async with aclosing(response.aiter_stream()) as chunks:
            async for chunk in chunks:
                outcome.size += len(chunk)
                outcome.digest.update(chunk)
                await stream.send(pending + (http.send(h11.Data(data=chunk)) or b""))
                pending = b""
        last = pending + (http.send(h11.EndOfMessage()) or b"")
        if last:
            await stream.send(last)
        outcome.ended = "complete"
    except _UPSTREAM_ERRORS as error:
        refused = isinstance(error, EndpointRefused)
        outcome.ended = "endpoint_refused" if refused else "upstream_failed"
        log.warning(outcome.ended, host=exchange.caller.host, reason=repr(error))
        http.send_failed()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        outcome.ended = "caller_gone"
        http.send_failed()
