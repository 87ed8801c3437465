"""Look at each hop of a gateway's way, one after the other, and say which is broken and what to do.

The hops: configuration, token, record, policy, tools, certificate; for each edge name, proxy, TCP,
TLS, WebSocket, clock and the token's acceptance; for each route address, TCP and TLS, or its
program's sandbox, start and first answer. A link that is opened for this is closed again before it
could carry a stream, so a gateway that runs meanwhile is not disturbed.
"""

import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import anyio
import httpcore2

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.forward_proxy import ForwardProxy, connect_through
from intramuros.kernel.timing import Clock
from intramuros.kernel.wire import ConnectFailed, LineTooLong, Wire, connect_tls
from intramuros.protocol.dial import (
    MAX_LINE_BYTES,
    BadLine,
    LinkHello,
    encode_link_hello,
    parse_reply,
)
from intramuros.protocol.tickets import LEEWAY_S, TicketError
from intramuros.tunnel.certs import BadCertificate, check_issued_by, expires_at
from intramuros.tunnel.config import GatewayConfig
from intramuros.tunnel.confine import check, find_bwrap, launch
from intramuros.tunnel.control_keys import load_control_keys, read_by
from intramuros.tunnel.definitions import Definitions
from intramuros.tunnel.dialer import CONNECT_S, EdgeAddress, EdgeDialer, Transport, Trust
from intramuros.tunnel.gateway_app import check_certificate, proxies, trusts, upstream_context
from intramuros.tunnel.guard import Guard
from intramuros.tunnel.inner import ServerIdentity
from intramuros.tunnel.introduction import introduced
from intramuros.tunnel.programs import Program
from intramuros.tunnel.routes import Upstream
from intramuros.tunnel.upstream import PinnedBackend, UpstreamRefused

# A certificate that ends sooner is worth a word.
SOON: Final = timedelta(days=14)
LEAST_FREE_BYTES: Final = 64 * 1024 * 1024
NAME: Final = "doctor"
# Some programs fetch or compile things when they start.
PROGRAM_S: Final = 30.0
_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, LineTooLong, BadLine, TimeoutError)

# What a failed connection's reason means: the hop that is broken, and what to do.
_HOPS: Final = {
    "resolve": ("name", "correct the edge's name, or the resolver of this machine"),
    "refused": ("TCP", "start the edge, or correct its port"),
    "timeout": ("TCP", "let this machine out to the edge's port, or name a proxy in edge_proxy"),
    "network": ("TCP", "check this machine's routes and its firewall"),
    "certificate": ("TLS", "set edge_ca_file to the CA of the edge's certificate"),
    "tls": ("TLS", "something on the way opens TLS: set edge_transport to auto or websocket"),
    "reset": ("TLS", "something on the way cuts TLS: set edge_transport to auto or websocket"),
    "protocol": ("TLS", "what answers is no edge: correct host and port"),
    "websocket": ("WebSocket", "let WebSocket upgrades pass, or set edge_transport to direct"),
    "proxy_credentials": ("proxy", "put user:password into edge_proxy_credentials_file"),
    "proxy_refused": ("proxy", "ask for CONNECT to the edge's port; many proxies let only 443"),
}
# What an edge answers to a token.
_TOKENS: Final = {
    "stale_token": "run `intramuros gateway init` again to fetch the new token",
    "bad_signature": "the edge and the token are of different control planes: correct one of them",
    "too_many_links": "stop gateways of this tunnel that nobody needs",
    "too_many_connections": "the edge is full: raise its limit or add an edge",
    "draining": "the edge is stopping: try again, or name another edge",
    "audit_unavailable": "free the edge's disk",
}


class Level(StrEnum):
    """How a hop was found."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One hop. ``fix`` is empty only when the level is ok."""

    hop: str
    level: Level
    what: str
    fix: str = ""


