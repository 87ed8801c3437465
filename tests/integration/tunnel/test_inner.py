import ssl
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from anyio.streams.tls import TLSAttribute, TLSStream

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import ManualClock
from intramuros.tunnel.certs import KeyPair, make_ca, make_server_certificate
from intramuros.tunnel.inner import HandshakeFailed, ServerIdentity
from tests.unit.tunnel.streams import MemoryBytes, connection

pytestmark = pytest.mark.anyio
CLOCK = ManualClock()
DOMAIN = "t.example"
HOST = f"docs.{DOMAIN}"
NOW = CLOCK.now()
CA = make_ca("test", NOW)


def install(home: Path, pair: KeyPair) -> None:
    (home / "tls.crt").write_bytes(pair.cert_pem)
    (home / "tls.key").write_bytes(pair.key_pem)


def issue() -> KeyPair:
    return make_server_certificate(CA, [f"*.{DOMAIN}"], NOW, timedelta(days=3650))


def identity(home: Path, clock: ManualClock) -> ServerIdentity:
    return ServerIdentity(home / "tls.crt", home / "tls.key", clock, lambda _: None)


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=CA.cert_pem.decode())
    context.check_hostname = False
    context.set_alpn_protocols(["http/1.1"])
    return context


async def handshake(
    server: ServerIdentity, context: ssl.SSLContext, name: str | None = HOST
) -> tuple[TLSStream | Exception, TLSStream | Exception]:
    """Return what each side got: a stream or an error."""
    near, far = connection()
    results: list[TLSStream | Exception] = [RuntimeError(), RuntimeError()]

    async def serve() -> None:
        try:
            results[0] = await server.accept(far, HOST, 2)
        except HandshakeFailed as error:
            results[0] = error
            await far.aclose()

    async def call(stream: MemoryBytes) -> None:
        try:
            results[1] = await TLSStream.wrap(
                stream,
                server_side=False,
                hostname=name,
                ssl_context=context,
                standard_compatible=False,
            )
        except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            results[1] = error
            await stream.aclose()

    async with anyio.create_task_group() as group:
        group.start_soon(serve)
        group.start_soon(call, near)
    return results[0], results[1]


async def test_tls_1_3_with_the_right_name(tmp_path: Path) -> None:
    install(tmp_path, issue())
    server, client = await handshake(identity(tmp_path, CLOCK), client_context())
    assert isinstance(server, TLSStream)
    assert isinstance(client, TLSStream)
    assert client.extra(TLSAttribute.tls_version) == "TLSv1.3"
    await client.send(b"hello")
    assert await server.receive() == b"hello"


async def test_other_names_and_no_name_are_refused(tmp_path: Path) -> None:
    install(tmp_path, issue())
    server = identity(tmp_path, CLOCK)
    for name in ("wiki.t.example", "other.example", None):
        result, _ = await handshake(server, client_context(), name)
        assert isinstance(result, HandshakeFailed)


async def test_t30_older_tls_is_refused(tmp_path: Path) -> None:
    install(tmp_path, issue())
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = await handshake(identity(tmp_path, CLOCK), context)
    assert isinstance(server, HandshakeFailed)
    assert isinstance(client, Exception)


async def test_a_silent_or_vanished_caller_fails(tmp_path: Path) -> None:
    install(tmp_path, issue())
    server = identity(tmp_path, CLOCK)
    near, far = connection()
    with pytest.raises(HandshakeFailed, match="not done"):
        await server.accept(far, HOST, 0.05)
    await near.send_eof()
    with pytest.raises(HandshakeFailed):
        await server.accept(far, HOST, 1)


@pytest.mark.rule("R315")
async def test_t19_new_files_serve_new_connections_and_half_written_ones_do_not(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    install(tmp_path, issue())
    server = identity(tmp_path, clock)
    before = await served_certificate(server)
    fresh = issue()
    (tmp_path / "tls.crt").write_bytes(fresh.cert_pem)
    clock.advance(2)
    # The key does not fit yet, so the old pair goes on.
    assert await served_certificate(server) == before
    (tmp_path / "tls.key").write_bytes(fresh.key_pem)
    clock.advance(0.5)
    assert await served_certificate(server) == before
    clock.advance(2)
    assert await served_certificate(server) == ssl.PEM_cert_to_DER_cert(fresh.cert_pem.decode())
    (tmp_path / "tls.key").unlink()
    clock.advance(2)
    assert await served_certificate(server) != before


async def served_certificate(server: ServerIdentity) -> bytes | None:
    _, client = await handshake(server, client_context())
    assert isinstance(client, TLSStream)
    found: bytes | None = client.extra(TLSAttribute.peer_certificate_binary)
    return found


def test_unusable_files_say_which(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"tls\.crt"):
        identity(tmp_path, CLOCK)
    install(tmp_path, KeyPair(issue().cert_pem, issue().key_pem))
    with pytest.raises(OperatorError, match=r"do not load.*MISMATCH"):
        identity(tmp_path, CLOCK)
