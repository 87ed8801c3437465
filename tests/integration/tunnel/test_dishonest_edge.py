"""An edge that does not only listen: it opens streams of its own to a gateway that trusts it."""

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSStream
from joserfc import jwt
from joserfc.jwk import OctKey

from intramuros.kernel.timing import SystemClock
from intramuros.kernel.wire import Wire, serve_tls
from intramuros.protocol.dial import LINK_ALPN, encode_reply
from intramuros.protocol.mux import Side
from intramuros.protocol.mux_frames import Open
from intramuros.protocol.tickets import CALL_HEADER, CallTicket, DialTicket, SigningKey
from intramuros.tunnel.link import DEFAULT_KEEPALIVE, Link
from tests.integration.tunnel.middlebox import serving
from tests.integration.tunnel.rig import (
    DOMAIN,
    TUNNEL,
    Rig,
    eventually,
    running_gateway,
    running_upstream,
    signing_key,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio

HOST = f"docs.{DOMAIN}"


class RogueEdge:
    """Takes the gateway's link and calls through it by itself."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._link: Link | None = None
        self.ready = anyio.Event()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([LINK_ALPN])
        context.load_cert_chain(self._rig.home / "edge.crt", self._rig.home / "edge.key")
        await serve_tls(
            self._handle, host="127.0.0.1", port=0, context=context, task_status=task_status
        )

    async def _handle(self, wire: Wire) -> None:
        await wire.read_line(4096)
        await wire.send(encode_reply(None))
        self._link = Link(wire, Side.EDGE, SystemClock(), keepalive=DEFAULT_KEEPALIVE)
        await self._link.run(self.ready.set)

    async def call(self, *headers: str) -> bytes:
        """Ask the gateway for ``/echo`` as a stranger who holds the edge; return its answer."""
        assert self._link is not None
        stream = self._link.open(Open(HOST, 5000, "sesn_of_somebody", "t-1"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Whoever attacks does not care who answers.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        tls = await TLSStream.wrap(
            stream, hostname=HOST, ssl_context=context, standard_compatible=False
        )
        lines = ["GET /echo HTTP/1.1", f"Host: {HOST}", "Connection: close", *headers]
        await tls.send("\r\n".join([*lines, "", ""]).encode())
        said = b""
        try:
            while True:
                said += await tls.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return said


@asynccontextmanager
async def captured(rig: Rig, upstream: Upstream) -> AsyncIterator[RogueEdge]:
    edge = RogueEdge(rig)
    async with running_upstream(upstream.app) as upstream_port, anyio.create_task_group() as group:
        port = await group.start(edge.serve)
        async with running_gateway(rig.config([port], upstream_port)):
            with anyio.fail_after(30):
                await edge.ready.wait()
            yield edge
        group.cancel_scope.cancel()


def packed(**header: str) -> str:
    """Return a header as a JWT begins with it."""
    return base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()


@pytest.fixture
async def fetched() -> AsyncIterator[tuple[str, list[bytes]]]:
    """An address that keys are said to be at, and who asked there."""
    asked: list[bytes] = []

    async def note(stream: anyio.abc.ByteStream) -> None:
        asked.append(await stream.receive(1000))

    async with serving(note) as port:
        yield f"http://127.0.0.1:{port}/keys-of-nobody", asked


async def test_t24_t36_an_edge_cannot_call_a_private_server_by_itself(
    tmp_path: Path, fetched: tuple[str, list[bytes]]
) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    now_s = rig.clock.now().timestamp()

    def proof(host: str = HOST, key: SigningKey = rig.key, at_s: float = now_s) -> str:
        return key.mint_call_ticket(CallTicket(TUNNEL, host, "sesn_1", "t-1"), at_s)

    # An edge sees dial tickets; they must be no good where calls are wanted.
    seen = DialTicket(TUNNEL, DOMAIN, HOST, 1, session="sesn_1", trace="t-1")
    attempts: dict[str, list[str]] = {
        "nothing": [],
        "noise": [f"{CALL_HEADER}: a.b.c"],
        "a ticket it was shown": [f"{CALL_HEADER}: {rig.key.mint_dial_ticket(seen, now_s)}"],
        "another key": [f"{CALL_HEADER}: {proof(key=signing_key())}"],
        "another host": [f"{CALL_HEADER}: {proof(host=f'wiki.{DOMAIN}')}"],
        "an old one": [f"{CALL_HEADER}: {proof(at_s=now_s - 120)}"],
        "one of tomorrow": [f"{CALL_HEADER}: {proof(at_s=now_s + 300)}"],
        "two": [f"{CALL_HEADER}: {proof()}", f"{CALL_HEADER}: {proof()}"],
    }
    # What verifiers were fooled by elsewhere: no algorithm, the public key as a shared secret,
    # claims exchanged under a good signature, and names of keys to be fetched.
    _, body, signature = proof().split(".")
    _, other, _ = proof(host=f"wiki.{DOMAIN}").split(".")
    shared = OctKey.import_key(rig.key.public_pem().decode().replace("\n", "")[26:-24])
    nowhere, where = "AAAA", fetched[0]
    for name, text in {
        "no algorithm": f"{packed(alg='none')}.{body}.",
        "no algorithm, signed": f"{packed(alg='none')}.{body}.{signature}",
        "a shared secret": jwt.encode({"alg": "HS256"}, {"typ": "call", "host": HOST}, shared),
        "other claims": f"{packed(alg='Ed25519')}.{other}.{signature}",
        **{
            f"key {number}": f"{packed(alg='Ed25519', kid=str(number), jku=where)}.{body}.{nowhere}"
            for number in range(20)
        },
    }.items():
        attempts[name] = [f"{CALL_HEADER}: {text}"]
    async with captured(rig, upstream) as edge:
        for name, headers in attempts.items():
            assert (await edge.call(*headers)).startswith(b"HTTP/1.1 403 "), name
        assert upstream.requests == []

        async def recorded() -> bool:
            refused = [r for r in rig.audit("gateway-audit.jsonl") if r["kind"] == "mcp.refused"]
            return len(refused) == len(attempts)

        await eventually(recorded, 30)
        assert not [asked for asked in fetched[1] if b"keys-of-nobody" in asked]
        # What only the control plane can make is let through, and not shown to the upstream. It is
        # good for all requests of its minute by choice, and an edge never has it.
        good = f"{CALL_HEADER}: {proof()}"
        assert b" 200 " in await edge.call(good)
        assert b" 200 " in await edge.call(good)
    assert all(CALL_HEADER not in headers for _, headers, _ in upstream.requests)
    # The record believes the signature, not the edge.
    (asked, _) = [
        r["fields"] for r in rig.audit("gateway-audit.jsonl") if r["kind"] == "mcp.request"
    ]
    assert isinstance(asked, dict)
    assert (asked["session"], asked["trace"]) == ("sesn_1", "t-1")