async def examine(config: GatewayConfig, directory: Path, clock: Clock) -> AsyncIterator[Finding]:
    """Yield what was found, hop by hop; a failure keeps nothing after it from being looked at.

    Args:
        config: the gateway's, already read: the first hop.
        directory: of the configuration file, where ``init`` leaves the CA.
        clock: ours.
    """
    yield _ok("configuration", f"{len(config.routes.routes)} routes, {len(config.edges)} edges")
    for look in (_token, _record, _policy, _tools):
        yield look(config)
    for finding in _certificate(config, directory, clock):
        yield finding
    try:
        way = _Way(config, trusts(config), proxies(config), clock)
    except OperatorError as error:
        yield Finding("configuration", Level.FAILURE, error.problem, error.fix)
    else:
        for edge in config.edges:
            async for finding in way.to(edge):
                yield finding
    async for finding in _upstreams(config):
        yield finding


def _ok(hop: str, what: str) -> Finding:
    return Finding(hop, Level.OK, what)


def _token(config: GatewayConfig) -> Finding:
    again = "run `intramuros gateway init` again"
    try:
        text = config.token_file.read_text(encoding="ascii").strip()
        keys = load_control_keys(config.control_key_file)
        token, _ = read_by(keys, lambda key: key.read_tunnel_token(text))
    except OperatorError as error:
        return Finding("token", Level.FAILURE, error.problem, error.fix)
    except (OSError, UnicodeDecodeError) as error:
        return Finding("token", Level.FAILURE, f"{config.token_file} is unreadable: {error}", again)
    except TicketError as error:
        return Finding("token", Level.FAILURE, f"{config.token_file}: {error}", again)
    if config.routes.tunnel_domain not in ("", token.domain):
        what = f"the token is for {token.domain}, tunnel_domain is {config.routes.tunnel_domain}"
        return Finding("token", Level.FAILURE, what, "correct tunnel_domain, or fetch the token")
    return _ok("token", f"{token.tunnel}, version {token.version}")


def _record(config: GatewayConfig) -> Finding:
    place = config.audit_file.parent
    while not place.exists():
        place = place.parent
    target = config.audit_file if config.audit_file.exists() else place
    if not os.access(target, os.W_OK) or not place.is_dir():
        fix = "let the gateway's user write there, or name another audit_file"
        return Finding("record", Level.FAILURE, f"{target} is not writable", fix)
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    what = f"{free // 1024**2} MiB free for {config.audit_file}"
    if free < LEAST_FREE_BYTES:
        fix = "free the disk: without a record no call is passed on"
        return Finding("record", Level.FAILURE, what, fix)
    return _ok("record", what)


def _policy(config: GatewayConfig) -> Finding:
    if config.policy_file is None:
        return _ok("policy", "none: all that the control plane vouches for is passed on")
    try:
        Guard(config.policy_file)
    except OperatorError as error:
        return Finding("policy", Level.FAILURE, error.problem, error.fix)
    return _ok("policy", f"{config.policy_file} is read")


def _tools(config: GatewayConfig) -> Finding:
    if config.tools_file is None:
        return _ok("tools", "none are approved by definition: all are passed on")
    try:
        Definitions(config.tools_file)
    except OperatorError as error:
        return Finding("tools", Level.FAILURE, error.problem, error.fix)
    return _ok("tools", f"{config.tools_file} is read")


def _certificate(config: GatewayConfig, directory: Path, clock: Clock) -> list[Finding]:
    def check(pem: bytes) -> None:
        check_certificate(pem, config, clock)

    try:
        ServerIdentity(config.cert_file, config.key_file, clock, check)
    except OperatorError as error:
        return [Finding("certificate", Level.FAILURE, error.problem, error.fix)]
    pem, ca_file = config.cert_file.read_bytes(), directory / "ca.crt"
    renew = "run `intramuros gateway renew`"
    if ca_file.is_file():
        try:
            check_issued_by(ssl.PEM_cert_to_DER_cert(_first(pem)), [ca_file.read_bytes()])
        except (BadCertificate, ValueError) as error:
            what = f"{config.cert_file} does not fit {ca_file}: {error}"
            return [Finding("certificate", Level.FAILURE, what, renew)]
    left = expires_at(pem) - clock.now()
    what = f"good for {left.days} more days"
    if left < SOON:
        return [Finding("certificate", Level.WARNING, what, renew)]
    return [_ok("certificate", what)]


