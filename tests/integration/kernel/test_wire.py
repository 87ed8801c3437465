"""Transcripts over real TLS on loopback: what one end writes, what the other end reads."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.timing import SystemClock
from intramuros.kernel.wire import (
    READ_HIGH,
    WRITE_HIGH,
    ConnectFailed,
    LineTooLong,
    Wire,
    connect_tls,
    serve_tls,
)

pytestmark = pytest.mark.anyio

NAME = "edge.test"
Handler = Callable[[Wire], Awaitable[None]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with a self-signed certificate for NAME and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = SystemClock().now()
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return file


def client_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(["two/1", "one/1"])
    return context


@asynccontextmanager
async def served(certificate: Path, handler: Handler) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["one/1"])
    async with anyio.create_task_group() as group:

        async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> None:
            await serve_tls(
                handler, host="127.0.0.1", port=0, context=context, task_status=task_status
            )

        yield await group.start(serve)
        group.cancel_scope.cancel()


@asynccontextmanager
async def connected(certificate: Path, handler: Handler) -> AsyncIterator[Wire]:
    async with served(certificate, handler) as port:
        wire = await dial(certificate, port)
        try:
            yield wire
        finally:
            await wire.aclose()


async def dial(certificate: Path, port: int, name: str = NAME) -> Wire:
    context = client_context(certificate)
    return await connect_tls("127.0.0.1", port, context, server_name=name, timeout_s=60)


async def drain(wire: Wire) -> bytes:
    received = b""
    try:
        while True:
            received += await wire.receive()
    except anyio.EndOfStream:
        return received


async def test_bytes_and_the_end_arrive(certificate: Path) -> None:
    async def handler(wire: Wire) -> None:
        assert wire.alpn == "one/1"
        await wire.send(b"hello ")
        await wire.send(b"and bye")

    with anyio.fail_after(60):
        async with connected(certificate, handler) as wire:
            assert wire.alpn == "one/1"
            assert wire.peer.startswith("127.0.0.1:")
            assert await drain(wire) == b"hello and bye"
            assert wire.lost
            with pytest.raises(anyio.BrokenResourceError):
                await wire.send(b"too late")


async def test_a_line_is_read_byte_by_byte_and_leaves_the_rest(certificate: Path) -> None:
    async def handler(wire: Wire) -> None:
        for byte in b"DIAL x\nrest":
            await wire.send(bytes([byte]))

    with anyio.fail_after(60):
        async with connected(certificate, handler) as wire:
            assert await wire.read_line(64) == b"DIAL x"
            assert await drain(wire) == b"rest"


@pytest.mark.parametrize("sent", [b"x" * 64, b"x" * 64 + b"\n", b"x" * 5000])
async def test_a_line_is_bounded(certificate: Path, sent: bytes) -> None:
    async def handler(wire: Wire) -> None:
        await wire.send(sent)
        await wire.wait_lost()

    with anyio.fail_after(60):
        async with connected(certificate, handler) as wire:
            with pytest.raises(LineTooLong):
                await wire.read_line(64)


async def test_a_slow_reader_stops_the_sender(certificate: Path) -> None:
    total = 64 * READ_HIGH
    progress = 0

    async def handler(wire: Wire) -> None:
        nonlocal progress
        chunk = b"x" * 65536
        while progress < total:
            await wire.send(chunk)
            progress += len(chunk)

    with anyio.fail_after(60):
        async with connected(certificate, handler) as wire:
            settled = -1
            while settled != progress or progress == 0:
                settled = progress
                await anyio.sleep(0.1)
            assert progress < total, "the sender must wait for the reader"
            assert len(await drain(wire)) == total


async def test_push_gets_what_was_unread_and_then_every_chunk(certificate: Path) -> None:
    go = anyio.Event()

    async def handler(wire: Wire) -> None:
        await wire.send(b"first")
        await go.wait()
        await wire.send(b"second")

    chunks: list[bytes] = []
    ends: list[Exception | None] = []
    with anyio.fail_after(60):
        async with connected(certificate, handler) as wire:
            wire.unread(await wire.receive())
            wire.subscribe(chunks.append, ends.append, lambda: None)
            assert chunks == [b"first"]
            go.set()
            await wire.wait_lost()
    assert (b"".join(chunks), ends) == (b"firstsecond", [None])


async def test_writers_learn_when_they_may_go_on(certificate: Path) -> None:
    read = anyio.Event()

    async def handler(wire: Wire) -> None:
        await read.wait()
        await drain(wire)

    again = anyio.Event()
    with anyio.fail_after(60):
        async with connected(certificate, handler) as wire:
            wire.subscribe(lambda _: None, lambda _: None, again.set)
            for _ in range(1000):
                if not wire.writable:
                    break
                wire.write_now((b"x" * WRITE_HIGH,))
                await anyio.lowlevel.checkpoint()
            assert not wire.writable
            read.set()
            await again.wait()
            assert wire.writable


async def test_a_cut_is_no_clean_end(certificate: Path) -> None:
    async def handler(wire: Wire) -> None:
        await wire.receive()
        wire.abort()

    with anyio.fail_after(60):
        async with connected(certificate, handler) as wire:
            await wire.send(b"x")
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await wire.receive()
            assert wire.lost


async def test_what_fails_while_connecting_is_named(certificate: Path, tmp_path: Path) -> None:
    async def handler(wire: Wire) -> None:
        await wire.wait_lost()

    async with served(certificate, handler) as port:
        with pytest.raises(ConnectFailed) as wrong_name:
            await dial(certificate, port, "other.test")
        with pytest.raises(ConnectFailed) as untrusted:
            await connect_tls(
                "127.0.0.1",
                port,
                ssl.create_default_context(),
                server_name=NAME,
                timeout_s=60,
            )
    with pytest.raises(ConnectFailed) as refused:
        await dial(certificate, port)
    assert wrong_name.value.reason == "certificate"
    assert untrusted.value.reason == "certificate"
    assert refused.value.reason == "refused"


async def test_a_server_that_never_answers_is_given_up(certificate: Path) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(ConnectFailed) as caught:
            await connect_tls(
                "127.0.0.1",
                port,
                client_context(certificate),
                server_name=NAME,
                timeout_s=0.2,
            )
    assert caught.value.reason == "timeout"


async def test_a_taken_port_is_told_to_the_operator(certificate: Path) -> None:
    async def handler(_: Wire) -> None: ...

    async with served(certificate, handler) as port:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with pytest.raises(OperatorError, match=f"cannot listen on 127.0.0.1:{port}"):
            await serve_tls(handler, host="127.0.0.1", port=port, context=context)
