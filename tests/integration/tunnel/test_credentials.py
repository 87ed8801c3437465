"""Tokens and certificates that change, or are wrong, while a tunnel works.

Numbers are those of docs/reference/tunnel-tests.toml.
"""

import datetime
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio.streams.tls import TLSAttribute
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog.testing import capture_logs

from intramuros.control.mcp import transport
from intramuros.control.mcp.dial import GatewayCertificateRefused
from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock
from intramuros.protocol.tickets import Fence
from intramuros.tunnel import gateway_app, inner
from intramuros.tunnel.certs import KeyPair, make_ca, make_server_certificate
from intramuros.tunnel.gateway_app import serve_gateway
from tests.integration.tunnel.rig import (
    DOMAIN,
    TUNNEL,
    Rig,
    client_of,
    eventually,
    running_edge,
    running_gateway,
    running_tunnel,
    running_upstream,
    url,
)
from tests.integration.tunnel.upstream_app import Upstream

pytestmark = pytest.mark.anyio
HOST = f"docs.{DOMAIN}"
NOW = SystemClock().now()


async def works(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get(url("/echo"))).status_code == 200
    except httpx2.TransportError:
        return False


def kinds(rig: Rig) -> list[object]:
    return [record["kind"] for record in rig.audit("edge-audit.jsonl")]


async def fence(rig: Rig, port: int, *, sever: bool) -> None:
    """Tell the edge that tokens below the rig's version are no good."""
    statement = Fence(TUNNEL, rig.version, sever=sever)
    signed = rig.key.mint_fence(statement, rig.clock.now().timestamp())
    assert await rig.dialer(port).fence(signed) == []


async def test_t17_rotation_leaves_what_is_open_and_archiving_severs_it(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()
    async with (
        running_upstream(upstream.app) as upstream_port,
        running_edge(rig) as port,
        running_gateway(rig.config([port], upstream_port)),
        client_of(rig, port) as client,
        client.stream("GET", url("/events")) as answer,
    ):
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"data: 0\n\n"
        rig.version = 2
        await fence(rig, port, sever=False)
        # What is open goes on, but the old token opens nothing new.
        upstream.step.set()
        assert await anext(chunks) == b"data: 1\n\n"
        late = replace(rig.config([port], upstream_port), audit_file=tmp_path / "late.jsonl")
        with capture_logs() as logs:
            async with running_gateway(late, links=0):
                await eventually(lambda: said(logs, "stale_token"), 30)
        await fence(rig, port, sever=True)
        # A link that is only thought dead would be given up after 15 s of silence.
        with anyio.fail_after(10), pytest.raises(httpx2.TransportError):
            while True:
                await anext(chunks)
    assert "tunnel.fenced" in kinds(rig)


async def said(logs: Sequence[object], word: str) -> bool:
    return word in str(logs)


@pytest.mark.timeout(60)
async def test_t18_the_ca_is_exchanged_under_load_without_a_lost_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner, "RECHECK_S", 0.05)
    monkeypatch.setattr(transport, "RECHECK_S", 0.2)
    rig, upstream = Rig(tmp_path), Upstream()
    old, new = rig.ca, make_ca("test tunnel", NOW)
    registered = [old]

    async def cas(_host: str) -> list[str]:
        return [ca.cert_pem.decode() for ca in registered]

    rig.cas = cas  # type: ignore[method-assign]  # what is registered changes
    failed: list[object] = []
    done = 0

    async def load(port: int, *, kept: bool) -> None:
        nonlocal done
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(client_of(rig, port))
            while True:
                try:
                    answer = await client.post(url("/echo"), content=b"x")
                    failed.extend([answer] if answer.status_code != 200 else [])
                except httpx2.TransportError as error:
                    failed.append(error)
                done += 1
                if not kept:
                    await client.aclose()
                    client = await stack.enter_async_context(client_of(rig, port))
                await anyio.sleep(0.01)

    async with (
        running_tunnel(rig, upstream.app) as (client, port),
        anyio.create_task_group() as group,
    ):
        for kept in (True, True, False):
            group.start_soon(lambda kept=kept: load(port, kept=kept))

        async def settled() -> None:
            """Wait for some calls on each connection, and on new ones."""
            want = done + 20

            async def some() -> bool:
                return done >= want

            await eventually(some, 30)

        await settled()
        registered.append(new)
        await settled()
        rig.use_certificate(make_server_certificate(new, [f"*.{DOMAIN}"], NOW))
        await settled()
        registered.remove(old)
        await settled()
        assert failed == []
        assert await works(client)
        # The CA that is left goes too: kept connections serve no more, new ones do not come about.
        registered[:] = [old]
        await eventually(lambda: refused(client), 30)

        async def all_fail() -> bool:
            return len(failed) > 3

        await eventually(all_fail, 30)
        group.cancel_scope.cancel()


async def refused(client: httpx2.AsyncClient) -> bool:
    try:
        await client.get(url("/echo"))
    except httpx2.ConnectError as error:
        return isinstance(error.__cause__, GatewayCertificateRefused)
    return False