def _first(pem: bytes) -> str:
    text = pem.decode("ascii", "replace")
    end = "-----END CERTIFICATE-----"
    return text[: text.find(end) + len(end)]


@dataclass(frozen=True)
class _Way:
    """The way to the edges."""

    config: GatewayConfig
    trust: Trust
    proxy_for: Callable[[str], ForwardProxy | None]
    clock: Clock

    async def to(self, edge: EdgeAddress) -> AsyncIterator[Finding]:
        """Yield what is found on the way to one edge."""
        proxy, chosen = self.proxy_for(edge.host), self.config.edge_transport
        wire, direct = None, None
        if chosen is not Transport.WEBSOCKET:
            wire, direct = await self._try(edge, Transport.DIRECT)
            if direct is not None and (chosen is Transport.DIRECT or not _boxed(direct)):
                yield self._failure(edge, direct)
                return
        by_websocket, wrapped = await self._try(edge, Transport.WEBSOCKET)
        if wire is None and wrapped is not None:
            yield self._failure(edge, direct or wrapped)
            return
        through = f" through the proxy {proxy}" if proxy else ""
        yield _ok(f"{edge} name, TCP, TLS", f"reached{through}")
        if direct is not None:
            what = "something on the way opens TLS; what is said inside stays hidden from it"
            yield Finding(f"{edge} TLS", Level.WARNING, what, "nothing, if you know what it is")
        yield self._websocket(edge, wrapped)
        if wire is None:
            wire, by_websocket = by_websocket, None
        if by_websocket is not None:
            by_websocket.abort()
        assert wire is not None
        yield await self._clock(edge, proxy)
        yield await self._accepted(edge, wire)

    async def _try(
        self, edge: EdgeAddress, transport: Transport
    ) -> tuple[Wire | None, ConnectFailed | None]:
        try:
            return await EdgeDialer(self.trust, transport, self.proxy_for).connect(edge), None
        except ConnectFailed as error:
            return None, error

    def _failure(self, edge: EdgeAddress, error: ConnectFailed) -> Finding:
        usual = ("proxy", "correct edge_proxy, or start the proxy")
        hop, fix = _HOPS.get(error.reason, usual)
        return Finding(f"{edge} {hop}", Level.FAILURE, str(error), fix)

    def _websocket(self, edge: EdgeAddress, failed: ConnectFailed | None) -> Finding:
        if failed is None:
            return _ok(f"{edge} WebSocket", "passes")
        what = f"does not pass ({failed}); frames of our own do"
        return Finding(f"{edge} WebSocket", Level.WARNING, what, "nothing, while those pass")

    async def _clock(self, edge: EdgeAddress, proxy: ForwardProxy | None) -> Finding:
        """Compare our clock with the edge's, which it tells to anyone who asks in HTTP."""
        hop = f"{edge} clock"
        try:
            there = await self._date(edge, proxy)
        except (ConnectFailed, ValueError, *_GONE):
            return Finding(hop, Level.WARNING, "the edge tells no time", "check both clocks")
        off_s = round((self.clock.now() - there).total_seconds())
        if abs(off_s) > LEEWAY_S:
            word = "ahead of" if off_s > 0 else "behind"
            what = f"this clock is {abs(off_s)} s {word} the edge's: calls will be refused"
            return Finding(hop, Level.FAILURE, what, "set both clocks by NTP")
        return _ok(hop, f"{abs(off_s)} s apart")

    async def _date(self, edge: EdgeAddress, proxy: ForwardProxy | None) -> datetime:
        context, host, port = self.trust.websocket, edge.host, edge.port
        if proxy is None:
            wire = await connect_tls(host, port, context, server_name=host, timeout_s=CONNECT_S)
        else:
            wire = await connect_through(
                proxy, host, port, context, proxy_context=self.trust.proxy, timeout_s=CONNECT_S
            )
        try:
            with anyio.fail_after(CONNECT_S):
                await wire.send(b"GET /clock HTTP/1.1\r\nHost: edge\r\n\r\n")
                while line := (await wire.read_line(MAX_LINE_BYTES)).strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    if name.lower() == "date":
                        return parsedate_to_datetime(value.strip()).astimezone(UTC)
        finally:
            wire.abort()
        raise ValueError("no date")

    async def _accepted(self, edge: EdgeAddress, wire: Wire) -> Finding:
        hop = f"{edge} token"
        try:
            token = self.config.token_file.read_text(encoding="ascii").strip()
            with anyio.fail_after(CONNECT_S):
                await wire.send(encode_link_hello(LinkHello(token, NAME)))
                refusal = parse_reply(await wire.read_line(MAX_LINE_BYTES))
        except (OSError, ValueError, *_GONE):
            what = "the edge gave no answer to the token"
            return Finding(hop, Level.FAILURE, what, "correct the token first, then the edge")
        finally:
            wire.abort()
        if refusal is None:
            return _ok(hop, "accepted")
        fix = _TOKENS.get(refusal.code, "run `intramuros gateway init` again")
        return Finding(hop, Level.FAILURE, f"refused ({refusal.code}): {refusal.text}", fix)


