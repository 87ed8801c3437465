"""The proxy outside of the sandboxes: one for the worker, one gate for each sandbox.

A connection is what the sandbox looked up (its name) and where it connected (the port). The port
or its first byte says whether it is TLS; TLS is ended here with a certificate for that very name,
and what is inside must be HTTP/1.1 for the same name. So the name that was looked up, the server
name of TLS and the Host header are one, or nothing is dialled. Everything else is refused, but for
hosts on the operator's pass-through list, whose bytes pass unseen and without secrets.
"""

import ssl
from collections.abc import Coroutine, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Final

import anyio

from intramuros.execution.egress.ca import Authority
from intramuros.execution.egress.exchange import Exchange, Kept, read_raw_head
from intramuros.execution.egress.explicit import read_asked
from intramuros.execution.egress.http1 import Place, Refused, plain_answer
from intramuros.execution.egress.joiner import PROXY_PORT
from intramuros.execution.egress.ledger import Claim, Ledger, Tally
from intramuros.execution.egress.leg import GONE, Leg
from intramuros.execution.egress.limits import EgressLimits, LimitReached, Meter
from intramuros.execution.egress.names import canonical
from intramuros.execution.egress.outlet import Outlet
from intramuros.execution.egress.policy import Policy
from intramuros.execution.egress.replace import Replacer
from intramuros.execution.egress.secrets import HeaderRule, Lease, Secrets
from intramuros.execution.egress.splice import Pair, splice
from intramuros.execution.egress.transfer import SandboxGone
from intramuros.execution.egress.upstream import Dialler, UpstreamFailed
from intramuros.execution.egress.visit import visit
from intramuros.execution.record import Record, RecordFailed
from intramuros.kernel.sni import MAX_HELLO_BYTES, BadClientHello, read_server_name
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock

log = logger("egress")

_HANDSHAKE: Final = 0x16
# As records call it before it is known whom a program wants to reach.
_PROXY: Final = Place("proxy", PROXY_PORT, "http")
# A fatal alert, "unrecognized name" (RFC 6066 3), so that the program inside learns why.
_UNRECOGNIZED: Final = bytes.fromhex("15030300020270")


@dataclass(frozen=True)
class Proxy:
    """What all gates of one worker share."""

    authority: Authority
    dialler: Dialler
    record: Record
    clock: Clock
    limits: EgressLimits = field(default_factory=EgressLimits)

    def gate(self, session_id: str, policy: Policy, secrets: Secrets) -> "SandboxGate":
        """Return the gate of a new sandbox."""
        outlet = Outlet(
            policy,
            secrets,
            Meter(self.limits, self.clock),
            Ledger(self.record, session_id),
            self.dialler,
            self.clock,
        )
        return SandboxGate(outlet, self.authority)