async def test_t19_a_hundred_streams_outlive_a_new_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner, "RECHECK_S", 0.0)
    rig, upstream = Rig(tmp_path), Upstream()

    async def shown(port: int) -> bytes:
        wire, tls = await rig.dialer(port).open(HOST)
        der: bytes = tls.extra(TLSAttribute.peer_certificate_binary)
        wire.abort()
        return der

    async with running_tunnel(rig, upstream.app) as (_, port), AsyncExitStack() as stack:
        dialer = rig.dialer(port)
        opened = [await dialer.open(HOST) for _ in range(100)]
        before = await shown(port)
        fresh = make_server_certificate(rig.ca, [f"*.{DOMAIN}"], NOW)
        # Half of the pair is there: the old one goes on.
        rig.write("tls.key", fresh.key_pem)
        assert await shown(port) == before
        rig.write("tls.crt", fresh.cert_pem)
        assert await shown(port) == ssl.PEM_cert_to_DER_cert(fresh.cert_pem.decode())
        proof = await rig.vouch(HOST)
        for wire, tls in opened:
            stack.callback(wire.abort)
            head = f"GET /echo HTTP/1.1\r\nHost: {HOST}\r\nIntramuros-Call: {proof}\r\n\r\n"
            await tls.send(head.encode())
        for _, tls in opened:
            with anyio.fail_after(30):
                assert (await tls.receive()).startswith(b"HTTP/1.1 200 ")
    assert len(upstream.requests) == 100


Change = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


def odd(rig: Rig, check: str) -> KeyPair:
    """Return a server certificate that breaks one rule and keeps all others."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = ec.generate_private_key(ec.SECP256R1())
    if check == "key":
        key = rsa.generate_private_key(65537, 1024)
    ca = rig.ca if check != "issuer" else make_ca("stranger", NOW)
    issuer = x509.load_pem_x509_certificate(ca.cert_pem)
    signer = serialization.load_pem_private_key(ca.key_pem, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    day = datetime.timedelta(days=1)
    since, until = {"expired": (-3, -1), "not_yet_valid": (1, 3)}.get(check, (-1, 1))
    names = {"san other": "*.other.tunnel.example", "san apex": DOMAIN, "san two": f"*.x.{DOMAIN}"}
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if check == "eku" else ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + since * day)
        .not_valid_after(NOW + until * day)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(names.get(check, f"*.{DOMAIN}"))]), False
        )
        .add_extension(x509.ExtendedKeyUsage([usage]), False)
    )
    if check != "aki":
        ski = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)
        builder = builder.add_extension(aki, False)
    # SHA-1 cannot even be made with the library any more; SHA-224 breaks the same rule.
    digest = hashes.SHA224() if check == "signature" else hashes.SHA256()
    pem = builder.sign(signer, digest).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return KeyPair(pem, private)


WRONG = ["expired", "not_yet_valid", "san other", "san apex", "san two"]
WRONG += ["issuer", "aki", "signature", "key", "eku"]


@asynccontextmanager
async def showing(
    rig: Rig, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a tunnel whose gateway shows whatever it has, as an attacker's would."""
    rig.use_certificate(pair)
    monkeypatch.setattr(gateway_app, "check_server_certificate", lambda *_: None)
    load = ssl.SSLContext.load_cert_chain

    def weak(context: ssl.SSLContext, *files: object) -> None:
        # OpenSSL refuses to even load a key that is too weak, unless it is told to be lax.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        load(context, *files)  # type: ignore[arg-type]  # the two paths

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", weak)
    async with running_tunnel(rig, Upstream().app) as (client, _):
        yield client


@pytest.mark.parametrize("wrong", WRONG)
async def test_t20_each_wrong_certificate_has_its_own_reason_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    rig, check = Rig(tmp_path), wrong.split()[0]
    pair = odd(rig, wrong)
    if wrong != "issuer":
        # The gateway does not start with it; who signed it only the other side can tell.
        rig.use_certificate(pair)
        with pytest.raises(OperatorError) as caught:
            await serve_gateway(rig.config([1], 1))
        reason = "EE_KEY_TOO_SMALL" if check == "key" else f"check {check!r}"
        assert reason in str(caught.value)
    with capture_logs() as logs:
        async with showing(rig, pair, monkeypatch) as client:
            with pytest.raises(httpx2.ConnectError) as failed:
                await client.get(url("/echo"))
            if check != "signature":
                # OpenSSL takes SHA-224, so there the caller leaves after the handshake.
                await eventually(lambda: said(logs, "inner_handshake_failed"), 30)
    cause = failed.value.__cause__
    assert isinstance(cause, GatewayCertificateRefused)
    assert cause.check == check
    assert f"({check})" in cause.message


async def test_t22_without_a_registered_ca_no_stream_is_asked_for(tmp_path: Path) -> None:
    rig, upstream = Rig(tmp_path), Upstream()

    async def cas(_host: str) -> list[str]:
        return []

    rig.cas = cas  # type: ignore[method-assign]  # what is registered
    async with running_tunnel(rig, upstream.app) as (client, _):
        for _ in range(3):
            assert not await works(client)
    assert {"dial.opened", "dial.refused"}.isdisjoint(map(str, kinds(rig)))
    assert upstream.requests == []