def _boxed(error: ConnectFailed) -> bool:
    return error.reason in ("tls", "reset", "protocol")


async def _upstreams(config: GatewayConfig) -> AsyncIterator[Finding]:
    try:
        context = upstream_context(config.upstream_tls)
    except OperatorError as error:
        yield Finding("configuration", Level.FAILURE, error.problem, error.fix)
        return
    backend = PinnedBackend(config.addresses)
    for key, upstream in sorted(config.routes.routes.items()):
        hop = f"route {key}"
        if isinstance(upstream, Upstream):
            yield await _upstream(hop, upstream, backend, context)
        else:
            yield await _program(hop, upstream)


async def _program(hop: str, program: Program) -> Finding:
    """Start a route's program as the gateway would, and open a session with it."""
    try:
        bwrap = find_bwrap() if program.confined else ""
        await anyio.to_thread.run_sync(check, program, bwrap)
        launched = launch(program, bwrap)
        answer, said = await introduced(launched, PROGRAM_S)
    except OperatorError as error:
        return Finding(hop, Level.FAILURE, error.problem, error.fix)
    except OSError as error:
        fix = "correct the route's command"
        return Finding(hop, Level.FAILURE, f"{program} does not start ({error})", fix)
    if answer is None:
        words = f"; it said: {said}" if said else ""
        fix = "run it by hand: it must speak MCP over its input and output"
        return Finding(hop, Level.FAILURE, f"{program} opens no session{words}", fix)
    return _ok(hop, f"{program} answers as {answer}")


async def _upstream(
    hop: str, upstream: Upstream, backend: PinnedBackend, context: ssl.SSLContext
) -> Finding:
    try:
        stream = await backend.connect_tcp(upstream.host, upstream.port, CONNECT_S)
    except UpstreamRefused as error:
        fix = "list the address in upstream.allowed_ips, if it is meant"
        return Finding(hop, Level.FAILURE, str(error), fix)
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
        what = f"{upstream} does not answer ({error or 'too late'})"
        return Finding(hop, Level.FAILURE, what, "start the server, or correct the route")
    try:
        if upstream.scheme == "https":
            stream = await stream.start_tls(context, upstream.host, CONNECT_S)
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout, ssl.SSLError) as error:
        what = f"{upstream} answers, but not in TLS that we believe ({error})"
        fix = "set upstream.tls.ca_file, or correct the server's certificate"
        return Finding(hop, Level.FAILURE, what, fix)
    finally:
        await stream.aclose()
    return _ok(hop, f"{upstream} answers")