class SandboxGate:
    """Judges and forwards one sandbox's connections; it also knows its names (``Names``)."""

    def __init__(self, outlet: Outlet, authority: Authority) -> None:
        self._outlet = outlet
        self._authority = authority

    def renew(self, policy: Policy, secrets: Secrets) -> None:
        """Go by other rules and other secrets from the next request on (R081)."""
        self._outlet.policy = policy
        self._outlet.secrets = secrets

    def close(self) -> None:
        """Close what rests between two requests; nothing is served any more. Idempotent."""
        self._outlet.pool.close()

    def scrubber(self) -> Replacer | None:
        """Return what takes this session's secrets out of an answer; None when nothing does."""
        return self._outlet.secrets.scrubber()

    def admits(self, name: str) -> bool:
        """Tell whether a name may be looked up."""
        return self._outlet.admits(name)

    def ports(self) -> frozenset[int]:
        """Return the TCP ports that can be connected to."""
        return self._outlet.ports()

    def lend(self, rule: HeaderRule, *, admit: bool = False) -> AbstractContextManager[Lease]:
        """Let one process send a header (see ``secrets.py``), until the end of the block."""
        return self._outlet.lend(rule, admit=admit)

    def stand(self, rules: Sequence[HeaderRule]) -> None:
        """Add these headers, and no others, to requests without a lease from now on."""
        self._outlet.standing = tuple(rules)

    def admitting(self, host: str) -> AbstractContextManager[None]:
        """Open a host until the end of the block, if the worker's own rules allow it."""
        return self._outlet.admitting(host)

    async def visit(self, host: str, target: str, rule: HeaderRule | None = None) -> int | None:
        """Ask a host on the sandbox's behalf; return the status, None if it cannot be reached."""
        return await visit(self._outlet, host, target, rule)

    def registries_only(self) -> AbstractContextManager[None]:
        """Let only package registries through, until the end of the block."""
        return self._outlet.registries_only()

    async def serve(self, client: Leg, name: str, port: int) -> None:
        """Serve one captured connection, and close it; raises nothing but cancellation."""
        place = Place(name, port, "https" if port == 443 else "http")
        await self._guarded(client, place, self._judge(client, place))

    async def serve_proxied(self, client: Leg) -> None:
        """Serve one connection to the sandbox's proxy, and close it; raises like ``serve``."""
        await self._guarded(client, _PROXY, self._proxied(client))

    async def _guarded(
        self, client: Leg, place: Place, serving: Coroutine[object, object, None]
    ) -> None:
        """Run what serves a connection within its limits, and close the connection."""
        name, port = place.name, place.port
        try:
            with closing(serving), self._outlet.meter.connection():
                await self._outlet.meter.turn()
                await serving
            await client.close()
        except LimitReached as error:
            if self._outlet.meter.tells():
                await self._outlet.ledger.refuse(place, error.rule)
        except (SandboxGone, *GONE):
            log.debug("broken_off", host=name, port=port)
            client.reset()
        except Exception:
            log.exception("gate_failed", host=name, port=port)
        finally:
            await client.aclose()

    async def _judge(self, client: Leg, place: Place) -> None:
        verdict = self._outlet.judge(place.name, place.port)
        if not verdict.allowed:
            await self._outlet.ledger.refuse(place, verdict.rule)
            return
        passes = self._outlet.rules.own.pass_through.covers(place.name)
        try:
            secure = await self._is_tls(client, place.port)
            if secure:
                await self._check_server_name(client, place.name)
            place = Place(place.name, place.port, "https" if secure else "http")
            if passes:
                await self._pass(client, place)
            elif secure:
                await self._end_tls(client, place)
            else:
                await self._requests(client, place)
        except Refused as refused:
            await self._outlet.ledger.refuse(place, refused.rule)
            said = _UNRECOGNIZED if refused.rule == "server_name" else b""
            await client.send(said or plain_answer(refused.status, refused.rule, str(refused)))

    async def _is_tls(self, client: Leg, port: int) -> bool:
        """Tell whether the connection begins with TLS, which port 443 must and port 80 must not.

        Raises:
            Refused: it says nothing, or is the one that it must not be.
        """
        with anyio.move_on_after(self._outlet.meter.limits.head_s):
            await client.peek()
        if not client.held:
            raise Refused("silent", "nothing was asked", 408)
        secure = client.held[0] == _HANDSHAKE
        if secure != (port == 443) and port in (80, 443):
            raise Refused("wrong_scheme", "port 443 is for TLS, and port 80 is not")
        return secure

    async def _check_server_name(self, client: Leg, name: str) -> None:
        """Check that TLS asks for the name that was looked up, before answering anything.

        Raises:
            Refused: it asks for another or for none.
        """
        try:
            with anyio.fail_after(self._outlet.meter.limits.head_s):
                while (asked := read_server_name(client.held)) is None:
                    if len(client.held) > 2 * MAX_HELLO_BYTES:
                        raise Refused("server_name", "the ClientHello is too long")
                    await client.peek()
        except BadClientHello as error:
            raise Refused("server_name", str(error)) from error
        except TimeoutError:
            raise Refused("server_name", "the ClientHello took too long") from None
        if canonical(asked) != name:
            raise Refused("server_name", "TLS asks for another name than was looked up")

    async def _end_tls(self, client: Leg, place: Place) -> None:
        context = self._authority.context(place.name)
        try:
            with anyio.fail_after(self._outlet.meter.limits.head_s):
                await client.secure(context)
        except (ssl.SSLError, *GONE) as error:
            # Mostly a program that does not trust the authority: worth knowing, by its name alone.
            log.info("handshake_failed", host=place.name, error=type(error).__name__)
            await self._outlet.ledger.refuse(place, "handshake")
            return
        await self._requests(client, place)

    async def _requests(self, client: Leg, place: Place) -> None:
        """Serve requests until either side is done with the connection."""
        limits = self._outlet.meter.limits
        kept = Kept(self._outlet.pool)
        try:
            while True:
                try:
                    raw = await read_raw_head(client, limits.idle_s, limits.head_s)
                except Refused as refused:
                    await self._outlet.ledger.refuse(place, refused.rule)
                    answer = plain_answer(refused.status, refused.rule, str(refused))
                    await client.send(answer)
                    return
                if not raw:
                    return
                exchange = Exchange(self._outlet, client, place, kept)
                if not await exchange.run(raw):
                    return
        finally:
            kept.give_back(self._outlet.clock.monotonic())

    async def _proxied(self, client: Leg) -> None:
        """Serve a program that asks a proxy: tunnels are judged like connections to their name."""
        limits, kept = self._outlet.meter.limits, Kept(self._outlet.pool)
        place = _PROXY
        try:
            while raw := await read_raw_head(client, limits.idle_s, limits.head_s):
                asked = read_asked(raw)
                place = asked.place
                if asked.tunnel:
                    await self._tunnel(client, place)
                    return
                if self._outlet.rules.own.pass_through.covers(place.name):
                    raise Refused("pass_through", "connect to this host itself", 403)
                if not await Exchange(self._outlet, client, place, kept).run(raw):
                    return
        except Refused as refused:
            await self._outlet.ledger.refuse(place, refused.rule)
            await client.send(plain_answer(refused.status, refused.rule, str(refused)))
        finally:
            kept.give_back(self._outlet.clock.monotonic())

    async def _tunnel(self, client: Leg, place: Place) -> None:
        verdict = self._outlet.judge(place.name, place.port)
        if not verdict.allowed:
            raise Refused(verdict.rule, f"{place.name} may not be reached", 403)
        await client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._judge(client, place)

    async def _pass(self, client: Leg, place: Place) -> None:
        """Copy a connection unseen to where its name says."""
        claim = Claim(place, "pass_through", True)
        try:
            await self._outlet.ledger.ask(claim)
        except RecordFailed:
            return
        tally = Tally()
        started_s = self._outlet.clock.monotonic()
        try:
            internal = self._outlet.rules.own.internal.covers(place.name)
            upstream = await self._outlet.dialler.open(place, internal=internal, tls=False)
            try:
                with anyio.move_on_after(self._outlet.meter.limits.request_s):
                    await splice(Pair(client, upstream), tally, self._outlet.meter)
            finally:
                await upstream.aclose()
        except UpstreamFailed as error:
            tally.ended = error.rule
        finally:
            ms = round((self._outlet.clock.monotonic() - started_s) * 1000)
            self._outlet.ledger.end(claim, tally, ms)
